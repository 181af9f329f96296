"""The run folder's tables hold whatever the samples' table holds: a run does not end in an error of Parquet."""

import datetime
import io
import json
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from krepes import Auditor, AuditPlan, BarlowTwins, Newton, Trust
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError, KrepesWarning
from krepes.run import run_audit, summarise
from krepes.tables import storable

N = 80
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))


def noisy(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator)


def run(folder, table: pd.DataFrame | None, **more) -> str:
    """A small whole run; what it printed."""
    torch.manual_seed(0)
    auditor = Auditor(MLP(4, (8,), 3).eval(), BarlowTwins(), landmarks=20, newton=Newton(damping=0.1),
                      trust=Trust(refits=False))  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    run_audit(
        auditor, ArraySource(X, metadata=table), noisy, folder, {}, console, title="t", command="c",
        plan=AuditPlan(automatic_concepts=False, features=()), **more,
    )  # fmt: skip
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_of_odd_columns_ends_well_and_writes_them_as_text(tmp_path):
    cells = {
        0: np.arange(N) % 3,
        "mixed": [1, "a", None, 2.5] * (N // 4),
        "day": [datetime.date(2020, 1, 1)] * N,
        "list": [[1], ["a"]] * (N // 2),
        "empty": [{}] * N,
        "complex": np.arange(N) * 1j,
        "kept": pd.array([1, 2, None, 4] * (N // 4), dtype="Int64"),
    }
    table = pd.DataFrame({k: pd.Series(v) for k, v in cells.items()})
    table["0"] = "second"
    with pytest.warns(KrepesWarning) as warned:
        run(tmp_path / "run", table)
    said = " ".join(str(w.message) for w in warned)
    assert "two columns of the table are named '0' when written" in said
    points = pd.read_parquet(tmp_path / "run" / "points.parquet")
    landmarks = pd.read_parquet(tmp_path / "run" / "landmarks.parquet")
    for name in ("mixed", "list", "empty", "complex"):
        assert f"column '{name}'" in said
    assert "'day'" not in said
    assert points["data.0"].tolist() == table[0].tolist()
    assert points["data.0 (2)"].tolist() == ["second"] * N
    assert points["data.mixed"].tolist()[:2] == ["1", "a"]
    assert points["data.mixed"].isna().tolist() == table["mixed"].isna().tolist()
    assert points["data.list"].tolist()[:2] == ["[1]", "['a']"]
    assert landmarks["data.mixed"].tolist() == points["data.mixed"].iloc[landmarks["position"]].tolist()
    assert points["data.kept"].isna().sum() == N // 4


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
                  st.dates(), st.complex_numbers(), st.lists(st.integers(0, 3), max_size=2),
                  st.dictionaries(st.text(max_size=2), st.integers(0, 3), max_size=1), st.decimals(allow_nan=False),
                  st.just("\udc80")),
        min_size=1, max_size=4,
    ),
    name=st.one_of(st.text(max_size=3), st.integers(), st.none()),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::krepes.errors.KrepesWarning")
def test_any_column_can_be_written_and_keeps_what_is_missing(cells, name):
    column = pd.Series(np.array([*cells, None], dtype=object)[:-1], dtype=object)
    written = io.BytesIO()
    pq.write_table(storable(pd.DataFrame({name: column})), written)
    found = pd.read_parquet(io.BytesIO(written.getvalue())).iloc[:, 0]
    assert found.isna().tolist() == column.isna().tolist()


def test_numbers_beside_dates_or_truth_values_stay_what_they_are():
    cells = {"a": [datetime.date(2020, 1, 1), 3], "b": [2.5, True], "c": [1, 2.5]}
    table = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})
    with pytest.warns(KrepesWarning, match=r"several kinds \((date, int|bool, float)\)"):
        found = storable(table).to_pydict()
    assert found == {"data.a": ["2020-01-01", "3"], "data.b": ["2.5", "True"], "data.c": [1.0, 2.5]}


def test_a_run_that_explains_no_sample(tmp_path):
    run(tmp_path / "run", None, explain=0)
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "attribution.parquet").exists()


@pytest.mark.parametrize("explain", [-1, True, ["nobody"], [-1], [N]], ids=str)
def test_samples_that_cannot_be_explained_stop_a_run_before_its_folder_is_made(tmp_path, explain):
    with pytest.raises(ConfigError, match="explain"):
        run(tmp_path / "run", None, explain=explain)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder, None)
    return folder


@pytest.mark.parametrize("outputs", [5, ["report.html"]], ids=str)
def test_a_complete_run_whose_manifest_is_damaged_is_made_again(made, tmp_path, outputs):
    shutil.copytree(made, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs": outputs}))
    assert "manifest.json in" in run(tmp_path / "run", None)
    assert "report.html" in json.loads(path.read_text())["outputs"]


def test_the_summary_shows_control_characters_and_reads_no_markup(tmp_path):
    name = "\x1b[2J:smile: [bold]\u202e\n7"
    pd.DataFrame({"landmark": [name], "mean_influence": [0.5], "sign_balance": [0.1]}).to_parquet(
        tmp_path / "landmarks.parquet"
    )
    figure = SimpleNamespace(verdict="green", name="rank", display=":smile:", threshold="[3]")
    trust = SimpleNamespace(verdict="green", sentence="fine [b]", figures=[figure])
    auditor: Any = SimpleNamespace(trust_=trust, outcome_=SimpleNamespace(lowered=True))
    console = Console(file=io.StringIO(), width=200)
    summarise(auditor, tmp_path, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\\x1b[2J:smile: [bold]\\u202e\\n7" in printed
    assert "fine [b]" in printed
    assert ":smile: (wanted: [3])" in printed
    assert not {"\x1b", "\u202e"} & set(printed)
