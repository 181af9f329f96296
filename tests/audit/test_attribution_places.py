"""Attribution at the encoder: where it is taken, what is refused, what it is asked for, and from several threads."""

import gc
import io
import threading
import warnings
import weakref
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from krepes import BYOL, Auditor, BarlowTwins, Newton, SimCLR, SpectralContrastive, VICReg
from krepes.audit import attribution, places, targets
from krepes.audit.asked import attributed, features_of_views
from krepes.audit.findings import AuditPlan
from krepes.encoders import MLP
from krepes.engine import Engine
from krepes.errors import ConfigError, DataError, KrepesWarning, NonFiniteError
from krepes.kernel.ntk import NTK, KernelRows
from krepes.objectives.base import Derivative
from krepes.objectives.pairs import Pairs
from krepes.pipeline import Stream, streamed_problem
from krepes.progress import Progress
from krepes.solver import Status
from krepes.work import Work
from tests.audit.test_attribution import (
    by_differences,
    dense_curvature,
    encoder_point,
    fitted,
    moved_moment_step,
    noisy,
    samples,
    view_features,
    weighted_byol,
    weighted_simclr,
)

DIRECTION = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)


def at_the_encoder(auditor: Auditor) -> places.Place:
    return places.place_of(auditor.fit_, auditor.settings, auditor.source_, "encoder", None)


def plain(objective=None, n: int = 60, **settings) -> tuple[Auditor, torch.Tensor]:
    """An auditor of a small network in float64."""
    torch.manual_seed(0)
    settings = {"landmarks": 14, "dtype": torch.float64} | settings
    x = samples(n)
    return Auditor(MLP(5, (8,), 4).eval(), objective or VICReg(), **settings).fit(x, noisy), x


# --------------------------------------------------------------------- threads


def in_threads(jobs) -> list:
    """What each job gives, all at once."""
    found: list = [None] * len(jobs)

    def run(i: int) -> None:
        try:
            found[i] = jobs[i]()
        except Exception as error:  # what a thread meets is looked at
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return found


@pytest.mark.parametrize("shared", [True, False], ids=["one auditor", "two auditors"])
def test_threads_get_the_numbers_of_one_thread(shared):
    both = [plain(VICReg())[0], plain(BarlowTwins())[0]]
    auditors = [both[0], both[0]] if shared else both
    x = samples()[:3]
    jobs = [lambda a=a: a.attribute(x, DIRECTION, draws=2) for a in auditors]
    expected = [job() for job in jobs]
    for _ in range(25):
        for found, wanted in zip(in_threads(jobs), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_threads_that_fit_get_the_numbers_of_one_thread():
    torch.manual_seed(0)
    network = MLP(5, (8,), 4).eval()
    jobs = [
        lambda o=o: Auditor(network, o, landmarks=14, dtype=torch.float64).fit(samples(), noisy).dA_
        for o in (VICReg(), BarlowTwins())
    ]
    expected = [job() for job in jobs]
    for _ in range(5):
        for found, wanted in zip(in_threads(jobs), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_the_encoders_copy_waits_for_its_lock():
    auditor, x = plain()
    for call in (lambda: auditor.encoder(x[:2]), lambda: auditor.fit_.rows.gradients(x[:2])):
        done = threading.Event()
        with auditor.encoder.lock:
            thread = threading.Thread(target=lambda call=call, done=done: (call(), done.set()))
            thread.start()
            assert not done.wait(0.2)
        thread.join()
        assert done.is_set()


def test_a_derivative_by_reverse_mode_equals_forward_mode():
    def function(a, b):
        return (a @ b).tanh(), b.diagonal(), a.sum() * b[0, 0]

    generator = torch.Generator().manual_seed(0)
    a, b, v, w = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    value, moved = torch.func.jvp(function, (a, b), (v, w))
    found = Derivative.of(function, (a, b))
    torch.testing.assert_close(found.value, value)
    torch.testing.assert_close(found.push((v, w)), moved)
    pulled = found.pull(value)
    inner = sum(float((x * y).sum()) for x, y in zip(value, moved, strict=True))
    assert sum(float((x * y).sum()) for x, y in zip(pulled, (v, w), strict=True)) == pytest.approx(inner)
    only = Derivative.of(lambda a, b: (a.square(),), (a, b))  # of one argument alone
    torch.testing.assert_close(only.push((v, w))[0], 2 * a * v)
    assert float(only.pull((a,))[1].abs().max()) == 0


# ------------------------------------------------------ what cannot be explained


class Collapsed(nn.Module):
    """Outputs of one value whatever the weights do now, but for a rounding."""

    def __init__(self, value: float, rounding: float):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.rounding = nn.Linear(5, 16), nn.Linear(16, 4), rounding
        nn.init.zeros_(self.two.weight)
        nn.init.constant_(self.two.bias, value)

    def forward(self, x):
        h = self.one(x).tanh()
        return self.two(h) + self.rounding * h[:, :4].detach().sign()


@pytest.mark.parametrize("objective", [BarlowTwins(), VICReg(), SpectralContrastive(), SimCLR()], ids=lambda o: o.name)
@pytest.mark.parametrize(("value", "rounding"), [(0.0, 0.0), (1000.0, 0.0), (1000.0, 1e-4)])
def test_a_collapsed_encoder_is_told(objective, value, rounding):
    x = samples().float()
    auditor = Auditor(Collapsed(value, rounding).eval(), objective, landmarks=14).fit(x, noisy)
    with pytest.raises(NonFiniteError, match=r"no curvature at the encoder.*collapsed.*at=\"step\""):
        auditor.attribute(x[:2], torch.ones(4))


def test_outputs_far_from_zero_are_no_collapse():
    class Far(nn.Module):
        def __init__(self, constant: float):
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.constant = MLP(5, (8,), 4), constant

        def forward(self, x):
            return self.inner(x) + self.constant

    x = samples()
    near, far = (
        Auditor(Far(c).eval(), VICReg(), landmarks=14, dtype=torch.float64).fit(x, noisy).attribute(x[:2], DIRECTION)
        for c in (0.0, 1e6)
    )
    torch.testing.assert_close(far, near, rtol=1e-6, atol=1e-6 * float(near.abs().max()))


@pytest.mark.parametrize("place", [137, 274])
@pytest.mark.parametrize("odd", ["output", "gradient"])
def test_a_sample_without_a_finite_output_is_named(place, odd):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(5, 4)

        def forward(self, x):
            large, z = x[:, :1] > 90, self.inner(x).tanh()
            if odd == "output":
                return z + torch.where(large, torch.nan, 0.0).to(z)
            return z * (1 + 1e200 * large.to(z))  # finite, and its gradient's square is not

    x = samples(300)
    x[place] = 100.0
    auditor = Auditor(Odd().eval(), VICReg(), landmarks=list(range(0, 100, 4)), dtype=torch.float64)
    auditor.fit(x, lambda batch, generator: noisy(batch.clamp(-3, 3), generator))
    with pytest.raises(NonFiniteError, match=rf"{odd}s of 1 of \d+ samples are not finite: {place}\."):
        auditor.attribute(x[:2], DIRECTION)


@pytest.mark.parametrize("center", [True, False])
def test_the_fits_fidelity_is_its_r_squared(center):
    auditor, x = plain(kernel=NTK("trace", center=center, cosine=False), n=90)
    place = at_the_encoder(auditor)
    z, f = auditor.encoder(x), auditor.fit_.nystrom.features(auditor.kernel(x)) @ place.B
    left = f - z if not center else (f - f.mean(0)) - (z - z.mean(0))
    expected = 1 - float(left.square().sum() / (z - z.mean(0)).square().sum())
    assert 0.7 < expected < 1 - 1e-6
    assert place.fidelity == pytest.approx(expected, abs=1e-9)


def test_a_bad_fit_warns_at_the_users_line_and_says_what_to_do():
    auditor, x = plain(landmarks=[0, 1, 2], n_components=2, n=90)
    with pytest.warns(KrepesWarning, match=r"give \d+% of the variance .*more landmarks") as seen:
        auditor.attribute(x[:2], DIRECTION)
    assert [w.filename for w in seen if w.category is KrepesWarning] == [__file__]
    auditor.attribute(x[:2], torch.ones(2), at="step")  # says nothing of the encoder


def test_the_stage_says_how_well_f_fits():
    out = io.StringIO()
    auditor, x = plain(progress=Progress(Console(file=out, width=200)))
    auditor.attribute(x[:2], DIRECTION)
    assert f"f gives {at_the_encoder(auditor).fidelity:.0%} of the outputs' variance" in out.getvalue()


def test_other_views_than_the_fits_are_refused():
    auditor, x = plain()
    found = auditor.attribute(x[:2], DIRECTION, views=lambda batch, generator: noisy(batch, generator))
    torch.testing.assert_close(found, auditor.attribute(x[:2], DIRECTION))
    with pytest.raises(DataError, match="these views are not those"):
        auditor.attribute(x[:2], DIRECTION, views=lambda batch, generator: 2 * noisy(batch, generator))
    with pytest.raises(DataError, match="these views are not those"):
        auditor.attribute(x[:2], DIRECTION, views=(x, x))
    pair = Auditor(MLP(5, (8,), 4).eval(), VICReg(), landmarks=14, dtype=torch.float64).fit(x, (x + 0.1, x - 0.1))
    assert pair.attribute(x[:2], DIRECTION, views=(x + 0.1, x - 0.1)).shape == (2, 60)
    with pytest.raises(DataError, match="these views are not those"):
        pair.attribute(x[:2], DIRECTION, views=(x + 0.1, x + 0.1))


def test_what_cannot_be_asked_is_refused_before_anything_is_computed(monkeypatch):
    auditor, x = plain()
    pair = Auditor(MLP(5, (8,), 4).eval(), VICReg(), landmarks=14, dtype=torch.float64).fit(x, (x + 0.1, x - 0.1))

    def never(*_):
        raise AssertionError("a kernel row was computed")

    monkeypatch.setattr(KernelRows, "__call__", never)
    for asked, message in (
        ({"target": "likeness"}, "target='likeness'; expected 'invariance' or a function"),
        ({"target": np.ones(4)}, r"target=array\(\[1., 1., 1., 1.\]\); expected"),
        ({"direction": torch.ones(9)}, r"direction has shape \(9,\); expected \(4,\) or \(2, 4\)"),
        ({"direction": torch.ones(4), "at": "step"}, None),
        ({"direction": torch.ones(3), "at": "step"}, r"expected \(4,\)"),
        ({"draws": 0}, "draws=0; expected"),
        ({"at": "network"}, "at='network'"),
        ({"damping": 10**400}, "damping=1000.*expected a positive number"),
        ({"damping": -1}, "damping=-1; expected"),
        ({"damping": 1.0, "at": "step"}, "leave damping out"),
    ):
        with pytest.raises(ConfigError if message else AssertionError, match=message):
            auditor.attribute(x[:2], **asked)
    with pytest.raises(ConfigError, match="two fixed tensors of views: give direction= or target="):
        pair.attribute(x[:2])
    with pytest.raises(ConfigError, match="two fixed tensors of them: leave draws out"):
        pair.attribute(x[:2], DIRECTION, draws=2)
    with pytest.raises(DataError, match=r"x has shape \(5,\), that of one sample; .* give x\[None\]"):
        auditor.attribute(x[0])


def test_damping_is_any_real_number():
    auditor, x = plain()
    expected = auditor.attribute(x[:2], DIRECTION, damping=0.25)
    for same in (Fraction(1, 4), np.float32(0.25)):
        torch.testing.assert_close(auditor.attribute(x[:2], DIRECTION, damping=same), expected)


def test_scores_need_no_gradients_switched_on():
    auditor, x = plain()
    for asked in ({}, {"direction": DIRECTION}, {"target": lambda f: f.norm(dim=1)}):
        expected = auditor.attribute(x[:2], **asked, draws=1)
        with torch.no_grad():
            torch.testing.assert_close(auditor.attribute(x[:2], **asked, draws=1), expected)


# ------------------------------------------------------------ the default target


def test_a_samples_scores_do_not_depend_on_where_it_stands_nor_beside_whom():
    auditor, x = plain(newton=Newton(tol=1e-9))  # the solves' tolerance is all that companions change
    together = auditor.attribute(torch.cat([x[:3], x[:1]]), draws=1)
    size = float(together.abs().max())
    for i in range(3):
        torch.testing.assert_close(auditor.attribute(x[i : i + 1], draws=1)[0], together[i], rtol=0, atol=1e-6 * size)
    torch.testing.assert_close(together[3], together[0], rtol=0, atol=1e-6 * size)


def test_every_sample_has_128_views_of_its_own():
    auditor, x = plain()
    phi = features_of_views(auditor.fit_, x[:3], noisy, auditor.settings.seed + 1)
    assert phi.shape == (3, 128, auditor.fit_.nystrom.rank)
    assert len(phi[0].unique(dim=0)) == 128
    calls = []
    features_of_views(auditor.fit_, x[:3], lambda batch, generator: calls.append(batch) or noisy(batch, generator), 1)
    assert all(len(batch.unique(dim=0)) == 1 for batch in calls)


def test_the_gradient_of_local_invariance_is_its_own():
    phi, views, B = (torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
                     for s in ((3, 6), (3, 4, 6), (6, 2)))  # fmt: skip
    leaf = B.clone().requires_grad_(True)
    values = torch.cosine_similarity((phi @ leaf)[:, None], views @ leaf, dim=2).mean(1)
    expected = torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in values])
    torch.testing.assert_close(targets.invariance_gradients(phi, views, B), expected)


def test_defaults_are_those_that_are_documented():
    auditor, x = plain()
    found = auditor.attribute(x[:2])
    torch.testing.assert_close(found, auditor.attribute(x[:2], target="invariance", at="encoder", damping=0.1, draws=8))
    for other in ({"damping": 0.2}, {"draws": 7}):
        assert not torch.allclose(found, auditor.attribute(x[:2], **other), rtol=1e-3)


# --------------------------------------------------------------- dense oracles


@pytest.mark.parametrize("objective", [SimCLR(batch_size=20), BYOL(batch_size=25)], ids=str)
def test_streaming_objectives_at_the_encoder_equal_a_dense_solve(objective):
    auditor, x = fitted(objective, curvature_samples=None)
    (a, b), B = view_features(auditor), encoder_point(auditor, x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(auditor.settings.seed))
    batches = Pairs(a, b, order).division(objective.batch_size)

    def parts(w: torch.Tensor, index: torch.Tensor):
        part = a[index], b[index], w[index]
        return (
            weighted_simclr(*part, objective.temperature) if isinstance(objective, SimCLR) else weighted_byol(*part, B)
        )

    def gradient(w: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(B)
        for inner, outer in (parts(w, index) for index in batches):
            total += torch.func.grad(lambda X, i=inner, o=outer: o(i(X)))(B) / w.sum()
        return total.flatten()

    G = torch.zeros(B.numel(), B.numel(), dtype=torch.float64)
    for inner, outer in (parts(torch.ones(len(x), dtype=torch.float64), index) for index in batches):
        J = torch.func.jacrev(inner)(B).flatten(-2).flatten(0, -2)
        G += J.T @ torch.func.hessian(outer)(inner(B)).reshape(len(J), len(J)) @ J / len(x)
    probes = torch.Generator().manual_seed(auditor.settings.seed)
    signs = [torch.randint(0, 2, tuple(B.shape), generator=probes).to(B).flatten() * 2 - 1 for _ in range(8)]
    mean = torch.stack([s * (G @ s) for s in signs]).mean()
    chosen = [0, 31]
    changes = by_differences(gradient, len(x), lambda g: g, chosen)
    phi = auditor.fit_.nystrom.features(auditor.kernel(x[:2]))
    expected = -(phi[:, :, None] * DIRECTION).flatten(1) @ torch.linalg.solve(
        G + 0.2 * mean * torch.eye(len(G)), changes
    )
    found = auditor.attribute(x[:2], DIRECTION, draws=1, damping=0.2)
    torch.testing.assert_close(found[:, chosen], expected, rtol=1e-4, atol=1e-7 * float(found.abs().max()))


def test_the_curvature_of_a_subset_of_pairs_is_solved_with():
    auditor, x = fitted(SimCLR(batch_size=20), curvature_samples=20)
    fit, place = auditor.fit_, at_the_encoder(auditor)
    assert fit.memory is not None
    stream = Stream(auditor.source_, noisy, fit.rows, fit.nystrom, auditor.settings, fit.memory, Work())
    problem = streamed_problem(auditor.settings, stream, lambda _: None)(place.B)
    G = dense_curvature(problem.on(20), place.B)
    probes = torch.Generator().manual_seed(auditor.settings.seed)
    signs = [torch.randint(0, 2, tuple(place.B.shape), generator=probes).to(G).flatten() * 2 - 1 for _ in range(8)]
    shift = 0.2 * torch.stack([s * (G @ s) for s in signs]).mean()
    phi = fit.nystrom.features(auditor.kernel(x[:2]))
    s = torch.linalg.solve(G + shift * torch.eye(len(G)), (phi[:, :, None] * DIRECTION).flatten(1).T).T
    expected = -attribution.streamed_sensitivity(problem, place.B, place.D, s.reshape(2, *place.B.shape))
    found = auditor.attribute(x[:2], DIRECTION, draws=1, damping=0.2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7 * float(found.abs().max()))


def test_without_centring_f_is_the_encoders_output_with_its_mean():
    auditor, x = plain(kernel=NTK("trace", center=False, cosine=False))
    seen = []
    auditor.attribute(x, target=lambda f: seen.append(f.detach()) or f.sum(), draws=1)
    phi, z = auditor.fit_.nystrom.features(auditor.kernel(x)), auditor.encoder(x)
    torch.testing.assert_close(seen[0], phi @ torch.linalg.lstsq(phi, z).solution, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("center", [True, False])
def test_the_encoders_output_is_fitted_block_by_block_on_a_seeded_draw(monkeypatch, center):
    auditor, x = plain(kernel=NTK("trace", center=center, cosine=False), landmarks=list(range(8)), seed=3)
    monkeypatch.setattr(places, "BLOCK", 16)
    monkeypatch.setattr(places, "ENCODED", 40)
    drawn = np.random.default_rng(3).permutation(60)[:40]
    chosen = x[torch.as_tensor(drawn)]
    phi, z = auditor.fit_.nystrom.features(auditor.kernel(chosen)), auditor.encoder(chosen)
    if center:
        phi, z = phi - phi.mean(0), z - z.mean(0)
    torch.testing.assert_close(at_the_encoder(auditor).B, torch.linalg.lstsq(phi, z).solution, rtol=1e-4, atol=1e-5)


def test_scores_of_a_shortened_step_are_shortened():
    auditor, x = fitted(BarlowTwins(weight=0.05), damping=1e-2, line_search=True)
    assert 0 < auditor.outcome_.step_length < 1
    phi = auditor.fit_.nystrom.features(auditor.kernel(x[:2]))
    direction, chosen = DIRECTION[:3], [0, 30]
    expected = by_differences(lambda w: moved_moment_step(auditor, w), len(x), lambda B: phi @ B @ direction, chosen)
    found = auditor.attribute(x[:2], direction, draws=1, at="step")
    torch.testing.assert_close(found[:, chosen], expected, rtol=1e-4, atol=1e-7 * float(found.abs().max()))


# ------------------------------------------------------------------- the solves


@pytest.mark.parametrize("objective", [VICReg(), SimCLR(batch_size=20)], ids=lambda o: o.name)
def test_scores_among_some_are_those_among_all(objective):
    auditor, x = plain(objective)
    among = np.array([3, 17, 18, 59])
    part, error = attributed(auditor, x[:2], DIRECTION, None, among=among, draws=2)
    whole, errors = attributed(auditor, x[:2], DIRECTION, None, draws=2)
    assert error is not None
    assert errors is not None
    torch.testing.assert_close(part, whole[:, among])
    torch.testing.assert_close(error, errors[:, among])


def test_solves_in_parts_are_the_solves_together(monkeypatch):
    auditor, x = plain(newton=Newton(tol=1e-9))
    expected = auditor.attribute(x[:5], DIRECTION, draws=1)
    monkeypatch.setattr(attribution, "SOLVE_NUMBERS", 2 * auditor.fit_.nystrom.rank * 4)
    torch.testing.assert_close(auditor.attribute(x[:5], DIRECTION, draws=1), expected)


def test_a_solve_without_positive_curvature_is_said_however_small_its_residual(monkeypatch):
    auditor, x = plain()
    solve = attribution.adjoint

    def indefinite(*arguments):
        return replace(solve(*arguments), broken=(Status.CURVATURE_BREAKDOWN,))

    monkeypatch.setattr(attribution, "adjoint", indefinite)
    with pytest.warns(KrepesWarning, match="non-positive curvature.*raise the damping, or use dtype=torch.float64"):
        auditor.attribute(x[:2], DIRECTION, draws=1)


def test_a_broken_solve_is_refused_by_its_query(monkeypatch):
    auditor, x = plain()
    solve = attribution.adjoint

    def broken(*asked):
        found = solve(*asked)
        found.s[1] = torch.nan
        return found

    monkeypatch.setattr(attribution, "adjoint", broken)
    with pytest.raises(NonFiniteError, match="adjoint solve of query 1 broke down"):
        auditor.attribute(x[:3], DIRECTION, draws=1)


def test_solves_and_steps_that_did_not_converge_are_told_at_the_users_line():
    auditor, x = plain(newton=Newton(max_iter=1, damping=1e-6))
    with pytest.warns(KrepesWarning) as seen:
        auditor.attribute(x[:2], DIRECTION, at="step", draws=1)
    said = [str(w.message) for w in seen]
    assert any("2 of 2 adjoint solves did not converge" in s for s in said)
    assert any("the step itself did not converge" in s for s in said)
    assert {w.filename for w in seen} == {__file__}
    with pytest.warns(KrepesWarning, match="adjoint solves") as seen:
        auditor.attribute(x[:2], DIRECTION, damping=1e-9, draws=1)
    assert len(seen) == 1  # no step is followed
    with warnings.catch_warnings():
        warnings.simplefilter("error", KrepesWarning)
        plain()[0].attribute(x[:2], DIRECTION, draws=1)


def test_no_term_of_the_step_is_formed_where_there_is_none():
    auditor, _ = plain(BarlowTwins())
    place, fit = at_the_encoder(auditor), auditor.fit_
    assert fit.moments is not None
    (term,) = auditor.settings.objective.problem(fit.moments).terms()
    named = {v for t in term.per_sample(place.B, place.D, place.B) for v in (t.x, t.y)}
    assert named == {"B", "s"}
    assert "D" in {v for t in term.per_sample(place.B, place.B, place.B) for v in (t.x, t.y)}


@pytest.mark.parametrize("store", ["float32", "float16"])
def test_one_draws_features_are_held_at_a_time(monkeypatch, store):
    from krepes import pipeline

    auditor, x = plain(SimCLR(batch_size=20), dtype=torch.float32, engine=Engine(store=store))
    alive: list[weakref.ref] = []
    works, most, make = set(), 0, pipeline.pair_features

    def watched(stream, note):
        nonlocal most
        gc.collect()
        found = make(stream, note)
        alive.append(weakref.ref(found[0]))
        works.add(stream.work)
        most = max(most, sum(r() is not None for r in alive))
        return found

    monkeypatch.setattr(pipeline, "pair_features", watched)
    auditor.attribute(x[:2].float(), DIRECTION, draws=3)
    assert (len(alive), most, len(works)) == (3, 1, 3)


# ------------------------------------------------------------------- the report


@pytest.mark.parametrize("fixed", [True, False])
def test_the_report_says_what_was_asked_and_draws_where_there_were_some(tmp_path, fixed):
    x = samples(80).float()
    views = (x + 0.1, x - 0.1) if fixed else noisy
    auditor = Auditor(MLP(5, (8,), 4).eval(), VICReg(), landmarks=14).fit(x, views)
    found = auditor.findings(AuditPlan(automatic_concepts=False, refits=0), explain=[3])
    page = auditor.report(tmp_path / "report.html", findings=found).read_text(encoding="utf-8")
    assert ("how the sample's length along itself" in page) is fixed
    assert ("how the sample's local invariance" in page) is not fixed
    assert ("averaged over draws" in page) is not fixed
