"""Attribution along a training equals finite differences of the trained kernel machine in the samples' weights."""

import dataclasses
import itertools
import warnings

import pytest
import torch

from krepes import BYOL, Auditor, BarlowTwins, SimCLR, SpectralContrastive, VICReg
from krepes.audit import descent, training
from krepes.audit.asked import attributed, features_of_views
from krepes.audit.descent import Path, descend, random_starts, scale_of
from krepes.encoders import MLP
from krepes.engine import MemoryPlan
from krepes.errors import ConfigError, KrepesWarning, NonFiniteError
from krepes.objectives import Moments
from krepes.objectives.base import Problem, QuadraticTerm
from krepes.objectives.moments import Form
from krepes.objectives.pairs import Pairs
from tests.audit.test_attribution import (
    by_differences,
    fitted,
    noisy,
    samples,
    view_features,
    weighted_moments,
    weighted_simclr,
)

MOMENT = [BarlowTwins(weight=0.05), VICReg(), VICReg(variance=1.0, halve_hinge=False), SpectralContrastive()]
STEPS, CHOSEN = 25, [0, 7, 30, 59]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(descent, "STEPS", STEPS)


def cosines(f: torch.Tensor) -> torch.Tensor:
    """A target that no rotation of f changes: each sample's cosine with the next one."""
    return torch.cosine_similarity(f, f.roll(1, 0), dim=1)


def start_of(auditor: Auditor) -> torch.Tensor:
    """The first random start."""
    return next(random_starts(auditor.fit_.nystrom, auditor.settings.seed, 1))


def again(path: Path, gradient_at) -> torch.Tensor:
    """Where the descent ends with other gradients, its rates held."""
    B = path.points[0]
    for k, rate in enumerate(path.rates):
        B = B - rate * path.scale * gradient_at(k, B)
    return B


def redrawn(auditor: Auditor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """φ of both views of all samples in another draw."""
    seed = auditor.settings.seed + number * 10_007
    other = object.__new__(Auditor)
    other.__dict__ |= auditor.__dict__ | {"settings": dataclasses.replace(auditor.settings, seed=seed)}
    return view_features(other)


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("objective", MOMENT, ids=lambda o: f"{o.name}-{getattr(o, 'variance', '')}")
def test_moment_objectives_equal_finite_differences(objective, draws):
    auditor, x = fitted(objective)
    phi = auditor.fit_.nystrom.features(auditor.kernel(x[:4]))
    views = [redrawn(auditor, number) for number in range(draws)]

    def problem(w: torch.Tensor) -> Problem:
        parts = [weighted_moments(a, b, w) for a, b in views]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return objective.problem(total)

    expected = torch.zeros(4, len(CHOSEN), dtype=torch.float64)
    plain = problem(torch.ones(len(x), dtype=torch.float64))
    for B in random_starts(auditor.fit_.nystrom, 0, 2):
        path = descend(lambda _: plain, B, scale_of(auditor.fit_.nystrom), 0)
        assert len(path.points) == STEPS

        def end(w: torch.Tensor, path: Path = path) -> torch.Tensor:
            moved = problem(w)
            return again(path, lambda k, at: moved.gradient(at))

        expected += by_differences(end, len(x), lambda B: cosines(phi @ B), CHOSEN) / 2
    found = auditor.attribute(x[:4], target=cosines, at="training", draws=draws, starts=2)
    assert found.shape == (4, len(x))
    torch.testing.assert_close(found[:, CHOSEN], expected, rtol=1e-4, atol=1e-7 * float(found.abs().max()))


@pytest.mark.parametrize("objective", [SimCLR(batch_size=None), SimCLR(batch_size=20)], ids=str)
def test_simclr_equals_finite_differences(objective):
    """Every step sees one draw of the views, the same batches of samples in each."""
    auditor, x = fitted(objective)
    nystrom, views = auditor.fit_.nystrom, [redrawn(auditor, number) for number in range(2)]
    phi = nystrom.features(auditor.kernel(x[:3]))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(auditor.settings.seed))
    pairs = [Pairs(a, b, order) for a, b in views]
    path = descend(lambda k: objective.problem(pairs[k % 2]), start_of(auditor), scale_of(nystrom), 0)

    def gradient(k: int, B: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(B)
        for index in pairs[k % 2].division(objective.batch_size):
            a, b = (side[index] for side in views[k % 2])
            inner, outer = weighted_simclr(a, b, w[index], objective.temperature)
            total += torch.func.grad(lambda B, i=inner, o=outer: o(i(B)))(B) / w.sum()
        return total

    end = lambda w: again(path, lambda k, B: gradient(k, B, w))  # noqa: E731
    torch.testing.assert_close(end(torch.ones(len(x), dtype=torch.float64)), path.end, rtol=1e-8, atol=1e-10)
    expected = by_differences(end, len(x), lambda B: cosines(phi @ B), CHOSEN)
    found = auditor.attribute(x[:3], target=cosines, at="training", draws=2)
    torch.testing.assert_close(found[:, CHOSEN], expected, rtol=1e-4, atol=1e-7 * float(found.abs().max()))
    only, _ = attributed(auditor, x[:3], target=cosines, at="training", draws=2, among=torch.tensor(CHOSEN).numpy())
    torch.testing.assert_close(only, found[:, CHOSEN])


def test_invariance_is_that_of_the_end():
    auditor, x = fitted(VICReg())
    a, b = view_features(auditor)
    nystrom, objective = auditor.fit_.nystrom, auditor.settings.objective
    phi = nystrom.features(auditor.kernel(x[:3]))
    phi_views = features_of_views(auditor.fit_, x[:3], noisy, auditor.settings.seed + 1)
    plain = objective.problem(Moments.of(a, b))
    path = descend(lambda _: plain, start_of(auditor), scale_of(auditor.fit_.nystrom), 0)

    def cosine(B):
        f, g = phi @ B, phi_views @ B
        return torch.stack([torch.cosine_similarity(f, g[:, k], dim=1) for k in range(g.shape[1])]).mean(0)

    def end(w):
        problem = objective.problem(weighted_moments(a, b, w))
        return again(path, lambda k, B: problem.gradient(B))

    expected = by_differences(end, len(x), cosine, CHOSEN)
    found = auditor.attribute(x[:3], at="training", draws=1, starts=1)
    torch.testing.assert_close(found[:, CHOSEN], expected, rtol=1e-4, atol=1e-7 * float(found.abs().max()))


def test_chunks_of_queries_and_chosen_samples_change_nothing(monkeypatch):
    auditor, x = fitted(BarlowTwins())
    ask = lambda: attributed(auditor, x[:5], target=cosines, at="training", draws=3, starts=2)  # noqa: E731
    whole, error = ask()
    assert error is not None
    assert error.shape == whole.shape
    assert bool((error > 0).all())
    monkeypatch.setattr(training, "TOGETHER", 2)
    monkeypatch.setattr(MemoryPlan, "budget", 1, raising=False)
    torch.testing.assert_close(ask(), (whole, error))
    some, _ = attributed(
        auditor, x[:5], target=cosines, at="training", draws=3, starts=2, among=torch.tensor(CHOSEN).numpy()
    )
    torch.testing.assert_close(some, whole[:, CHOSEN])


def test_chunks_of_queries_change_nothing_over_pairs(monkeypatch):
    auditor, x = fitted(SimCLR(batch_size=20))
    ask = lambda: auditor.attribute(x[:5], target=cosines, at="training", draws=2)  # noqa: E731
    whole, parts = ask(), []
    kept = training.changes_by_step
    monkeypatch.setattr(training, "HELD", 10**15)
    monkeypatch.setattr(training, "changes_by_step", lambda *a: parts.append(a[-1]) or kept(*a))
    torch.testing.assert_close(ask(), whole)
    assert parts == [1]


def test_the_error_is_that_of_the_draws():
    """Over many draws the mean moves by about its error at few."""
    auditor, x = fitted(VICReg())
    few, error = attributed(auditor, x[:4], target=cosines, at="training", draws=4, starts=1)
    many, smaller = attributed(auditor, x[:4], target=cosines, at="training", draws=64, starts=1)
    assert error is not None
    assert smaller is not None
    assert float(smaller.mean()) < 0.5 * float(error.mean())
    assert 0.3 < float((few - many).square().mean() / error.square().mean()) < 30


@pytest.mark.parametrize(
    "objective", [*MOMENT, SimCLR(batch_size=None), SimCLR(batch_size=20, temperature=0.2)], ids=str
)
def test_hessians_equal_those_of_autograd(objective):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, 9, dtype=torch.float64, generator=generator)
    b = a + 0.3 * torch.randn(40, 9, dtype=torch.float64, generator=generator)
    B, V = (torch.randn(*shape, 9, 3, dtype=torch.float64, generator=generator) for shape in ((), (2,)))
    pairs = Pairs(a, b, torch.arange(40))
    if objective.streaming:
        problem, parts = objective.problem(pairs), pairs.division(objective.batch_size)
    else:
        problem, parts = objective.problem(Moments.of(a, b, getattr(objective, "difference", False))), [slice(None)]

    def loss(B):
        return sum(len(a[i]) / 40 * objective.loss(a[i] @ B, b[i] @ B) for i in parts)

    expected = torch.stack([torch.autograd.functional.hvp(loss, B, v)[1] for v in V])
    torch.testing.assert_close(problem.hessian(B)(V), expected)
    torch.testing.assert_close(problem.hessian(B)(V[0]), expected[0])


def test_an_objective_without_curvature_of_its_own_has_that_of_its_forms():
    """ψ∘s may be linear in the forms: BᵀSB is not linear in B."""
    a = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    S = Form(a.T @ a / 40, ((1.0, "a", "a"),), 40)
    term = QuadraticTerm((S,), lambda Q: Q.trace(), lambda s: -s, lambda s: -torch.ones_like(s), lambda s, u: 0 * u)
    B, V = (torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    torch.testing.assert_close(term.hessian(B)(V), -2 * S.matrix @ V)


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_derivatives_without_a_step_are_those_of_a_vanishing_one(temperature):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 6, dtype=torch.float64, generator=generator)
    b = a + 0.3 * torch.randn(30, 6, dtype=torch.float64, generator=generator)
    B, D = (torch.randn(6, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    s = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator)

    def derivatives(kind: torch.dtype, D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (term,) = SimCLR(temperature).problem(Pairs(a.to(kind), b.to(kind), torch.arange(30))).terms()
        return term.per_sample(B, D, s)

    none = derivatives(torch.float64, torch.zeros_like(D))
    torch.testing.assert_close(none, derivatives(torch.float64, 1e-9 * D), rtol=1e-6, atol=1e-6)
    short = derivatives(torch.float32, torch.zeros_like(D))[1]
    torch.testing.assert_close(short, none[1], rtol=1e-4, atol=1e-5 * float(none[1].abs().max()))


@pytest.mark.parametrize("objective", [MOMENT[0], MOMENT[3], SimCLR()], ids=lambda o: o.name)
def test_no_step_raises_the_loss(objective):
    auditor, _ = fitted(objective)
    a, b = view_features(auditor)
    data = Pairs(a, b, torch.arange(len(a))) if objective.streaming else Moments.of(a, b)
    problem = objective.problem(data)
    path = descend(lambda _: problem, start_of(auditor), scale_of(auditor.fit_.nystrom), 0)
    losses = [float(problem.value(B)) for B in (*path.points, path.end)]
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 0.05 * abs(losses[0])


@pytest.mark.parametrize("objective", [*MOMENT, SimCLR(), SimCLR(0.05)], ids=str)
def test_no_step_overshoots(objective):
    """η‖P^½∇²LP^½‖ stays below 2, beyond which what a weight changes grows in some direction."""
    auditor, _ = fitted(objective)
    a, b = view_features(auditor)
    data = Pairs(a, b, torch.arange(len(a))) if objective.streaming else Moments.of(a, b)
    problem = objective.problem(data)
    path = descend(lambda _: problem, start_of(auditor), scale_of(auditor.fit_.nystrom), 0)
    for B, rate in zip(path.points, path.rates, strict=True):
        eye = torch.eye(B.numel(), dtype=B.dtype).unflatten(1, B.shape)
        root = path.scale.sqrt()
        H = (root * problem.hessian(B)(root * eye)).flatten(1)
        assert rate * float(torch.linalg.matrix_norm(H, 2)) < 2


@pytest.mark.parametrize(
    ("objective", "components", "message"),
    [
        (VICReg(invariance=0, variance=0, covariance=0), 3, "no curvature at a random start"),
        (SimCLR(), 1, "no curvature at a random start"),
    ],
    ids=["nothing", "one dimension"],
)
def test_a_training_without_curvature_is_refused(objective, components, message):
    torch.manual_seed(0)
    network = MLP(5, (8,), 4).eval()
    auditor = Auditor(network, objective, landmarks=14, n_components=components, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor.fit(samples(), noisy)
    with pytest.raises(NonFiniteError, match=message):
        auditor.attribute(samples()[:2], target=lambda f: f.square().sum(1), at="training")


def test_a_descent_ends_where_there_is_no_curvature_left():
    """A quadratic with one curvature is at its minimum after one step."""
    term = SpectralContrastive().problem(Moments.of(torch.eye(3).double(), torch.eye(3).double()))
    path = descend(lambda _: term, 0.1 * torch.ones(3, 2).double(), torch.ones(3, 1).double(), 0)
    assert 0 < len(path.points) <= STEPS


def test_a_target_that_a_rotation_changes_is_warned_of():
    auditor, x = fitted(VICReg())
    with pytest.warns(KrepesWarning, match="target of query 0, 1 changes when f is rotated"):
        auditor.attribute(x[:2], target=lambda f: f[:, 0], at="training", draws=1, starts=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auditor.attribute(x[:2], target=cosines, at="training", draws=1, starts=1)
        auditor.attribute(x[:2], at="training", draws=1, starts=1)


def test_a_target_that_the_sign_of_one_coordinate_changes_is_warned_of():
    torch.manual_seed(0)
    auditor = Auditor(MLP(5, (8,), 4).eval(), VICReg(), landmarks=14, n_components=1, dtype=torch.float64)
    auditor.fit(samples(), noisy)
    with pytest.warns(KrepesWarning, match="target of query 0, 1 changes when f is rotated") as warned:
        auditor.attribute(samples()[:2], target=lambda f: f[:, 0], at="training", draws=1, starts=2)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auditor.attribute(samples()[:2], target=lambda f: f[:, 0].square(), at="training", draws=1, starts=1)


def test_only_the_end_of_a_training_must_have_a_value():
    auditor, x = fitted(VICReg())
    before = []

    def target(f: torch.Tensor) -> torch.Tensor:
        before.append(0)
        return cosines(f) + (torch.nan if len(before) == 1 else 0)  # asked first at a random start

    expected = auditor.attribute(x[:2], target=cosines, at="training", draws=1, starts=1)
    torch.testing.assert_close(auditor.attribute(x[:2], target=target, at="training", draws=1, starts=1), expected)
    with pytest.raises(ConfigError, match="target is not finite for query 0, 1"):
        auditor.attribute(x[:2], target=lambda f: cosines(f) / 0, at="training", draws=1, starts=1)


@pytest.mark.parametrize("size", [1e-39, 1e39])
def test_scores_are_as_large_as_the_target(size, monkeypatch):
    """The error, too, and what is said of the target."""
    auditor, x = fitted(VICReg())
    expected = attributed(auditor, x[:2], target=cosines, at="training", draws=3, starts=1)
    found = attributed(auditor, x[:2], target=lambda f: size**4 * cosines(f), at="training", draws=3, starts=1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one / size**4, other)
    with pytest.warns(KrepesWarning, match="changes when f is rotated"):
        auditor.attribute(x[:2], target=lambda f: size**4 * f[:, 0], at="training", draws=1, starts=1)
    torch.manual_seed(0)
    auditor, x = Auditor(MLP(5, (8,), 4).eval(), SimCLR(), landmarks=14, n_components=3), x.float()
    auditor.fit(x, noisy)
    scores, _ = attributed(auditor, x[:2], target=cosines, at="training", draws=1)
    monkeypatch.setattr(training, "in_type", lambda found, _: found)  # float32 would not hold them
    scaled, _ = attributed(auditor, x[:2], target=lambda f: size * cosines(f), at="training", draws=1)
    torch.testing.assert_close((scaled / size).float(), scores, rtol=1e-4, atol=1e-4 * float(scores.abs().max()))


def test_a_target_is_asked_before_the_data(monkeypatch):
    auditor, x = fitted(VICReg())
    monkeypatch.setattr(training, "with_views", None)
    with pytest.raises(ConfigError, match="target returned"):
        auditor.attribute(x[:2], target=lambda f: f, at="training")


def test_starts_have_unit_outputs_and_differ():
    auditor, _ = fitted(BarlowTwins())
    nystrom, rows = auditor.fit_.nystrom, auditor.fit_.rows.K_mm
    one, two = random_starts(nystrom, 0, 2)
    assert float((nystrom.features(rows) @ one).square().mean()) == pytest.approx(1)
    assert not torch.equal(one, two)
    assert torch.equal(one, next(random_starts(nystrom, 0, 1)))
    assert not torch.equal(two, next(random_starts(nystrom, 1, 1)))


@pytest.mark.parametrize(
    ("objective", "asked", "message"),
    [
        (BarlowTwins(), {"direction": torch.ones(3)}, "no coordinates that a direction could mean"),
        (BarlowTwins(), {"damping": 1.0}, "has no λ"),
        (BarlowTwins(), {"starts": 0}, "starts=0; expected a whole number of 1 to 1000"),
        (BarlowTwins(), {"starts": 2, "at": "step"}, "starts=2 are of at=\"training\"; at='step' has none"),
        (BarlowTwins(), {"target": lambda f: (f - f).sum(1).sqrt()}, "gradient of query 0, 1 .* not finite"),
        (BYOL(), {}, "BYOL has no loss that a training descends"),
    ],
    ids=["direction", "damping", "no start", "starts of the step", "no gradient", "BYOL"],
)
def test_what_cannot_be_asked_is_refused(objective, asked, message):
    auditor, x = fitted(objective)
    with pytest.raises(ConfigError, match=message):
        auditor.attribute(x[:2], **{"at": "training"} | asked)


@pytest.mark.parametrize("objective", [SimCLR(batch_size=None), BarlowTwins()], ids=lambda o: o.name)
def test_float32_gives_nearly_the_same(objective):
    x = samples()
    views = noisy(x, torch.Generator().manual_seed(1)), noisy(x, torch.Generator().manual_seed(2))
    found = []
    for kind in (torch.float32, torch.float64):
        torch.manual_seed(0)
        auditor = Auditor(MLP(5, (8,), 4).eval(), objective, landmarks=14, n_components=3, dtype=kind)
        auditor.fit(x.to(kind), (views[0].to(kind), views[1].to(kind)))
        scores = auditor.attribute(x[:2].to(kind), target=cosines, at="training")
        assert scores.dtype == kind
        found.append(scores.double())
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-2 * float(found[1].abs().max()))
