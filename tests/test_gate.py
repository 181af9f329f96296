"""`krepes check` and `krepes compare`: finished runs against limits and against each other."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from krepes import comparison, gate
from krepes.cli import app
from krepes.data import TableSchema
from krepes.encoders import MLP
from krepes.errors import ConfigError, RunFolderError
from krepes.files import sha256_file

N = 400


def command(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """a: a run; again: of another landmark seed; other: of a network that sees another column first."""
    folder = tmp_path_factory.mktemp("gate")
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"x=y": generator.normal(size=N), "b": generator.normal(size=N)})
    frame["label"] = np.where(frame["x=y"] > 0, "p", "n")
    schema = TableSchema.fit(frame.drop(columns="label"))
    schema.save(folder / "schema.json")
    frame.to_csv(folder / "t.csv", index=False)
    torch.manual_seed(0)
    network = MLP(schema.width, [12], 4)
    save_file(network.state_dict(), folder / "w.safetensors")
    with torch.no_grad():
        next(network.parameters())[:, 0] *= 5
    save_file(network.state_dict(), folder / "w2.safetensors")
    plain = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": schema.width, "hidden": [12], "n_out": 4},
                    "weights": "w.safetensors"},
        "data": {"table": "t.csv", "schema": "schema.json", "label": "label"},
        "views": {"name": "scarf", "rate": 0.3}, "objective": {"name": "vicreg"}, "landmarks": {"m": 25},
        "audit": {"concepts": {"high": "b > 0"}, "automatic_concepts": False}, "trust": {"refits": False},
    }  # fmt: skip
    (folder / "c.yaml").write_text(yaml.safe_dump(plain))
    for name, settings in (("a", ()), ("again", ("seed=1",)), ("other", ("encoder.weights=w2.safetensors",))):
        flags = [x for s in settings for x in ("--set", s)]
        code, output = command("audit", folder / "c.yaml", "-q", "-o", folder / name, *flags)
        assert code == 0, output
    return folder


def gap(folder, column="x=y"):
    return pd.read_parquet(folder / "feature_gap.parquet").set_index("column").loc[column]


def test_limits_that_hold_and_that_do_not(runs):
    row = gap(runs / "a")
    size = abs(row["gap"])
    assert command("check", runs / "a")[0] == 0
    assert command("check", runs / "a", "--max-gap", f"x=y={size + 1e-6}")[0] == 0
    code, output = command("check", runs / "a", "--max-gap", f"x=y={size - 1e-6}", "--max-gap", "b=1")
    assert code == 1
    assert "FAIL gap x=y" in output
    assert "pass gap b" in output


def test_strict_limits_hold_for_the_whole_interval(runs):
    row = gap(runs / "a")
    limit = (abs(row["gap"]) + max(abs(row["low"]), abs(row["high"]))) / 2
    lax, strict = (gate.check(runs / "a", {"x=y": limit}, strict=s)[1] for s in (False, True))
    assert (lax.passed, strict.passed) == (True, False)
    assert "reaches beyond" in lax.remark


def test_tau_and_trust(runs):
    tau = pd.read_parquet(runs / "a" / "evaluation.parquet").set_index("figure").loc["Kendall τ", "value"]
    assert command("check", runs / "a", "--min-tau", tau - 1e-6)[0] == 0
    assert command("check", runs / "a", "--min-tau", tau + 1e-6)[0] == 1
    verdict = json.loads((runs / "a" / "trust.json").read_text())["verdict"]
    worst = ("green", "amber", "red")
    for allowed in worst:
        assert gate.check(runs / "a", worst_trust=allowed)[0].passed == (worst.index(verdict) <= worst.index(allowed))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-gap", "wage=0.1"), "no gap of column 'wage'; it has"),
        (("--max-gap", "wage"), "expected COLUMN=LIMIT"),
        (("--max-gap", "b=-1"), "at least 0"),
        (("--max-gap", "b=nan"), "at least 0"),
        (("--min-tau", "3"), "between -1 and 1"),
        (("--trust", "blue"), "green, amber, red"),
    ],
)
def test_what_cannot_be_checked_has_its_own_exit_code(runs, arguments, message):
    code, output = command("check", runs / "a", *arguments)
    assert code == 2
    assert message in output


def written(folder, gap=(0.01, -0.02, 0.03), tau=(0.9, 0.85, 0.95), **files):
    """A complete run of one column and τ, with (value, low, high); `files` replace what is in it, checksums and all."""
    rows = {"feature_gap": ("column", "b", "gap", gap), "evaluation": ("figure", "Kendall τ", "value", tau)}
    for name, (key, row, value, (estimate, low, high)) in rows.items():
        table = pd.DataFrame({key: [row], value: [estimate], "low": [low], "high": [high]})
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "trust.json").write_text(json.dumps({"verdict": "green", "sentence": "good", "figures": []}))
    for name, content in files.items():
        (folder / name.replace("_json", ".json").replace("_parquet", ".parquet")).write_bytes(content)
    names = ("trust.json", "feature_gap.parquet", "evaluation.parquet")
    outputs = {name: sha256_file(folder / name) for name in names}
    (folder / "manifest.json").write_text(json.dumps({"status": "complete", "outputs": outputs}))
    return folder


NAN = float("nan")


@pytest.mark.parametrize(
    ("figures", "arguments", "message"),
    [
        ({"tau": (NAN, NAN, NAN)}, ("--min-tau", "0.5"), "Kendall τ is nan in this run: whether it is ≥ 0.5 cannot be"),
        ({"tau": (NAN, NAN, NAN)}, ("--min-tau", "-1"), "cannot be told"),
        ({"gap": (NAN, NAN, NAN)}, ("--max-gap", "b=1"), "gap b is nan in this run: whether it is ≤ 1 in size cannot"),
        ({"gap": (float("inf"), 0, 1)}, ("--max-gap", "b=1"), "cannot be told"),
        ({"gap": (0.01, NAN, NAN)}, ("--max-gap", "b=1", "--strict"), "gap b has no interval in this run"),
        ({"tau": (0.9, 0.8, NAN)}, ("--min-tau", "0.5", "--strict"), "Kendall τ has no interval in this run"),
    ],
)
def test_a_figure_that_is_no_number_neither_passes_nor_fails(tmp_path, figures, arguments, message):
    code, output = command("check", written(tmp_path, **figures), *arguments)
    assert code == 2, output
    assert message in output
    assert "pass" not in output
    assert "FAIL" not in output


def test_without_strict_a_missing_interval_is_a_remark(tmp_path):
    found = gate.check(written(tmp_path, gap=(0.01, NAN, NAN)), {"b": 0.5}, 0.5)
    assert [one.passed for one in found] == [True, True, True]
    assert [one.remark for one in found[1:]] == ["there is no 95 % interval", ""]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"trust_json": b'{"verdict": "gre'}, "trust.json cannot be read"),
        ({"trust_json": b"\xff\xfe"}, "trust.json cannot be read"),
        ({"trust_json": b"[]"}, "trust.json holds no verdict"),
        ({"trust_json": b'{"verdict": "blue", "sentence": ""}'}, "trust.json holds no verdict"),
        ({"trust_json": b'{"verdict": "green"}'}, "trust.json holds no verdict"),
        ({"trust_json": b'{"verdict": ["green"], "sentence": ""}'}, "trust.json holds no verdict"),
        ({"feature_gap_parquet": b"PAR1"}, "feature_gap.parquet in"),
        ({"evaluation_parquet": b""}, "evaluation.parquet in"),
    ],
)
def test_damaged_files_cannot_be_told(tmp_path, files, message):
    """Even where the checksum is that of the damage."""
    code, output = command("check", written(tmp_path, **files), "--max-gap", "b=1", "--min-tau", "0")
    assert code == 2, output
    assert message in output


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"figure": ["accuracy"], "value": [0.5], "low": [0.4], "high": [0.6]},
            "no value of figure 'Kendall τ'; it has",
        ),
        ({"figure": ["Kendall τ"], "value": [0.5]}, "has no column low, high"),
        ({"figure": ["Kendall τ"], "value": ["much"], "low": [0.4], "high": [0.6]}, "is no number"),
    ],
)
def test_a_table_without_its_figure_cannot_be_told(tmp_path, table, message):
    pd.DataFrame(table).to_parquet(tmp_path / "other.parquet")
    content = (tmp_path / "other.parquet").read_bytes()
    code, output = command("check", written(tmp_path, evaluation_parquet=content), "--min-tau", "0")
    assert code == 2, output
    assert message in output


def test_a_manifest_that_misstates_its_files_cannot_be_told(tmp_path):
    written(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "complete", "outputs": ["trust.json"]}))
    assert command("check", tmp_path)[0] == 2


def test_changed_and_incomplete_runs_are_refused(runs, tmp_path):
    import shutil

    shutil.copytree(runs / "a", tmp_path / "run")
    table = pd.read_parquet(tmp_path / "run" / "feature_gap.parquet")
    table.assign(gap=0.0).to_parquet(tmp_path / "run" / "feature_gap.parquet", index=False)
    code, output = command("check", tmp_path / "run", "--max-gap", "b=1")
    assert code == 2
    assert "feature_gap.parquet" in output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest | {"status": "failed"}))
    with pytest.raises(RunFolderError, match="not complete"):
        gate.check(tmp_path / "run")
    assert command("check", tmp_path)[0] == 2
    with pytest.raises(ConfigError, match="green, amber, red"):
        gate.check(runs / "a", worst_trust="best")


def test_a_run_compared_with_itself_differs_in_nothing(runs):
    found = comparison.compare(runs / "a", runs / "a")
    assert len(found.landmarks) == 0
    assert found.kept == 25
    for table in (found.gaps, found.concepts):
        assert len(table)
        assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert (found.figures["difference"].dropna() == 0).all()


def test_differences_are_b_minus_a_with_intervals_around_them(runs):
    found = comparison.compare(runs / "a", runs / "other")
    for row in found.gaps.to_dict("records"):
        a, b = (gap(runs / r, row["name"])["gap"] for r in ("a", "other"))
        assert row["difference"] == pytest.approx(b - a)
        assert row["low"] <= row["difference"] <= row["high"]
    assert found.concepts["name"].tolist() == ["high"]
    assert {"spectral entropy", "class coverage κ", "Kendall τ"} <= set(found.figures["figure"])
    assert "Two different encoders." in found.notes


def test_landmarks_gained_and_lost(runs):
    found = comparison.compare(runs / "a", runs / "again")
    ids = [set(pd.read_parquet(runs / r / "landmarks.parquet")["landmark"]) for r in ("a", "again")]
    by_change = found.landmarks.groupby("change")["landmark"].apply(set)
    assert by_change["gained"] == ids[1] - ids[0]
    assert by_change["lost"] == ids[0] - ids[1]
    assert found.kept == len(ids[0] & ids[1])
    assert "These settings differ: seed." in found.notes


def test_compare_prints_and_writes(runs, tmp_path):
    code, output = command("compare", runs / "a", runs / "other", "-o", tmp_path / "c.json")
    assert code == 0, output
    assert "landmarks: " in output
    assert "alignment gaps" in output
    assert "spectral entropy" in output
    plain = json.loads((tmp_path / "c.json").read_text())
    assert {"landmarks", "gaps", "concepts", "figures", "kept", "notes"} == set(plain)
    assert command("compare", runs / "a", tmp_path)[0] == 1
