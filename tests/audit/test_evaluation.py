"""Figures from labels: on planted classes they are what they must be, and labels reach nothing else."""

import ast
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import krepes
from krepes import Auditor, AuditPlan, BarlowTwins, Newton, SimCLR, Trust, VICReg
from krepes.audit.evaluation import (
    Labelled,
    aligned_fidelity,
    by_least_squares,
    class_coverage,
    confidence_drop,
    landmark_figures,
    pool,
    precision_at_1,
    probe_fidelity,
    random_coverage,
)
from krepes.audit.spectrum import spectral_entropy
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError, KrepesWarning

N = 600
SOURCES = Path(krepes.__file__).parent


def noisy(batch, generator):
    return batch + 0.3 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def classes(seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (N,), generator=generator)
    x = 3 * torch.eye(8, dtype=torch.float64)[y] + torch.randn(N, 8, generator=generator, dtype=torch.float64)
    return x, np.array(["red", "green", "blue"])[y.numpy()]


def fitted(objective=None, **newton) -> Auditor:
    torch.manual_seed(0)
    settings = Newton(**({"damping": 0.03} | newton))
    encoder = MLP(8, (24,), 6).eval()
    auditor = Auditor(encoder, objective or BarlowTwins(0.05), landmarks=80, newton=settings, dtype=torch.float64)
    return auditor.fit(classes()[0], noisy)


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    return fitted()


def test_figures_on_separated_classes(auditor):
    x, y = classes()
    landmark_labels = y[auditor.fit_.indices]
    table = auditor.evaluate(x, y, landmark_labels).set_index("figure")
    value = table["value"]
    assert 3 <= value["class coverage κ"] < 30
    assert value["precision@1, influence"] > value["precision@1, a random landmark"] + 0.1
    assert value["confidence drop, top toward the predicted class"] > value["confidence drop, random"]
    assert value["probe accuracy, kernel"] > 0.6
    assert table.at["Kendall τ", "low"] > 0
    assert value["accuracy gap"] == pytest.approx(value["probe accuracy, kernel"] - value["probe accuracy, network"])
    assert table.at["precision@1, influence", "n"] == N - 80  # landmarks do not explain themselves
    with_interval = table.drop(index="class coverage κ")
    assert (with_interval["low"] <= with_interval["value"]).all()
    assert (with_interval["value"] <= with_interval["high"]).all()


def test_the_network_in_the_kernel_is_the_least_squares_fit_of_its_outputs(auditor):
    x, y = classes()
    K = auditor.kernel(x)
    phi, z = auditor.fit_.nystrom.features(K), auditor.encoder(x)
    centred = phi - phi.mean(0)
    B = torch.linalg.lstsq(centred, z - z.mean(0), driver="gelsd").solution
    torch.testing.assert_close(by_least_squares(auditor, K), phi @ B, rtol=1e-3, atol=1e-4)
    value = auditor.evaluate(x, y, y[auditor.fit_.indices]).set_index("figure")["value"]
    assert value["Kendall τ, network in the kernel"] > 0.8 > value["Kendall τ"]
    assert abs(value["accuracy gap, network in the kernel"]) < 0.03


def test_without_training_samples_there_is_no_network_in_the_kernel(tmp_path):
    auditor = fitted()
    x, y = classes()
    labels = y[auditor.fit_.indices]
    auditor.save(tmp_path)
    loaded = krepes.load(tmp_path, encoder=auditor.encoder.module)
    assert by_least_squares(loaded, loaded.kernel(x)) is None
    found, before = (a.evaluate(x, y, labels).set_index("figure")["value"] for a in (loaded, auditor))
    assert set(before.index) - set(found.index) == {
        f"{k}, network in the kernel" for k in ("Kendall τ", "accuracy gap")
    }


def test_random_labels_give_chance(auditor):
    y = np.random.default_rng(0).permutation(classes()[1])
    table = auditor.evaluate(classes()[0], y, y[auditor.fit_.indices]).set_index("figure")
    low, high = table.loc["precision@1, influence", ["low", "high"]]
    assert low < table.at["precision@1, a random landmark", "value"] < high


def test_labels_change_nothing_but_their_figures():
    """The wall: with labels and without them, a fit has the same tensors, trust, scores and findings."""
    x, y = classes()
    table = pd.DataFrame({"first": x[:, 0].numpy(), "kind": np.where(x[:, 1].numpy() > 0, "u", "v")})
    source = ArraySource(x, metadata=table)
    blind, seeing = (
        Auditor(fitted().encoder.module, BarlowTwins(0.05), landmarks=40, newton=Newton(damping=0.03),
                dtype=torch.float64, trust=Trust(refits=False)).fit(source, noisy)
        for _ in range(2)
    )  # fmt: skip
    seeing.evaluate(x, np.random.default_rng(1).permutation(y), y[seeing.fit_.indices])
    plan = AuditPlan({"u": "kind == 'u'"}, automatic_concepts=False, points=100, refits=3)
    without = blind.findings(plan, explain=[0, 5])
    with_labels = seeing.findings(plan, explain=[0, 5], labels=y)
    assert without.evaluation is None
    assert with_labels.evaluation is not None
    for name in ("concepts", "feature_gap", "group_gap", "attribution"):
        one, other = getattr(without, name), getattr(with_labels, name)
        assert len(one)
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    for name in ("A0", "dA"):
        assert torch.equal(getattr(blind.fit_, name), getattr(seeing.fit_, name))
    assert torch.equal(blind.fit_.step.dB, seeing.fit_.step.dB)
    assert torch.equal(blind.fit_.nystrom.U, seeing.fit_.nystrom.U)
    assert blind.fit_.indices == seeing.fit_.indices
    assert blind.trust_ == seeing.trust_
    assert torch.equal(blind.influence(x[:5]), seeing.influence(x[:5]))


TAKE_LABELS = {
    # the evaluation
    ("audit/evaluation.py", "labelled"), ("audit/evaluation.py", "class_numbers"), ("audit/evaluation.py", "evaluate"),
    # what hands labels on to it
    ("auditor.py", "evaluate"), ("auditor.py", "findings"), ("audit/findings.py", "find"),
    ("audit/findings.py", "evaluated"), ("run.py", "run_audit"),
    # no part of an audit: a probe of a network that was trained here, and the names of a column's categories
    ("pretrain/outputs.py", "probe"), ("data/schema.py", "_in_order"),
}  # fmt: skip


def test_no_function_takes_labels_but_the_evaluation_and_what_leads_there():
    found = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                a = node.args
                parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                if any(p.arg.endswith("labels") for p in parameters):
                    found.add((path.relative_to(SOURCES).as_posix(), getattr(node, "name", "a lambda")))
    assert found <= TAKE_LABELS, found - TAKE_LABELS
    assert ("audit/evaluation.py", "evaluate") in found


def test_the_evaluation_is_imported_by_the_auditor_and_the_report_alone():
    """And by no stage of a fit, whatever it is called there."""
    importers = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if any(f"{module}.{name}".strip(".").endswith("audit.evaluation") for name in names) or module.endswith(
                "audit.evaluation"
            ):
                importers.add(path.relative_to(SOURCES).as_posix())
    assert importers == {"auditor.py", "report/findings.py"}


@pytest.mark.parametrize("kind", [int, float])
def test_equal_numbers_are_one_class_however_they_are_stored(auditor, kind):
    x, y = classes()
    numbers = np.unique(y, return_inverse=True)[1]
    found = auditor.evaluate(x, numbers, numbers[auditor.fit_.indices].astype(kind))
    expected = auditor.evaluate(x, y, y[auditor.fit_.indices])
    pd.testing.assert_frame_equal(found, expected)
    assert found.set_index("figure").at["precision@1, influence", "value"] > 0.4


@pytest.mark.parametrize("of_landmarks", [str, lambda v: v == 0])
def test_classes_of_different_kinds_are_refused_with_both(auditor, of_landmarks):
    x, y = classes()
    numbers = np.unique(y, return_inverse=True)[1].tolist()
    theirs = [of_landmarks(numbers[i]) for i in auditor.fit_.indices]
    with pytest.raises(DataError, match=rf"numbers \(such as {numbers[0]} in labels\) and .*{theirs[0]!r} in landmark"):
        auditor.evaluate(x, numbers, theirs)


def test_what_is_no_class_is_named(auditor):
    x, y = classes()
    with pytest.raises(DataError, match="labels holds the list"):
        auditor.evaluate(x, [*y[1:], [1]], y[auditor.fit_.indices])


def test_unlabelled_landmarks_are_left_out_and_the_rest_stays(auditor):
    x, y = classes()
    whole = auditor.evaluate(x, y, y[auditor.fit_.indices]).set_index("figure")
    some = y[auditor.fit_.indices].astype(object)
    some[[3, 7]] = None, float("nan")
    table = auditor.evaluate(x, y, some.tolist()).set_index("figure")
    assert table.index.tolist() == whole.index.tolist()
    of_landmarks = table.index.str.contains("κ|precision|drop")
    assert table["note"][of_landmarks].str.contains("2 landmarks without a label left out").all()
    assert not table["note"][~of_landmarks].str.contains("left out").any()
    pd.testing.assert_frame_equal(table[~of_landmarks], whole[~of_landmarks])
    assert table.at["class coverage κ", "n"] == 78
    assert table.at["precision@1, influence", "n"] == N - 80  # an unlabelled landmark still explains itself


def test_without_labelled_landmarks_the_probes_stay(auditor):
    x, y = classes()
    with pytest.warns(KrepesWarning, match="no landmark has a label"):
        table = auditor.evaluate(x, y, [None] * 80).set_index("figure")
    assert {"Kendall τ", "accuracy gap", "R² of aligned representations"} < set(table.index)
    assert not table.index.str.contains("κ|precision|drop").any()


def of_landmarks(classes: list[int], unlabelled: int = 0) -> Labelled:
    generator, m = np.random.default_rng(0), len(classes)
    f, fl, scores = (generator.normal(size=shape) for shape in ((40, 3), (m, 3), (40, m)))
    y = generator.integers(2, size=40)
    return Labelled(f, f, fl, fl, scores, scores, scores, fl, y, np.array(classes), unlabelled)


def test_the_note_says_how_many_landmarks_are_removed():
    rows = {row[0]: row for row in landmark_figures(of_landmarks([0, 1] * 8, 2), 0)}
    assert (
        rows["confidence drop, random"][-1] == "4 of 16 landmarks, 8 neighbours; 2 landmarks without a label left out"
    )
    with pytest.warns(KrepesWarning, match="3 landmarks have a label: too few"):
        few = landmark_figures(of_landmarks([0, 1, 0]), 0)
    assert not any("drop" in row[0] for row in few)


def test_coverage_stands_beside_that_of_random_orders():
    """Of 39 landmarks of one class and one of another, κ is where the one is: anywhere from 2 to 40."""
    data = of_landmarks([0] * 39 + [1])
    (name, value, low, high, n, note), *_ = landmark_figures(data, 0)
    assert (name, n) == ("class coverage κ", 40)
    assert math.isnan(low)
    assert math.isnan(high)
    assert 1 <= value <= 40
    a, b = random_coverage(data.y_landmarks, 0)
    assert f"random orders: {a}–{b}" in note
    assert 2 <= a <= 3
    assert 38 <= b <= 40
    assert random_coverage(np.array([0, 1]), 0) == (2, 2)


def test_test_samples_of_classes_that_the_probes_lack_are_counted():
    generator = np.random.default_rng(0)
    half = np.random.default_rng(0).permutation(100)
    y = generator.integers(2, size=100)
    y[half[-3:]] = 2  # in the half that the probes do not see
    f = generator.normal(size=(100, 3))
    empty = np.zeros((0, 3))
    rows = probe_fidelity(Labelled(f, f, empty, empty, empty, empty, empty, empty, y, y[:0]), 0)
    assert len(rows) == 4
    for row in rows:
        assert row[4] == 47
        assert row[5] == "probes on 50 samples; 3 test samples of classes that these lack left out"


def test_labels_that_a_column_of_the_table_holds_are_said(auditor):
    """Under whatever names: the alignment gaps see that column."""
    x, y = classes()
    table = pd.DataFrame(
        {"first": x[:, 0].numpy(), "colour": pd.Series(y).map({"red": "r", "green": "g", "blue": None})}
    )
    with pytest.warns(KrepesWarning, match="the labels are column 'colour'"):
        found = auditor.evaluate(ArraySource(x, metadata=table), y, y[auditor.fit_.indices]).set_index("figure")
    assert "the labels are column 'colour'" in found.at["Kendall τ", "note"]
    table.loc[0, "colour"] = "g" if y[0] != "green" else "r"
    found = auditor.evaluate(ArraySource(x, metadata=table), y, y[auditor.fit_.indices]).set_index("figure")
    assert "column" not in found.at["Kendall τ", "note"]


def test_coverage_counts_the_prefix():
    assert class_coverage(np.array([5.0, 4, 3, 2, 1]), np.array([0, 0, 1, 0, 2])) == 5
    assert class_coverage(np.array([1.0, 4, 3, 2, 5]), np.array([0, 0, 1, 0, 2])) == 3


def tiny() -> Labelled:
    """Two test samples, four landmarks in one dimension of direction."""
    f = np.array([[1.0, 0], [0, 1.0]])
    fl = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    influence = np.array([[4.0, 1, 0, 0], [0, 0, 1, 4.0]])
    return Labelled(f, f, fl, fl, influence, influence, f @ fl.T, np.ones((4, 2)), np.array([0, 1]),
                    np.array([0, 0, 1, 1]))  # fmt: skip


def test_precision_and_drop_by_hand():
    hits = precision_at_1(tiny())
    assert hits["influence"].tolist() == [True, True]
    assert hits["a random landmark"].tolist() == [0.5, 0.5]
    drops = confidence_drop(tiny(), *pool(4), 0)  # two neighbours, one landmark removed
    assert drops["top by influence"].tolist() == [0.5, 0.5]
    assert (drops["random"] <= 0.5).all()
    assert confidence_drop(tiny(), 2, 2, 0)["top by influence"].tolist() == [1, 1]  # both voters leave
    assert confidence_drop(tiny(), 3, 1, 0)["top by influence"] == pytest.approx([1 / 3, 1 / 3])  # 2 of 3, then 1 of 3


def test_entropy_is_that_of_the_spectrum():
    assert spectral_entropy(torch.eye(7, 4)) == pytest.approx(1)
    assert spectral_entropy(torch.ones(7, 4)) == pytest.approx(0, abs=1e-6)
    A = torch.diag(torch.tensor([2.0, 1.0, 1.0]).sqrt())
    assert spectral_entropy(A) == pytest.approx(1.5 * math.log(2) / math.log(3), rel=1e-6)


@pytest.mark.parametrize("objective", [BarlowTwins(0.05), SimCLR(batch_size=128)], ids=lambda o: o.name)
def test_entropy_path_passes_through_the_fit(objective):
    auditor = fitted(objective, tol=1e-9, max_iter=2000)
    path = auditor.entropy_path([1.0, 0.03, 0.1])
    assert path["damping"].tolist() == pytest.approx([1.0, 0.1, 0.03])
    assert path["entropy"].iloc[-1] == pytest.approx(auditor.spectral_entropy_, rel=1e-5)
    assert path["loss"].iloc[-1] == pytest.approx(auditor.outcome_.loss_after, rel=1e-6)


def test_entropy_over_landmarks_and_checkpoints(auditor):
    table = auditor.entropy_over(landmarks=[30, 80])
    assert table["landmarks"].tolist() == [30, 80]
    assert table["entropy"].iloc[1] == pytest.approx(auditor.spectral_entropy_)
    assert table["entropy"].iloc[0] != pytest.approx(auditor.spectral_entropy_)
    torch.manual_seed(1)
    over = auditor.entropy_over(encoders={"same": auditor.encoder.module, "fresh": MLP(8, (24,), 6).eval()})
    assert over["encoder"].tolist() == ["same", "fresh"]
    assert over["entropy"].iloc[0] == pytest.approx(auditor.spectral_entropy_)
    assert over["entropy"].iloc[1] != pytest.approx(auditor.spectral_entropy_)
    for wrong in ({}, {"landmarks": [30], "encoders": {"a": auditor.encoder.module}}, {"landmarks": [1]}):
        with pytest.raises(ConfigError):
            auditor.entropy_over(**wrong)


def test_explicit_landmarks_have_no_sampler_for_other_numbers():
    """K-means++ would be another choice than the user's, and its entropy no neighbour of theirs."""
    auditor = Auditor(MLP(8, (24,), 6).eval(), BarlowTwins(0.05), landmarks=range(40), newton=Newton(damping=0.1))
    auditor.fit(classes()[0].float(), noisy)
    with pytest.raises(ConfigError, match=r"40 landmarks were given as positions.*KMeansPlusPlus"):
        auditor.entropy_over(landmarks=[30])
    assert len(auditor.entropy_over(encoders={"same": auditor.encoder.module})) == 1


def test_aligned_representations_are_those_of_the_trust_figure():
    """On the same samples; and an unrelated representation predicts nothing."""
    generator = np.random.default_rng(0)
    f = generator.normal(size=(200, 4))
    turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    labels = generator.integers(2, size=200)
    empty = np.zeros((0, 4))

    def r2(z):
        data = Labelled(f, z, empty, empty, empty, empty, empty, empty, labels, labels[:0])
        ((_, value, low, high, n, _),) = aligned_fidelity(data, 0)
        assert low <= value <= high
        assert n == 100
        return value

    assert r2(f @ turn + 3) == pytest.approx(1, abs=1e-6)
    assert r2(generator.normal(size=(200, 4))) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, m: (x, y[:-1], m), r"labels has shape \(599,\)"),
        (lambda x, y, m: (x, y, m[:-1]), r"landmark_labels has shape \(79,\)"),
        (lambda x, y, m: (x, np.where(np.arange(N) == 3, None, y), m), "1 of 600 labels are missing"),
        (lambda x, y, m: (x, np.full(N, "red"), np.full(80, "red")), "expected at least two classes"),
        (lambda x, y, m: (x[:12], y[:12], m), "needs at least 20"),
    ],
)
def test_labels_that_do_not_fit_are_named(auditor, change, message):
    x, y = classes()
    with pytest.raises(DataError, match=message):
        auditor.evaluate(*change(x, y, y[auditor.fit_.indices]))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda a: a.entropy_path([]), "dampings"),
        (lambda a: a.entropy_path(0.1), "dampings"),
        (lambda a: a.entropy_path([float("inf")]), "dampings"),
        (lambda a: a.entropy_path([None]), "dampings"),
        (lambda a: a.entropy_over(20), "landmarks"),
        (lambda a: a.entropy_over(encoders=[a.encoder.module]), "mapping"),
    ],
)
def test_paths_that_cannot_be_followed_are_refused(ask, message):
    torch.manual_seed(0)
    x = torch.randn(80, 4)
    auditor = Auditor(MLP(4, (8,), 3).eval(), VICReg(), landmarks=12).fit(x, lambda b, g: b + 0.1)
    with pytest.raises(ConfigError, match=message):
        ask(auditor)
    assert len(auditor.entropy_over(torch.tensor([8, 12]))) == 2
