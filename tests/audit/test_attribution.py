"""Attribution to every training sample equals finite differences of the step in the samples' weights."""

import pytest
import torch

from krepes import BYOL, Auditor, BarlowTwins, Newton, SimCLR, SpectralContrastive, VICReg
from krepes.audit.asked import attributed, features_of_views
from krepes.audit.places import Place
from krepes.encoders import MLP
from krepes.errors import ConfigError, NonFiniteError
from krepes.objectives import Moments
from krepes.solver import solve

EPS = 1e-5
MOMENT = [BarlowTwins(weight=0.05), VICReg(), VICReg(variance=1.0, halve_hinge=False), SpectralContrastive()]


def noisy(batch, generator):
    return batch + 0.3 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def samples(n: int = 60) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def fitted(objective, **newton) -> tuple[Auditor, torch.Tensor]:
    torch.manual_seed(0)
    settings = {"ridge": "coefficients", "damping": 0.3, "tol": 1e-12, "max_iter": 3000} | newton
    x = samples()
    auditor = Auditor(
        MLP(5, (8,), 4).eval(), objective, landmarks=14, n_components=3, newton=Newton(**settings), dtype=torch.float64
    )
    return auditor.fit(x, noisy), x


def view_features(auditor: Auditor) -> tuple[torch.Tensor, torch.Tensor]:
    """φ of both views of all samples, in the order of the samples."""
    from krepes.pipeline import Stream
    from krepes.work import Work

    assert auditor.seen_.views is not None
    assert auditor.fit_.memory is not None
    stream = Stream(
        auditor.source_, auditor.seen_.views, auditor.fit_.rows, auditor.fit_.nystrom, auditor.settings,
        auditor.fit_.memory, Work(),
    )  # fmt: skip
    parts = list(stream.features(range(len(auditor.source_))))
    return torch.cat([a for _, a, _ in parts]), torch.cat([b for _, _, b in parts])


def weighted_moments(a: torch.Tensor, b: torch.Tensor, w: torch.Tensor) -> Moments:
    """Moments in which sample i counts w_i times."""
    return Moments(w.sum(), w @ a, w @ b, a.T @ (w[:, None] * a), b.T @ (w[:, None] * b), a.T @ (w[:, None] * b))


def moved_moment_step(auditor: Auditor, w: torch.Tensor) -> torch.Tensor:
    """B₀ + ΔB with the samples weighted, λ held."""
    nystrom, newton = auditor.fit_.nystrom, auditor.settings.newton
    moments = weighted_moments(*view_features(auditor), w)
    held = Newton(newton.ridge, auditor.outcome_.damping, relative=False, tol=1e-13, max_iter=5000)
    problem = auditor.settings.objective.problem(moments)
    step = solve(held, lambda B: problem, nystrom.B0, nystrom.eigenvalues, torch.Generator().manual_seed(0))
    return nystrom.B0 + auditor.outcome_.step_length * step.dB


def by_differences(step, n: int, target, chosen) -> torch.Tensor:
    """dT/dw_i of the chosen samples, central differences."""
    found = []
    for i in chosen:
        sides = []
        for sign in (1, -1):
            w = torch.ones(n, dtype=torch.float64)
            w[i] += sign * EPS
            sides.append(target(step(w)))
        found.append((sides[0] - sides[1]) / (2 * EPS))
    return torch.stack(found, 1)


@pytest.mark.parametrize("objective", MOMENT, ids=lambda o: f"{o.name}-{getattr(o, 'variance', '')}")
@pytest.mark.parametrize("ridge", ["coefficients", "rkhs"])
def test_moment_objectives_equal_finite_differences(objective, ridge):
    auditor, x = fitted(objective, ridge=ridge)
    queries, direction = x[:4], torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    phi = auditor.fit_.nystrom.features(auditor.kernel(queries))
    chosen = [0, 7, 30, 59]
    expected = by_differences(lambda w: moved_moment_step(auditor, w), len(x), lambda B: phi @ B @ direction, chosen)
    found = auditor.attribute(queries, direction, draws=1, at="step")
    assert found.shape == (4, len(x))
    torch.testing.assert_close(found[:, chosen], expected, rtol=1e-4, atol=1e-8 * float(found.abs().max()))


def test_target_and_invariance_equal_finite_differences():
    auditor, x = fitted(BarlowTwins())
    queries, chosen = x[:3], [2, 40]
    phi = auditor.fit_.nystrom.features(auditor.kernel(queries))

    def energy(f):
        return (f[:2].square().sum(1) * f[2, 0]).tanh()

    step = lambda w: moved_moment_step(auditor, w)  # noqa: E731
    expected = by_differences(step, len(x), lambda B: energy(phi @ B), chosen)
    found = auditor.attribute(queries, target=energy, draws=1, at="step")
    assert found.shape == (2, len(x))
    torch.testing.assert_close(found[:, chosen], expected, rtol=1e-4, atol=1e-9)

    phi_views = features_of_views(auditor.fit_, queries, noisy, auditor.settings.seed + 1)

    def cosine(B):
        f, g = phi @ B, phi_views @ B
        return torch.stack([torch.cosine_similarity(f, g[:, k], dim=1) for k in range(g.shape[1])]).mean(0)

    expected = by_differences(step, len(x), cosine, chosen)
    torch.testing.assert_close(
        auditor.attribute(queries, draws=1, at="step")[:, chosen], expected, rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("objective", [MOMENT[0], MOMENT[3]], ids=lambda o: o.name)
def test_scores_of_a_mean_sum_to_zero(objective):
    auditor, x = fitted(objective)
    found = auditor.attribute(x[:3], torch.ones(3), draws=1, at="step")
    assert float(found.sum(1).abs().max()) < 1e-9 * float(found.abs().sum(1).max())


def weighted_simclr(a, b, w, temperature):
    """(inner, ψ_w) of one batch: rows weighted, negatives weighted, the row's own pair not."""
    n = len(a)
    both, weights = torch.cat([a, b]), torch.cat([w, w])
    positive = torch.arange(2 * n).roll(n)
    eye, own = torch.eye(2 * n, dtype=torch.bool), torch.zeros(2 * n, 2 * n, dtype=torch.bool)
    own[torch.arange(2 * n), positive] = True
    logw = torch.where(own, 0.0, weights.log()[None]).masked_fill(eye, -torch.inf)

    def inner(B):
        z = torch.nn.functional.normalize(both @ B, dim=1)
        return z @ z.T / temperature

    def outer(s):
        rows = (s + logw).logsumexp(1) - s[torch.arange(2 * n), positive]
        return (weights * rows).sum() / 2

    return inner, outer


def weighted_byol(a, b, w, B_target):
    """(inner, ψ_w): the residuals of both directions, their target held."""
    unit = torch.nn.functional.normalize

    def inner(B):
        return torch.stack(
            [unit(a @ B, dim=1) - unit(b @ B_target, dim=1), unit(b @ B, dim=1) - unit(a @ B_target, dim=1)]
        )

    return inner, lambda s: (w[None, :, None] * s.square()).sum() / 2


@pytest.mark.parametrize("objective", [SimCLR(batch_size=None), SimCLR(batch_size=20), BYOL(batch_size=25)], ids=str)
def test_streaming_objectives_equal_finite_differences(objective):
    auditor, x = fitted(objective, curvature_samples=None)
    nystrom, lam = auditor.fit_.nystrom, auditor.outcome_.damping
    a, b = view_features(auditor)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(auditor.settings.seed))
    from krepes.objectives.pairs import Pairs

    batches = Pairs(a, b, order).division(objective.batch_size)
    B0, R = nystrom.B0, torch.diag(1 / nystrom.eigenvalues)

    def step(w):
        """(G_w + λR)^{-1} ∇L_w in dense float64."""
        gradient, G = torch.zeros_like(B0), torch.zeros(B0.numel(), B0.numel(), dtype=torch.float64)
        for index in batches:
            part = a[index], b[index], w[index]
            inner, outer = (
                weighted_simclr(*part, objective.temperature) if isinstance(objective, SimCLR)
                else weighted_byol(*part, B0)
            )  # fmt: skip
            J = torch.func.jacfwd(inner)(B0).flatten(-2).flatten(0, -2)
            s = inner(B0)
            gradient += torch.func.grad(lambda B, i=inner, o=outer: o(i(B)))(B0) / w.sum()
            Q = torch.func.vmap(
                lambda v, s=s, o=outer: torch.func.jvp(torch.func.grad(o), (s,), (v.view_as(s),))[1].flatten()
            )
            G += J.T @ Q(J.T).T.reshape(len(J), -1) / w.sum()
        H = G + lam * torch.kron(R, torch.eye(B0.shape[1], dtype=torch.float64))
        return B0 - torch.linalg.solve(H, gradient.flatten()).view_as(B0)

    torch.testing.assert_close(
        step(torch.ones(len(x), dtype=torch.float64)), B0 + auditor.fit_.step.dB, rtol=1e-6, atol=1e-9
    )
    direction = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    phi, chosen = nystrom.features(auditor.kernel(x[:2])), [0, 31]
    expected = by_differences(step, len(x), lambda B: phi @ B @ direction, chosen)
    found = auditor.attribute(x[:2], direction, draws=1, at="step")
    torch.testing.assert_close(found[:, chosen], expected, rtol=1e-4, atol=1e-8 * float(found.abs().max()))


def test_what_cannot_be_asked_is_refused():
    auditor, x = fitted(BarlowTwins())
    with pytest.raises(ConfigError, match="give one of them"):
        auditor.attribute(x[:2], torch.ones(3), target="invariance", at="step")
    with pytest.raises(ConfigError, match=r"direction has shape \(5,\); expected \(3,\) or \(2, 3\)"):
        auditor.attribute(x[:2], torch.ones(5), at="step")
    with pytest.raises(ConfigError, match="target='likeness'"):
        auditor.attribute(x[:2], target="likeness", at="step")
    with pytest.raises(ConfigError, match="target returned float"):
        auditor.attribute(x[:2], target=lambda f: 1.0, at="step")
    several, x = fitted(BarlowTwins(), steps=2)
    with pytest.raises(ConfigError, match="one Newton step, this auditor took 2"):
        several.attribute(x[:2], torch.ones(3), at="step")


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ([1.0, float("nan"), 0.0], r"direction holds nan at 1; expected finite"),
        ([1.0, 0.0, float("-inf")], r"direction holds -inf at 2; expected finite"),
        ("abc", "direction='abc' holds more than numbers"),
        (["a", "b", "c"], "holds more than numbers"),
        ([1, None, 2], r"direction=\[1, None, 2\] holds more than numbers"),
        ([[1, 2, 3], [1, 2]], "holds more than numbers"),
        ([1j, 0, 0], "direction holds complex128; expected real"),
    ],
    ids=str,
)
def test_a_direction_that_is_none_is_refused(direction, message):
    auditor, x = fitted(BarlowTwins())
    with pytest.raises(ConfigError, match=message):
        auditor.attribute(x[:2], direction, draws=1, at="step")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda f: f.sum(1) * torch.tensor([1.0, float("nan")]), "target is not finite for query 1"),
        (lambda f: f.sum(1) / torch.tensor([0.0, 1.0]), "target is not finite for query 0"),
        (lambda f: (f - f).sum(1).sqrt(), "gradient of query 0, 1 .* not finite"),
        (lambda f: torch.view_as_complex(f[:, :2].contiguous()), r"shape \(2,\) of complex numbers"),
        (lambda f: f[:0, 0], "target returned no value"),
        (lambda f: torch.zeros(2, requires_grad=True), "a constant for query 0, 1: it was not computed from f"),
        (lambda f: torch.zeros(2), "expected differentiable"),
        (lambda f: f.sum(1) * 1e300 * 1e10, "not finite"),
    ],
)
def test_a_target_without_a_gradient_is_refused(target, message):
    auditor, x = fitted(BarlowTwins())
    with pytest.raises(ConfigError, match=message):
        auditor.attribute(x[:2], target=target, at="step")


def test_scores_are_linear_in_a_direction_of_any_size():
    auditor, x = fitted(BarlowTwins())
    plain = auditor.attribute(x[:2], torch.ones(3), at="step")
    for size in (1e290, 1e-290, 2.0**-30):
        found = auditor.attribute(x[:2], torch.full((3,), size, dtype=torch.float64), at="step")
        torch.testing.assert_close(found / size, plain, rtol=1e-9, atol=1e-12 * float(plain.abs().max()))
    assert float(auditor.attribute(x[:2], torch.zeros(3), at="step").abs().max()) == 0
    single = Auditor(MLP(5, (8,), 4).eval(), BarlowTwins(), landmarks=14, n_components=3).fit(x.float(), noisy)
    for size in (1e300, 1e-300):
        with pytest.raises(ConfigError, match=r"scores of query 0, 1 leave the range of float32"):
            single.attribute(x[:2].float(), torch.full((3,), size, dtype=torch.float64), at="step")


def noisy_auditor(seed: int, objective=None) -> tuple[Auditor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    landmarks = list(range(0, 300, 10))
    auditor = Auditor(
        MLP(5, (16,), 4).eval(), objective or VICReg(), landmarks=landmarks, newton=Newton(damping=1.0), seed=seed,
        dtype=torch.float64,
    )  # fmt: skip
    return auditor.fit(x, lambda batch, generator: batch + 0.7 * torch.randn(
        batch.shape, generator=generator, dtype=batch.dtype)), x  # fmt: skip


@pytest.mark.parametrize("objective", [VICReg(), SimCLR(batch_size=100)])
def test_draws_are_averaged_and_their_spread_is_the_error(objective):
    auditor, x = noisy_auditor(0, objective)
    direction = torch.ones(4)
    one, none = attributed(auditor, x[:2], direction, None, draws=1, at="step")
    two, error = attributed(auditor, x[:2], direction, None, draws=2, at="step")
    assert none is None
    assert error is not None
    other = 2 * two - one  # the second draw
    torch.testing.assert_close(error, (one - other).abs() / 2)
    assert not torch.allclose(one, other)


def test_more_draws_make_the_scores_of_a_training_sample_agree_across_seeds_of_the_views():
    def agreement(draws: int) -> float:
        scores = []
        for seed in (1, 2):
            auditor, x = noisy_auditor(seed)
            scores.append(auditor.attribute(x[:8], target=lambda f: f.norm(dim=1), draws=draws, at="step"))
        a, b = (s - s.mean(1, keepdim=True) for s in scores)
        return float(torch.cosine_similarity(a, b, dim=1).mean())

    assert agreement(8) > agreement(1) + 0.15


def test_draws_that_cannot_be_made_are_refused():
    auditor, x = noisy_auditor(0)
    with pytest.raises(ConfigError, match="draws=0"):
        auditor.attribute(x[:2], torch.ones(4), draws=0, at="step")
    pair = Auditor(MLP(5, (8,), 4).eval(), VICReg(), landmarks=14, n_components=3)
    pair.fit(x[:60].float(), (x[:60].float() + 0.1, x[:60].float() - 0.1))
    assert pair.attribute(x[:2].float(), torch.ones(3), at="step").shape == (2, 60)
    with pytest.raises(ConfigError, match="two fixed tensors"):
        pair.attribute(x[:2].float(), torch.ones(3), draws=2, at="step")


# --------------------------------------------------------------- at the encoder


def encoder_point(auditor: Auditor, x: torch.Tensor) -> torch.Tensor:
    """B* by least squares on all samples, the means of φ and z taken off, (r, d)."""
    phi, z = auditor.fit_.nystrom.features(auditor.kernel(x)), auditor.encoder(x)
    return torch.linalg.lstsq(phi - phi.mean(0), z - z.mean(0)).solution


def dense_curvature(problem, B: torch.Tensor) -> torch.Tensor:
    """G at B as a matrix over the entries of B."""
    product, size = problem.ggn(B), B.numel()
    rows = [product(row.reshape(B.shape)).flatten() for row in torch.eye(size, dtype=B.dtype)]
    return torch.stack(rows)


@pytest.mark.parametrize("objective", MOMENT, ids=lambda o: f"{o.name}-{getattr(o, 'variance', '')}")
def test_at_the_encoder_the_implicit_function_theorem_holds(objective):
    """dT/dw_i = −∇Tᵀ (G + λI)⁻¹ d∇L/dw_i at B*: dense G, differences of the gradient in the weights."""
    auditor, x = fitted(objective)
    damping, queries, chosen = 0.2, x[:4], [0, 7, 30, 59]
    direction = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    B, (a, b) = encoder_point(auditor, x), view_features(auditor)

    def problem(w):
        return auditor.settings.objective.problem(weighted_moments(a, b, w))

    G = dense_curvature(problem(torch.ones(len(x), dtype=torch.float64)), B)
    probes = torch.Generator().manual_seed(auditor.settings.seed)
    signs = [torch.randint(0, 2, tuple(B.shape), generator=probes).to(B).flatten() * 2 - 1 for _ in range(8)]
    mean = torch.stack([s * (G @ s) for s in signs]).mean()  # the unit of λ
    changes = by_differences(lambda w: problem(w).gradient(B).flatten(), len(x), lambda g: g, chosen)
    phi = auditor.fit_.nystrom.features(auditor.kernel(queries))
    gradients = (phi[:, :, None] * direction).flatten(1)
    expected = -gradients @ torch.linalg.solve(G + damping * mean * torch.eye(len(G)), changes)
    found = auditor.attribute(queries, direction, draws=1, damping=damping)
    torch.testing.assert_close(found[:, chosen], expected, rtol=1e-4, atol=1e-7 * float(found.abs().max()))


def test_at_the_encoder_any_number_of_steps_will_do_and_the_target_is_the_encoders_own():
    auditor, x = fitted(VICReg(), steps=3)
    with pytest.raises(ConfigError, match=r"took 3.*encoder"):
        auditor.attribute(x[:2], torch.ones(3), at="step")
    seen = []
    auditor.attribute(x[:5], target=lambda f: seen.append(f.detach()) or f.square().sum(1), draws=1)
    z = auditor.encoder(x) - auditor.encoder(x).mean(0)
    assert seen[0].shape == (5, 4)  # the encoder's four outputs, not the audit's three
    torch.testing.assert_close(seen[0], (auditor.kernel(x[:5]) @ auditor.fit_.nystrom.dual(encoder_point(auditor, x))))
    assert float(torch.corrcoef(torch.stack([seen[0].flatten(), z[:5].flatten()]))[0, 1]) > 0.8


def test_where_and_how_are_checked():
    auditor, x = fitted(VICReg())
    with pytest.raises(ConfigError, match="at='network'; expected 'encoder', 'step' or 'training'"):
        auditor.attribute(x[:2], at="network")
    with pytest.raises(ConfigError, match="leave damping out"):
        auditor.attribute(x[:2], at="step", damping=1.0)
    for odd in (0.0, -1.0, float("nan"), float("inf"), "auto", True):
        with pytest.raises(ConfigError, match=r"damping=.*expected a positive number"):
            auditor.attribute(x[:2], damping=odd)


def test_an_encoder_without_curvature_is_told():
    B = torch.zeros(3, 2, dtype=torch.float64)
    place = Place(B, B, B, "rkhs", 0.1)
    assert place.absolute(4.0) == pytest.approx(0.4)
    for mean in (0.0, -1.0, float("nan")):
        with pytest.raises(NonFiniteError, match=r"no curvature at the encoder.*at=\"step\""):
            place.absolute(mean)
