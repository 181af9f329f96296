"""Half written, older and damaged run folders: what is missing is said, and the rest is shown."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from krepes.cli import app as cli
from krepes.errors import RunFolderError
from tests.app.runs import Asker, tables_alone, write_manifest

ALL = ("/", "/api/run", "/api/landmarks", "/api/samples", "/tiles/0/0/0.png", "/api/nearest?x=0&y=0&r=9",
       "/export/selection.csv", "/tiles/3/1/1.png?colour=kind")  # fmt: skip


@pytest.fixture
def run(tables, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(tables, tmp_path / "run")


def problems(asker: Asker) -> str:
    """All that is said to be missing."""
    return "\n".join(asker.told("/api/run")["problems"])


def nothing_breaks(asker: Asker) -> None:
    """Everything that can be asked is answered or refused in words."""
    for path in (*ALL, "/api/explain/0", "/api/explain/4000", "/picture/0", "/report"):
        found = asker.get(path)
        assert found.status_code in (200, 404, 422), (path, found.text)


def test_a_whole_folder_has_no_problems_but_its_model(asker):
    assert problems(asker) == "model.safetensors is missing.\ntrust.json is missing."


@pytest.mark.parametrize(
    "name", ["points.parquet", "influence.parquet", "landmarks.parquet", "manifest.json", "trust.json"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "zeros", "text"])
def test_a_damaged_piece_is_told_and_the_rest_is_shown(run, name, damage):
    path = run / name
    content = path.read_bytes() if path.is_file() else b"{}"
    if damage == "missing":
        path.unlink(missing_ok=True)
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "zeros": bytes(len(content)),
                          "text": b"<script>"}[damage])  # fmt: skip
    asker = Asker(run)
    nothing_breaks(asker)
    said = problems(asker)
    assert (
        name in said
        or (name == "manifest.json" and "manifest" in said)
        or (name == "trust.json" and damage == "missing")
    )
    assert asker.told("/api/run")["n"] == (0 if name == "points.parquet" else 5000)


def test_a_damaged_row_group_leaves_the_others(run):
    path = run / "points.parquet"
    file = pq.ParquetFile(path)
    column = file.metadata.row_group(1).column(1)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    asker = Asker(run)
    nothing_breaks(asker)
    assert "Rows 1,250 to 2,499 of points.parquet are damaged" in problems(asker)
    points = asker.state.points
    assert np.isnan(points.x[1250:2500]).all()
    assert np.isfinite(points.x[:1250]).all()
    assert np.isfinite(points.x[2500:]).all()
    assert asker.told("/api/samples?offset=1300&limit=1")["rows"][0]["x"] is None


def test_influences_in_another_order_are_found_by_id(run):
    table = pq.read_table(run / "influence.parquet")
    pq.write_table(pa.concat_tables([table.slice(5 * 2500), table.slice(0, 5 * 2500)]), run / "influence.parquet")
    found = Asker(run).told("/api/explain/17")
    here = table.slice(17 * 5, 5).to_pandas()
    scores = dict(zip(here["landmark"], here["contribution"], strict=True))
    assert {i["landmark"] for i in found["attract"] + found["repel"]} <= set(scores)
    assert found["attract"][0]["contribution"] == pytest.approx(here["contribution"].max())


def test_influences_of_fewer_samples(run):
    table = pq.read_table(run / "influence.parquet")
    pq.write_table(table.slice(0, 5 * 4990), run / "influence.parquet")
    asker = Asker(run)
    assert asker.told("/api/explain/17")["sample"]["id"] == "row-17"
    assert "holds no influences" in asker.refused("/api/explain/4995", 422)


def test_columns_of_other_kinds(run):
    table = pq.read_table(run / "points.parquet")
    n = len(table)
    more = {
        "data.nan": pa.array([float("nan")] * n), "data.nothing": pa.nulls(n), "data.lists": pa.array([[1, 2]] * n),
        "data.big": pa.array([2**62] * n), "data.inf": pa.array([float("inf"), float("-inf")] * (n // 2)),
        "data.bytes": pa.array([b"\xff"] * n), "data.date": pa.array([0] * n, pa.timestamp("us")),
        "data.truth": pa.array([True, None] * (n // 2)), "data.": pa.array(["x"] * n),
        "data.long": pa.array(["y" * 9000] * n), "data.decimal": pa.array([1] * n).cast(pa.decimal128(30, 2)),
        "data.unique": pa.array([str(i) for i in range(n)]),
    }  # fmt: skip
    for name, values in more.items():
        table = table.append_column(name, values)
    pq.write_table(table, run / "points.parquet")
    asker = Asker(run)
    nothing_breaks(asker)
    cells = asker.told("/api/samples?limit=2")["rows"][0]["cells"]
    assert cells["nan"] is None
    assert cells["big"] == 2**62
    assert cells["inf"] == "inf"
    assert len(cells["long"]) == 2001
    for column in asker.told("/api/run")["columns"]:
        assert asker.get("/tiles/0/0/0.png", params={"colour": column["name"]}).status_code in (200, 422), column
    assert asker.told("/api/select", positions=[1, 2, 3])["n"] == 3


def test_text_that_is_no_utf8(run):
    table = pq.read_table(run / "points.parquet")
    broken = pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe"))
    kinds = pa.chunked_array([broken] * len(table))
    pq.write_table(table.append_column("data.broken", kinds), run / "points.parquet")
    asker = Asker(run)
    nothing_breaks(asker)


def test_points_without_a_place(run):
    table = pq.read_table(run / "points.parquet")
    x = table.column("x").to_numpy().copy()
    x[:10] = [np.nan, np.inf, -np.inf, np.nan, 1e38, -1e38, 0, 0, 0, 0]
    pq.write_table(table.set_column(1, "x", pa.array(x)), run / "points.parquet")
    asker = Asker(run)
    nothing_breaks(asker)
    assert "4 of 5,000 samples have no place" in problems(asker)


@pytest.mark.parametrize("n", [1, 2])
def test_few_points(tmp_path, n):
    nothing_breaks(Asker(tables_alone(tmp_path / "run", n, 1)))


def test_all_points_in_one_place(run):
    table = pq.read_table(run / "points.parquet")
    same = pa.array(np.full(len(table), 3, np.float32))
    pq.write_table(table.set_column(1, "x", same).set_column(2, "y", same), run / "points.parquet")
    asker = Asker(run)
    nothing_breaks(asker)
    assert asker.told("/api/nearest?x=3&y=3&r=0.1")["x"] == 3


@pytest.mark.parametrize("gone", ["id", "x", "y", "landmarks", "is_landmark"])
def test_points_of_another_version(run, gone):
    table = pq.read_table(run / "points.parquet")
    pq.write_table(table.drop_columns([gone]), run / "points.parquet")
    asker = Asker(run)
    nothing_breaks(asker)
    assert asker.told("/api/select", positions=[1, 2])["n"] == 2
    if gone in ("id", "x", "y"):
        assert f"lacks {gone}" in problems(asker)


@pytest.mark.parametrize("changes", [
    {"status": "running", "stage": "scores"}, {"format": 99}, {"format": None}, {"settings": []}, {"config": "x"},
    {"created": 5},
    {"config": {"title": ["x"]}}, {"settings": {"objective": "x"}}, {"notes": 7}, {"encoder": 7}, {"outputs": []},
    {"fingerprints": None}, {"config": {"data": {"table": "../../../etc/passwd"}, "encoder": {}}}, {"samples": -1},
])  # fmt: skip
def test_manifests_of_any_kind(run, changes):
    write_manifest(run, **changes)
    asker = Asker(run, live=True)
    nothing_breaks(asker)
    assert asker.told("/api/run")["live"]["state"] == "unavailable"
    assert asker.told("/api/run")["n"] == 5000


@pytest.mark.parametrize("redact", ["kind", {"kind": 1}, [1], 7])
def test_a_redaction_that_is_misstated_hides_every_column(run, redact):
    write_manifest(run, redact=redact)
    asker = Asker(run)
    nothing_breaks(asker)
    assert asker.told("/api/run")["columns"] == []
    assert asker.told("/api/samples")["rows"][0]["cells"] == {}


def test_pictures_can_be_hidden(images, tmp_path):
    run = shutil.copytree(images, tmp_path / "run")
    shown, hidden = Asker(run), None
    assert shown.get("/picture/0").status_code in (200, 404)
    write_manifest(run, thumbnails=False)
    hidden = Asker(run, live=True)
    assert "hidden" in hidden.refused("/picture/0", 404)
    assert not hidden.told("/api/run")["thumbnails"]
    assert "data:image/webp" not in hidden.get("/report").text


def test_pictures_come_from_the_model(live_images):
    found = live_images.get("/picture/3")
    assert found.headers["content-type"] == "image/png"
    assert live_images.told("/api/run")["kind"] == "image"


def test_wide_tables_are_cut_and_said(run):
    table = pq.read_table(run / "points.parquet")
    for i in range(250):
        table = table.append_column(f"data.column {i}", pa.nulls(len(table), pa.int8()))
    pq.write_table(table, run / "points.parquet")
    asker = Asker(run)
    assert len(asker.told("/api/run")["columns"]) == 200
    assert "252 columns; the first 200 are shown" in problems(asker)


def test_no_run_at_all(tmp_path):
    with pytest.raises(RunFolderError, match="there is no folder"):
        Asker(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="it is not a krepes run folder"):
        Asker(tmp_path)
    found = CliRunner().invoke(cli, ["serve", str(tmp_path), "--no-open"])
    assert found.exit_code == 1
    assert "not a krepes run folder" in found.output


def test_a_port_that_is_taken(run):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = CliRunner().invoke(cli, ["serve", str(run), "--no-open", "--port", str(port)])
    assert found.exit_code == 1
    assert f"--port {port} cannot be used" in found.output


def test_findings_of_another_version_are_told(run):
    pq.write_table(pa.table({"column": ["kind"], "nonsense": [1]}), run / "feature_gap.parquet")
    pq.write_table(pa.table({"nonsense": [1]}), run / "concepts.parquet")
    asker = Asker(run)
    nothing_breaks(asker)
    assert "feature_gap.parquet lacks" in problems(asker)
    assert json.loads(asker.get("/api/run").text)["findings"] == []
