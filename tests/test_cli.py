"""The command line as a user meets it."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

import krepes
from krepes import run as run_module
from krepes.audit import findings
from krepes.cli import app
from krepes.data import ArraySource, TableSchema
from krepes.demo import VIEWS, digits
from krepes.encoders import MLP

OUTPUTS = {
    "manifest.json", "model.safetensors", "landmarks.parquet", "influence.parquet", "points.parquet", "trust.json",
    "report.html", "card.md", "concepts.parquet", "attribution.parquet", "explained.parquet", "pictures.parquet",
    "views.json", "path.parquet",
}  # fmt: skip
OF_TABLES = {"feature_gap.parquet", "group_gap.parquet", "evaluation.parquet"}  # and of labels


def krepes_command(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "demo"
    result = krepes_command("demo", "--output", folder, "--landmarks", 60)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_demo_writes_the_run_folder_and_says_where(demo):
    folder, output = demo
    assert {p.name for p in folder.iterdir()} == OUTPUTS
    assert "trust: GREEN" in output
    assert "report.html" in output


def test_demo_report_is_one_offline_file_with_trust_first(demo):
    html = (demo[0] / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", html)
    assert html.count("<script") == 1  # without which all of it can be read
    assert (
        html.index("Can this explanation be trusted?") < html.index("Key findings") < html.index("Why is this sample")
    )


def test_demo_run_loads_without_naming_the_encoder(demo):
    auditor = krepes.load(demo[0])
    from krepes.demo import digits

    top = auditor.explain(digits()[0][:3], top_k=10, ids=[f"digit-{i:04d}" for i in range(3)])
    saved = pd.read_parquet(demo[0] / "influence.parquet").head(30)
    assert top["landmark"].tolist() == saved["landmark"].tolist()


def test_a_complete_run_is_not_repeated(demo):
    result = krepes_command("demo", "--output", demo[0], "--landmarks", 60)
    assert result.exit_code == 0
    assert "holds a complete run" in result.output


def test_a_folder_of_other_settings_is_refused_with_what_differs(demo):
    result = krepes_command("demo", "--output", demo[0], "--landmarks", 50)
    assert result.exit_code == 1
    assert "these settings differ: landmarks" in result.output


@pytest.fixture
def table(tmp_path) -> Path:
    """A small audit of a table with missing cells and a category that training did not see."""
    torch.manual_seed(0)
    frame = pd.DataFrame(
        {"age": torch.randint(20, 60, (120,)).tolist(), "job": ["a", "b", "c"] * 40, "income": ["n", "p"] * 60}
    )
    schema = TableSchema.fit(frame.head(100), label="income")
    schema.save(tmp_path / "schema.json")
    frame["job"] = frame["job"].astype(object)
    frame.loc[5, "job"], frame.loc[7, "job"] = "?", "<script>alert(1)</script>"
    frame.to_csv(tmp_path / "t.csv", index=False)
    save_file(MLP(schema.width, [12], 4).state_dict(), tmp_path / "w.safetensors")
    config = {
        "encoder": {
            "factory": "krepes.encoders:MLP",
            "args": {"n_in": schema.width, "hidden": [12], "n_out": 4},
            "weights": "w.safetensors",
        },
        "data": {"table": "t.csv", "schema": "schema.json", "label": "income"},
        "views": {"name": "scarf", "rate": 0.3},
        "objective": {"name": "vicreg"},
        "landmarks": {"m": 20},
        "report": {"explain": ["row-7", "row-5"]},
        "audit": {"automatic_concepts": False},
        "trust": {"refits": False},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "c.yaml"


def test_explain_tells_audited_samples_and_new_ones_of_files(demo, tmp_path):
    auditor, images = krepes.load(demo[0]), digits()[0]
    np.save(tmp_path / "two.npy", images[:2].numpy())
    table = tmp_path / "out.csv"
    result = krepes_command("explain", demo[0], "digit-0001", tmp_path / "two.npy", "--top-k", 2, "--output", table)
    assert result.exit_code == 0, result.output
    found = pd.read_csv(table)
    assert found["sample"].unique().tolist() == ["digit-0001", *(f"{tmp_path / 'two.npy'}[{i}]" for i in (0, 1))]
    expected = auditor.explain(images[[1, 0, 1]], top_k=2)
    assert found["landmark"].tolist() == expected["landmark"].tolist()
    np.testing.assert_allclose(found["contribution"], expected["contribution"], rtol=1e-5)
    assert "sample digit-0001: landmarks by influence" in result.output
    assert f"{expected['contribution'][0]:+.4g}" in result.output
    by = krepes_command("explain", demo[0], "digit-0001", "--by", "contribution", "--top-k", 1)
    assert auditor.explain(images[[1]], top_k=1, by="contribution")["landmark"][0] in by.output


def test_explain_names_the_training_samples_behind_a_sample(demo, monkeypatch):
    result = krepes_command("explain", demo[0], "digit-0003", "--top-k", 1, "--training", 2)
    assert result.exit_code == 0, result.output
    images = digits()[0]
    auditor = krepes.load(demo[0]).with_samples(
        ArraySource(images, [f"digit-{i:04d}" for i in range(len(images))]), VIEWS
    )
    scores = auditor.attribute(images[[3]])[0]
    for effect, best in (("raises", scores.argmax()), ("lowers", scores.argmin())):
        value = re.escape(f"{float(scores[best]):+.4g}")
        assert re.search(rf"{effect} +1 +digit-{int(best):04d} +{value}", result.output)
    asked, attributed = [], findings.attributed
    monkeypatch.setattr(findings, "attributed", lambda *a, at, **more: asked.append(at) or attributed(*a, **more))
    assert krepes_command("explain", demo[0], "digit-0003", "--training", 1, "--at", "training").exit_code == 0
    assert asked == ["training"]
    nowhere = krepes_command("explain", demo[0], "digit-0003", "--training", 1, "--at", "end")
    assert "attribution_at='end'; expected 'encoder', 'step' or 'training'" in nowhere.output


def test_explain_of_a_row_encodes_it_as_the_run_did(table):
    assert krepes_command("audit", table, "--quiet").exit_code == 0
    run = table.parent / "run"
    (table.parent / "row.csv").write_text("age,job\n33,b\n")
    result = krepes_command("explain", run, table.parent / "row.csv", "row-7", "--top-k", 3)
    assert result.exit_code == 0, result.output
    auditor = krepes.load(run)
    schema = TableSchema.load(table.parent / "schema.json")
    expected = auditor.explain(schema.transform(pd.DataFrame({"age": [33.0], "job": ["b"]})), top_k=3)
    for row in expected.to_dict("records"):
        assert re.search(rf"{row['landmark']} +{row['influence']:.4g} ", result.output)
    (table.parent / "row.csv").write_text("age,jobs\n33,b\n")
    assert "the encoder knows no column 'jobs'" in ends_in_words(
        krepes_command("explain", run, table.parent / "row.csv"), 1
    )


@pytest.mark.parametrize(
    ("samples", "options", "said"),
    [
        (["nobody"], [], "nobody is no id of the 1,797 audited samples (digit-0000, …), and no file"),
        (["note.txt"], [], "note.txt: expected a name that ends in .png, .jpg"),
        (["wrong.npy"], [], "wrong.npy holds float64 of shape (3,); expected numbers (1, 8, 8)"),
        (["broken.npy"], [], "cannot read broken.npy as .npy"),
        (["nan.npy"], [], "nan.npy[0]"),
        (["empty.npy"], [], "cannot read empty.npy as .npy"),
        (["digit-0001"], ["--output", "none/t.csv"], "there is no folder"),
        (["row.csv"], [], "row.csv: "),
        (["digit-0001"], ["--by", "size"], "by='size'; expected 'influence' or 'contribution'"),
        (["digit-0001"], ["--output", "t.xlsx"], "expected a name that ends in .csv or .parquet"),
    ],
)
def test_what_cannot_be_explained_is_said(demo, tmp_path, monkeypatch, samples, options, said):
    monkeypatch.chdir(tmp_path)
    Path("note.txt").write_text("x")
    Path("row.csv").write_text("a\n1\n")
    Path("broken.npy").write_bytes(b"no array")
    Path("empty.npy").write_bytes(b"")
    np.save("wrong.npy", np.zeros(3))
    np.save("nan.npy", np.full((1, 8, 8), np.nan))
    assert said in ends_in_words(krepes_command("explain", demo[0], *samples, *options), 1)


def test_a_runs_own_report_is_not_written_over(demo):
    before = (demo[0] / "report.html").read_bytes()
    result = krepes_command("report", demo[0], "-o", demo[0] / "report.html", "--no-thumbnails")
    assert "belongs to the run and stays as it is" in ends_in_words(result, 1)
    assert (demo[0] / "report.html").read_bytes() == before


def test_audit_of_a_table_shows_raw_units_and_escapes_them(table):
    result = krepes_command("audit", table, "--quiet")
    assert result.exit_code == 0, result.output
    html = (table.parent / "run" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert(1)" not in html
    assert "missing" in html
    assert "data.job" in pd.read_parquet(table.parent / "run" / "landmarks.parquet").columns


def test_an_audit_keeps_columns_out_of_report_and_card(table):
    run = table.parent / "run"
    result = krepes_command("audit", table, "--quiet", "--no-thumbnails", "--redact", "job")
    assert result.exit_code == 0, result.output
    for name in ("report.html", "card.md"):
        assert "alert(1)" not in (run / name).read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["redact"] == ["job"]
    assert manifest["thumbnails"] is False
    assert "--redact names nobody" in ends_in_words(
        krepes_command("report", run, "-o", "x.html", "--redact", "nobody"), 1
    )
    assert "redact names nobody" in ends_in_words(
        krepes_command("audit", table, "--overwrite", "--redact", "nobody"), 1
    )


def test_a_report_is_written_again_elsewhere(table, tmp_path):
    assert krepes_command("audit", table, "--quiet").exit_code == 0
    run, path = table.parent / "run", tmp_path / "other.html"
    assert "stays as it is" in ends_in_words(krepes_command("report", run, "--redact", "job"), 1)
    result = krepes_command("report", run, "--output", path, "--redact", "job")
    assert result.exit_code == 0, result.output
    assert "alert(1)" not in path.read_text()
    (run / "points.parquet").unlink()
    assert "points.parquet is missing" in krepes_command("report", run, "--output", path).output
    assert "points.parquet is missing" in path.read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("landmark.m=3", "landmark"),
        ("landmarks.m=-3", "landmarks.m"),
        ("objective.name=foo", "foo"),
        ("objective.gamma=1", "gamma"),
        ("data.table=none.csv", "there is no file"),
        ("data.label=job", "labels never reach"),
        ("data.table=${KREPES_NOWHERE}/x.csv", "KREPES_NOWHERE"),
        ("encoder.weights=none.safetensors", "there is no weights file"),
        ("encoder.args.n_out=9", "do not fit"),
        ("report.explain=[nobody]", "nobody"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(table, override, message):
    result = krepes_command("audit", table, "--set", override)
    assert result.exit_code == 1
    assert message in re.sub(r"\s+", " ", result.output)


def test_interrupted_run_leaves_a_valid_folder_and_the_next_one_says_what_it_found(table, monkeypatch):
    def interrupt(*_args, **_kw):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_tables", interrupt)
        assert krepes_command("audit", table).exit_code == 130
    manifest = json.loads((table.parent / "run" / "manifest.json").read_text())
    assert (manifest["status"], manifest["stage"]) == ("interrupted", "scores")
    again = krepes_command("audit", table)
    assert again.exit_code == 0
    assert "stopped in stage 'scores'" in again.output


def test_full_disk_is_said_and_what_was_there_stays(table, monkeypatch):
    assert krepes_command("audit", table).exit_code == 0
    before = (table.parent / "run" / "report.html").read_bytes()

    def full(*_args, **_kw):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = krepes_command("audit", table, "--set", f"output={table.parent / 'other'}")
    assert result.exit_code == 1
    assert "No space left" in result.output
    assert (table.parent / "run" / "report.html").read_bytes() == before


ADULT = Path(os.environ.get("KREPES_DATA", "/nonexistent")) / "adult"


@pytest.mark.skipif(not (ADULT / "adult.data").exists(), reason="KREPES_DATA does not hold adult/adult.data")
def test_adult_goes_from_csv_to_report(tmp_path):
    import subprocess
    import sys

    example = Path(__file__).parents[1] / "examples" / "adult"
    train = [sys.executable, str(example / "train.py"), "--epochs", "1", "--out", str(tmp_path)]
    subprocess.run(train, check=True)
    options = ["data.rows=1500", "landmarks.m=100", f"data.schema={tmp_path}/schema.json"]
    options += [f"encoder.weights={tmp_path}/barlow_twins.safetensors"]
    flags = [x for o in options for x in ("--set", o)]
    result = krepes_command("audit", example / "barlow_twins.yaml", "--output", tmp_path / "run", *flags)
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path / "run").iterdir()} == (OUTPUTS | OF_TABLES) - {"pictures.parquet"}
    assert "Never-married" in (tmp_path / "run" / "report.html").read_text()


def test_inspect_shows_ways_costs_and_memory_without_running(table, tmp_path):
    result = krepes_command("inspect", table, "--set", "engine.memory=64MiB")
    assert result.exit_code == 0, result.output
    assert "factored" in result.output
    assert "of 64.0 MiB planned" in result.output
    assert "operations per kernel entry" in result.output


def test_inspect_refuses_a_budget_that_holds_no_block(table):
    result = krepes_command("inspect", table, "--set", "engine.memory=1KiB")
    assert result.exit_code == 1
    assert "smallest budget that works" in result.output


def test_run_prints_the_memory_plan_before_and_the_peak_after(table, tmp_path):
    result = krepes_command("audit", table, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.output.index("planned:") < result.output.index("views") < result.output.index("memory     peak")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["peak_resident_bytes"] > 10**7
    assert manifest["memory"]["tile"] >= 1
    assert not (tmp_path / "run" / "work").exists()


def ends_in_words(result, code: int) -> str:
    """What a command printed that ended with an error of its own, not with a traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code
    assert "error: " in result.output
    return re.sub(r"\s+", " ", result.output)


@pytest.mark.parametrize("query", ["@torch.os.system('touch {file}') == 0", "age.to_csv('{file}') == None"])
def test_a_strangers_configuration_runs_no_code_through_a_query(table, query):
    file = table.parent / "written"
    concepts = json.dumps({"c": query.format(file=file)})
    result = krepes_command("audit", table, "--set", f"audit.concepts={concepts}")
    assert "is no query on this table" in ends_in_words(result, 1)
    assert not file.exists()


def test_a_negative_number_of_explained_samples_is_refused_before_the_run(table):
    assert "explain=-1" in ends_in_words(krepes_command("audit", table, "--set", "report.explain=-1"), 1)
    assert not (table.parent / "run").exists()
