"""The trust gate: refits say what they should, thresholds are the user's, and a bad explanation is not green."""

import math

import pandas as pd
import pytest
import torch

from krepes import NTK, Auditor, BarlowTwins, Newton, SimCLR, Trust, VICReg
from krepes.audit import stability
from krepes.audit.trust import TrustFigure, beyond_random, effective_dimensions, fidelity, judged
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError, NonFiniteError

N, D = 300, 8


def noisy(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def samples() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def fitted(views=noisy, objective=None, kernel="trace", **settings) -> Auditor:
    torch.manual_seed(0)
    auditor = Auditor(
        MLP(D, (24,), 4).eval(), objective or BarlowTwins(0.05), kernel, landmarks=40,
        newton=settings.pop("newton", Newton(damping=0.1)), dtype=torch.float64, **settings,
    )  # fmt: skip
    return auditor.fit(ArraySource(samples(), [f"s{i}" for i in range(N)], pd.DataFrame({"a": range(N)})), views)


def figures(auditor) -> dict:
    return {f.name: f for f in auditor.trust_.figures}


def test_every_figure_is_there_with_its_threshold():
    found = figures(fitted())
    assert list(found) == [
        "loss decrease", "gain ratio", "linear solve", "fidelity R²", "Nyström error", "rank", "step size",
        "output dimensions", "views recognised", "seed stability", "random landmarks", "randomised weights",
    ]  # fmt: skip
    assert all(f.threshold and f.meaning for f in found.values())
    assert found["randomised weights"].threshold == "≤ 0.6"


def test_thresholds_are_the_users():
    strict = fitted(trust=Trust(fidelity=(1.0, 0.9999), randomised_weights=(-1, -1)))
    found = figures(strict)
    assert found["fidelity R²"].verdict == "red"
    assert found["randomised weights"].verdict == "red"
    assert strict.trust_.verdict == "red"
    assert "fidelity R²" in strict.trust_.sentence
    assert "seed stability" not in figures(fitted(trust=Trust(refits=False)))


@pytest.mark.parametrize(
    "wrong", [{"fidelity": 0.7}, {"fidelity": (0.4, 0.7)}, {"nystrom_error": (0.6, 0.3)}, {"rank": ("a", 1)},
              {"refits": 1}, {"gain_ratio": (math.nan, 0)}],
)  # fmt: skip
def test_wrong_thresholds_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Trust(**wrong)


def test_outputs_on_a_line_are_amber():
    torch.manual_seed(0)
    network = MLP(D, (24,), 4).eval()
    with torch.no_grad():  # the last layer has rank 1, and what is left of others
        last = network.layers[-1]
        last.weight.copy_(last.weight[:1] * torch.tensor([[1.0], [2.0], [-1.0], [0.5]]) + 0.02 * last.weight)
    auditor = Auditor(network, BarlowTwins(0.05), "trace", 40, Newton(damping=0.1), trust=Trust(refits=False))
    auditor.fit(samples(), noisy)
    found = figures(auditor)["output dimensions"]
    assert found.verdict == "amber"
    assert found.display.endswith(" of 4")
    assert "output dimensions" in auditor.trust_.sentence
    assert figures(fitted())["output dimensions"].verdict == "green"


@pytest.mark.parametrize("outputs", [1, 2])
def test_few_outputs_have_no_dimensions_to_lose(outputs):
    torch.manual_seed(0)
    network = MLP(D, (24,), outputs).eval()
    auditor = Auditor(network, VICReg(), "trace", 40, Newton(damping=0.1), trust=Trust(refits=False))
    assert "output dimensions" not in figures(auditor.fit(samples(), noisy))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e307])
def test_effective_dimensions_count_equal_variances(scale):
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(50, 7, generator=generator, dtype=torch.float64))
    basis, _ = torch.linalg.qr(basis - basis.mean(0))
    turn, _ = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64))
    for k in range(1, 8):
        z = scale * (3 + basis[:, :k] @ turn[:k])
        assert effective_dimensions(z) == pytest.approx(k, rel=1e-9)
    shares = torch.tensor([0.9, 0.1], dtype=torch.float64)
    z = scale * basis[:, :2] * shares.sqrt()
    assert effective_dimensions(z) == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))
    assert effective_dimensions(torch.full((20, 3), scale, dtype=torch.float64)) == 1
    assert effective_dimensions(z[:15]) == "15 samples; expected at least 16"


def test_views_without_randomness_make_the_same_ranking():
    still = fitted(lambda batch, generator: batch * 1.1)
    assert figures(still)["seed stability"].value > 0.95  # the seed also draws the probe of the mean curvature
    assert 0.1 < figures(fitted())["seed stability"].value < 1


def test_more_samples_make_the_ranking_stabler():
    """Views of few samples are noise, and the figure shows it."""
    few, many = fitted(), fitted()
    some = stability.Refitter.of(few.fit_, few.settings, few.encoder, few.source_, noisy)
    assert len(some.source) == N
    x = samples()[:64]
    drawn = []
    for n in (30, N):
        part = stability.Refitter(
            many.fit_, some.settings, many.encoder, ArraySource(samples()[:n]), noisy
        )  # fmt: skip
        steps = [part.step(many.fit_.rows, s) for s in (some.settings, _other_seed(some.settings))]
        drawn.append(stability.jaccard(*(stability.influence_of(many.fit_.rows, dA, x) for _, dA in steps), 10))
    assert drawn[0] < drawn[1]


def _other_seed(settings):
    from dataclasses import replace

    return replace(settings, seed=9)


def test_the_refit_of_the_same_settings_is_the_fit():
    auditor = fitted()
    again = stability.Refitter.of(auditor.fit_, auditor.settings, auditor.encoder, auditor.source_, noisy)
    _, dA = again.step(auditor.fit_.rows, again.settings)
    torch.testing.assert_close(dA, auditor.dA_, rtol=1e-6, atol=1e-9)


def test_shuffled_weights_keep_each_tensors_entries_and_leave_the_network_alone():
    network = MLP(D, (24,), 4).eval()
    before = [p.clone() for p in network.parameters()]
    other = stability.shuffled(network, 0)
    for p, q, kept in zip(network.parameters(), other.parameters(), before, strict=True):
        assert torch.equal(p, kept)
        assert torch.equal(p.flatten().sort().values, q.flatten().sort().values)
    assert not torch.equal(next(iter(network.parameters())), next(iter(other.parameters())))


def test_jaccard_and_its_chance():
    a = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    b = torch.tensor([[3.0, 0.0, 1.0, 2.0]])
    assert stability.jaccard(a, a, 2) == 1
    assert stability.jaccard(a, b, 2) == pytest.approx(1 / 3)
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(4000, 50, generator=generator) for _ in range(2))
    assert stability.jaccard(one, other, 10) == pytest.approx(stability.chance(10, 50), abs=0.01)


@pytest.mark.parametrize("objective", [VICReg(), SimCLR(batch_size=64)])
@pytest.mark.parametrize("kernel", ["trace", NTK("sketch", sketch=4), NTK("pseudo", project=32)])
def test_every_objective_and_kernel_is_refitted(objective, kernel):
    auditor = fitted(objective=objective, kernel=kernel, newton=Newton(damping="auto"))
    found = figures(auditor)
    assert 0 <= found["seed stability"].value <= 1
    assert abs(found["randomised weights"].value) <= 1


def test_two_tensors_of_views_and_subsets_are_refitted():
    x = samples()
    pair = (x + 0.1, x - 0.1)
    auditor = fitted(pair)
    assert figures(auditor)["seed stability"].value > 0.95
    other = auditor.counterfactual([f"s{i}" for i in range(20)], keep_landmarks=True)
    assert figures(other)["seed stability"].value > 0.95


def test_a_network_that_shuffling_breaks_is_said():
    """Exponentials of shuffled weights overflow."""

    class Steep(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(D, 8, dtype=torch.float64)
            with torch.no_grad():
                self.layer.weight.zero_()
                self.layer.weight[:, 0] = 900.0  # acts on the first input, which is small
                self.layer.weight[1:, 1:] = 0.1 * torch.eye(7)

        def forward(self, x):
            return torch.exp(self.layer(x * torch.tensor([1e-3] + [1.0] * (D - 1), dtype=x.dtype)))

    torch.manual_seed(0)
    auditor = Auditor(Steep().eval(), VICReg(), landmarks=40, newton=Newton(damping="auto"), dtype=torch.float64)
    auditor.fit(samples(), noisy)
    figure = next(f for f in auditor.trust_.figures if f.name == "randomised weights")
    assert (figure.verdict, figure.value) == ("amber", None)
    assert figure.display.startswith("not computed: with shuffled weights, the encoder gives NaN or infinity")
    assert auditor.trust_.verdict != "green"


def test_random_landmarks_that_span_nothing_are_not_green():
    """Eleven different samples are the landmarks; ten drawn of all 300 are copies of one."""
    x = samples()
    x[11:] = x[11]
    torch.manual_seed(0)
    auditor = Auditor(MLP(D, (24,), 4).eval(), BarlowTwins(0.05), landmarks=range(11), newton=Newton(damping=0.1),
                      dtype=torch.float64)  # fmt: skip
    auditor.fit(x, noisy)
    figure = figures(auditor)["random landmarks"]
    assert (figure.verdict, figure.value) == ("amber", None)
    assert "random landmarks give no representation: " in figure.display
    assert "span" in figure.display
    assert auditor.trust_.verdict != "green"


def test_a_seed_whose_refit_fails_is_not_green(monkeypatch):
    auditor, step = fitted(), stability.Refitter.step

    def broken(self, rows, settings):
        if settings.seed != auditor.settings.seed:
            raise NonFiniteError("the views of seed 1 are not finite")
        return step(self, rows, settings)

    monkeypatch.setattr(stability.Refitter, "step", broken)
    figure = figures(auditor)["seed stability"]
    assert (figure.verdict, figure.value) == ("amber", None)
    assert figure.display == "not computed: the views of seed 1 are not finite"


def test_fidelity_of_too_few_samples_says_so_and_nothing_is_held_against_it():
    torch.manual_seed(0)
    auditor = Auditor(MLP(D, (24,), 4).eval(), BarlowTwins(0.05), landmarks=10, newton=Newton(damping=0.1),
                      dtype=torch.float64)  # fmt: skip
    auditor.fit(samples()[:14], noisy)
    found = figures(auditor)
    assert (found["fidelity R²"].verdict, found["fidelity R²"].value) == ("red", None)
    assert "14 samples; expected at least 16" in found["fidelity R²"].display
    assert (found["random landmarks"].verdict, found["random landmarks"].value) == ("amber", None)
    assert "there is no fidelity to compare: 14 samples" in found["random landmarks"].display


def test_reasons_are_the_true_ones():
    f, z = samples()[:40, :4], samples()[:40, 4:].numpy()
    assert beyond_random(f, 0.5, z)[0] == pytest.approx(0.5 - fidelity(f, z))
    broken = f.clone()
    broken[3] = math.nan
    assert beyond_random(broken, 0.5, z) == (
        "random landmarks have no fidelity: the kernel representation is not finite", None,
    )  # fmt: skip
    assert "the same for all held-out samples" in str(fidelity(f, z * 0))
    assert beyond_random("the landmarks span 2 dimensions", 0.5, z)[0] == (
        "random landmarks give no representation: the landmarks span 2 dimensions"
    )
    ones = torch.ones(3, 5)
    assert "no order" in str(stability.rank_correlation(ones, torch.rand(3, 5)))
    assert "not finite" in str(stability.rank_correlation(ones * math.nan, torch.rand(3, 5)))
    ranked = torch.arange(5.0).expand(3, 5)
    assert stability.rank_correlation(ranked, torch.cat([ranked[:2], ones[:1]])) == pytest.approx(1)  # of two rows


def test_the_sentence_tells_failed_figures_from_missing_ones():
    def figure(name, value, verdict):
        return TrustFigure(name, value, "", "", verdict, "")

    amber = judged([figure("a", 0.5, "green"), figure("b", 0.1, "amber"), figure("c", None, "amber")])
    assert amber.verdict == "amber"
    assert amber.sentence == "Read with care: b outside the comfortable range; c could not be computed."
    assert judged([figure("c", None, "amber")]).sentence == "Read with care: c could not be computed."
    red = judged([figure("a", 0.0, "red"), figure("c", None, "amber")])
    assert (red.verdict, red.sentence) == ("red", "Do not rely on this explanation: a failed.")


def test_a_gain_ratio_far_above_one_is_amber():
    auditor = fitted(objective=VICReg(), newton=Newton(damping=1e-4), trust=Trust(refits=False))
    assert auditor.outcome_.gain_ratio > 1.75
    figure = figures(auditor)["gain ratio"]
    assert (figure.verdict, figure.threshold) == ("amber", "≥ 0.25, ≤ 1.75")
    wide = fitted(objective=VICReg(), newton=Newton(damping=1e-4), trust=Trust(refits=False, gain_ratio=(-9.0, -9.0)))
    assert figures(wide)["gain ratio"].verdict == "green"


def test_auto_does_not_take_a_step_whose_loss_falls_by_more_than_the_model_says():
    outcome = fitted(objective=VICReg(), newton=Newton()).outcome_
    held, beyond = ([t for t in outcome.trials if t.accepted is value] for value in (True, False))
    assert beyond[0].gain_ratio > 1.75
    assert beyond[0].damping < held[-1].damping
    assert outcome.relative_damping == pytest.approx(held[-1].damping)
    assert outcome.gain_ratio <= 1.75
    without = fitted(objective=VICReg(), newton=Newton(damping=beyond[0].damping)).outcome_
    assert f"The gain ratio {without.gain_ratio:.2f} is above 1.75" in without.message
