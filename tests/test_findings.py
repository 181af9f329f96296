"""What a run finds beside the scores: its files, what is refused before the fit, and the wall of labels."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

import krepes
from krepes.audit.asked import attributed
from krepes.audit.findings import AuditPlan, drawn_blocks, draws_and_samples
from krepes.cli import app
from krepes.data import ArraySource, TableSchema
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError

N = 300


def command(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"age": generator.integers(20, 60, N), "job": generator.choice(["a", "b", "c"], N),
         "flat": ["same"] * N, "income": generator.choice(["n", "p"], N)}
    )  # fmt: skip
    frame.loc[3, "income"] = "?"
    schema = TableSchema.fit(frame.drop(columns="income"))
    schema.save(folder / "schema.json")
    frame.to_csv(folder / "t.csv", index=False)
    save_file(MLP(schema.width, [12], 4).state_dict(), folder / "w.safetensors")
    plain = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": schema.width, "hidden": [12], "n_out": 4},
                    "weights": "w.safetensors"},
        "data": {"table": "t.csv", "schema": "schema.json", "label": "income"},
        "views": {"name": "scarf", "rate": 0.3}, "objective": {"name": "vicreg"}, "landmarks": {"m": 20},
        "audit": {"refits": 4, "concepts": {
            "<old>": "age > 40", "a not b": {"positive": "job == 'a'", "negative": "job == 'b'"}}},
        "trust": {"refits": False, "fidelity": [0.5, 0.1]}, "output": str(folder / "run"),
    }  # fmt: skip
    (folder / "c.yaml").write_text(yaml.safe_dump(plain))
    return folder / "c.yaml"


@pytest.fixture(scope="module")
def run(config):
    result = command("audit", config)
    assert result.exit_code == 0, result.output
    return config.parent / "run", result.output


def test_concepts_are_written_with_their_figures(run):
    table = pd.read_parquet(run[0] / "concepts.parquet")
    assert table["concept"].tolist()[:2] == ["<old>", "a not b"]
    assert set(table["origin"]) == {"given", "representation", "step"}
    assert (table["low"] <= table["push"]).all()
    assert (table["push"] <= table["high"]).all()
    assert (table["null_low"] <= table["null_high"]).all()
    assert table["q"].notna().tolist() == table["usable"].tolist()
    assert all(len(d) == 4 for d in table["direction"])
    assert table["n"].eq(N).all()


def test_gaps_are_those_of_the_auditor(run):
    table = pd.read_parquet(run[0] / "feature_gap.parquet")
    assert set(table["column"]) == {"age", "job"}  # flat is constant, income is the label
    loaded = krepes.load(run[0])
    with pytest.raises(krepes.errors.NotFittedError):
        loaded.feature_gap()
    for row in table.to_dict("records"):
        over_points = np.var(row["draws"])
        assert len(row["refit_gaps"]) == row["refits"] == 4
        half = (row["high"] - row["low"]) / 2
        assert half >= 1.96 * np.sqrt(over_points + np.var(row["refit_gaps"], ddof=1)) * 0.97  # the draws are 1,000
        assert row["null_low"] < row["null_high"]


def test_groups_of_categorical_columns_are_listed(run):
    table = pd.read_parquet(run[0] / "group_gap.parquet")
    assert set(table["group"]) == {"a", "b", "c"}
    assert table["n"].sum() == N - 20
    assert table["small"].tolist() == (table["n"] < 100).tolist()
    assert "job: its groups" in (run[0] / "report.html").read_text()


def test_training_samples_are_attributed_to_the_explained_ones(run):
    table = pd.read_parquet(run[0] / "attribution.parquet")
    assert table["sample"].nunique() == 6
    assert set(table["effect"]) == {"raises", "lowers"}
    assert (np.sign(table["score"]) == np.where(table["effect"] == "raises", 1, -1)).all()
    assert table["target"].eq("local invariance").all()


def test_labels_are_checked_against_where_they_are_known(run):
    table = pd.read_parquet(run[0] / "evaluation.parquet").set_index("figure")
    assert -1 <= table.loc["Kendall τ", "value"] <= 1
    assert table.loc["precision@1, influence", "n"] <= N - 20 - 1  # no landmarks, and one label is missing


def test_report_shows_them_and_escapes_names(run):
    html = (run[0] / "report.html").read_text()
    assert "&lt;old&gt;" in html
    assert "<old>" not in html
    for title in ("Concepts", "share with the landmarks that move them", "Checked against labels", "What was left out"):
        assert title in html
    assert "column &#39;flat&#39; is constant" in html
    assert html.index("Can this explanation") < html.index("Checked against labels")


def test_manifest_holds_notes_figures_and_checksums(run):
    manifest = json.loads((run[0] / "manifest.json").read_text())
    assert any("flat" in note for note in manifest["notes"])
    assert 0 < manifest["figures"]["spectral_entropy"] <= 1
    assert manifest["attributed"] == N
    assert {"concepts.parquet", "feature_gap.parquet", "evaluation.parquet"} <= set(manifest["outputs"])
    assert "note       alignment gaps" in run[1]
    assert next(f for f in json.loads((run[0] / "trust.json").read_text())["figures"] if "R²" in f["name"])[
        "threshold"
    ] == "≥ 0.5"  # fmt: skip


def test_a_damaged_finding_is_made_again(run, config):
    path = run[0] / "concepts.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    result = command("audit", config)
    assert "concepts.parquet in" in result.output
    assert pd.read_parquet(path)["concept"][0] == "<old>"


def test_other_labels_are_another_run(run, config, tmp_path):
    frame = pd.read_csv(config.parent / "t.csv")
    frame["income"] = "p"
    frame.to_csv(tmp_path / "t.csv", index=False)
    result = command("audit", config, "--set", f"data.table={tmp_path / 't.csv'}")
    assert result.exit_code == 1
    assert "labels" in result.output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("audit.concepts={x: 'age > 900'}", "selects no sample"),
        ("audit.concepts={x: 'age == 41 and job == \"a\"'}", "expected at least 10"),
        ("audit.concepts={x: 'wage > 900'}", "wage"),
        ("audit.concepts={x: {negative: 'age > 40'}}", "positive"),
        ("audit.features=[wage]", "wage"),
        ("audit.features=[flat]", "constant"),
        ("audit.points=5", "audit.points"),
        ("audit.concept_folder=nowhere", "there is no folder"),
        ("trust.fidelty=[1, 0]", "fidelty"),
        ("trust.fidelity=[0, 1]", "fidelity"),
        ("data.labels=x.npy", "label column"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_fit(config, tmp_path, override, message):
    result = command("audit", config, "-o", tmp_path / "run", "--set", override)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "landmarks  " not in result.output


def noisy(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def fitted(views=noisy, table=True, n=N):
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(2))
    frame = pd.DataFrame({"first": x[:, 0].numpy(), "kind": ["u", "v"] * (n // 2)}) if table else None
    torch.manual_seed(0)
    auditor = krepes.Auditor(MLP(5, (16,), 3).eval(), krepes.VICReg(), landmarks=25, newton=krepes.Newton(damping=0.1))
    source = ArraySource(x, [f"s{i}" for i in range(n)], frame)
    return auditor.fit(source, views if callable(views) else tuple(v(x) for v in views))


PLAN = AuditPlan(automatic_concepts=False)


def test_labels_change_nothing_but_the_evaluation():
    one, other = (fitted() for _ in range(2))
    blind = one.findings(PLAN)
    seen = other.findings(PLAN, labels=["p" if i % 3 else "q" for i in range(N)])
    assert blind.evaluation is None
    assert seen.evaluation is not None
    pd.testing.assert_frame_equal(blind.feature_gap, seen.feature_gap)
    pd.testing.assert_frame_equal(blind.attribution, seen.attribution)


def test_what_cannot_be_had_is_a_note():
    found = fitted().findings(PLAN, labels=list(range(N)))
    assert found.evaluation is None
    assert any("300 different values" in note for note in found.notes)
    small = fitted(n=60).findings(AuditPlan(points=20))
    assert any("alignment gaps: not available; there are" in note for note in small.notes)
    assert fitted(table=False).findings(PLAN).feature_gap is None


def test_fixed_views_are_attributed_by_length():
    auditor = fitted(views=(lambda x: x + 0.1, lambda x: x - 0.1))
    table = auditor.findings(PLAN, explain=[0, 5]).attribution
    assert table["target"].eq("length along itself").all()
    assert table["sample"].unique().tolist() == ["s0", "s5"]


def test_training_samples_are_asked_for_along_a_training():
    auditor = fitted()
    found = auditor.findings(AuditPlan(automatic_concepts=False, refits=0, attribution_at="training"), explain=[3])
    scores = auditor.attribute(auditor.source_.batch([3]), at="training")[0]
    table = found.attribution
    assert table["target"].eq("local invariance (after a training)").all()
    assert table.iloc[0]["position"] == int(scores.argmax())
    assert table.iloc[0]["score"] == pytest.approx(float(scores.max()), rel=1e-4)
    assert (table["error"] > 0).all()
    byol = krepes.Auditor(MLP(5, (16,), 3).eval(), krepes.BYOL(), landmarks=25)
    byol.fit(torch.randn(100, 5, generator=torch.Generator().manual_seed(2)), noisy)
    plan = AuditPlan(automatic_concepts=False, refits=0, points=20, attribution_at="training")
    refused = byol.findings(plan, explain=[3])
    assert refused.attribution is None
    assert any("training samples: not available; BYOL has no loss" in note for note in refused.notes)


def test_a_bounded_attribution_is_that_of_whole_blocks():
    auditor = fitted(n=800)
    whole = auditor.attribute(auditor.source_.batch([3]), draws=4)
    found = auditor.findings(AuditPlan(automatic_concepts=False, attribution=1100, refits=0), explain=[3])
    looked = drawn_blocks(800, 275, 0)
    assert found.attributed == len(looked) == 512
    for row in found.attribution.to_dict("records"):
        assert row["position"] in looked
        assert row["score"] == pytest.approx(float(whole[0, row["position"]]), rel=1e-4)
        assert row["error"] > 0
        assert 0 <= row["reliability"] <= 1
    best = looked[int(whole[0, torch.as_tensor(looked)].argmax())]
    assert found.attribution.iloc[0]["training_sample"] == f"s{best}"


def test_a_streamed_objective_is_attributed_among_some():
    x = torch.randn(600, 5, generator=torch.Generator().manual_seed(2))
    auditor = krepes.Auditor(MLP(5, (16,), 3).eval(), krepes.SimCLR(batch_size=100), landmarks=25)
    auditor.fit(x, noisy)
    among = drawn_blocks(600, 200, 0)
    part, error = attributed(auditor, x[:2], None, "invariance", among=among, draws=2)
    torch.testing.assert_close(part, auditor.attribute(x[:2], draws=2)[:, torch.as_tensor(among)])
    assert error is not None
    assert error.shape == part.shape


@pytest.mark.parametrize(
    ("n", "pairs", "streaming", "draws", "looked"),
    [(1000, 200_000, False, 8, 1000), (50_000, 200_000, False, 4, 50_000), (1_000_000, 200_000, False, 4, 50_176),
     (1_000_000, 200_000, True, 1, 200_192), (1000, 1, False, 4, 256)],
)  # fmt: skip
def test_a_samples_views_are_drawn_again_before_more_samples_are_looked_at(n, pairs, streaming, draws, looked):
    found, among = draws_and_samples(n, pairs, streaming, 0)
    assert found == draws
    assert (n if among is None else len(among)) == looked


def test_concepts_of_one_name_are_refused(tmp_path):
    (tmp_path / "twin").mkdir()
    np.save(tmp_path / "twin" / "a.npy", np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32))
    plan = AuditPlan({"twin": "kind == 'u'"}, tmp_path, automatic_concepts=False)
    with pytest.raises(ConfigError, match="share a name: twin"):
        fitted().findings(plan)


@pytest.mark.parametrize(
    "wrong", [{"points": 5}, {"points": 20.5}, {"points": None}, {"attribution": -1}, {"concepts": ["x"]},
              {"concepts": {1: "first > 0"}}, {"features": "first"}, {"concept_folder": 5},
              {"automatic_concepts": "yes"}],
)  # fmt: skip
def test_wrong_plans_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AuditPlan(**wrong)


def test_explained_samples_and_labels_are_checked():
    auditor = fitted()
    for wrong in ([500], [-1], [1.5], ["nobody"]):
        with pytest.raises(ConfigError, match="unknown samples"):
            auditor.findings(PLAN, explain=wrong)
    assert set(auditor.findings(PLAN, explain=["s4"]).attribution["sample"]) == {"s4"}
    for wrong in ("abc", ["p"] * 5, [["p", "q"]] * N):
        with pytest.raises(DataError, match="labels has shape"):
            auditor.findings(PLAN, labels=wrong)
    nothing = auditor.findings(PLAN, labels=[None] * N)
    assert any("0 test samples" in note for note in nothing.notes)


def test_python_plans_are_checked():
    with pytest.raises(ConfigError, match="expected positive"):
        fitted().findings(AuditPlan({"x": {"plus": "kind == 'u'"}}))
    with pytest.raises(DataError, match="at least 10"):
        fitted().findings(AuditPlan({"x": ["s1", "s2"]}))
