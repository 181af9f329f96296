"""The HTTP API over a run's tables."""

import csv
import io
import json
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from krepes.files import sha256_file
from tests.app.runs import FORMULA, HOSTILE, MARKUP, Asker


def test_the_overview(asker):
    found = asker.told("/api/run")
    assert (found["n"], found["m"], found["objective"], found["compare"], found["report"]) == (
        5000,
        10,
        None,
        False,
        False,
    )
    columns = {c["name"]: c for c in found["columns"]}
    assert columns["kind"]["kind"] == "category"
    assert sorted(columns["kind"]["values"]) == ["a", "b", "c"]
    assert columns["number"]["kind"] == "number"
    assert 0 <= columns["number"]["low"] < columns["number"]["high"] <= 1
    world = found["extent"]
    assert world["x1"] - world["x0"] == pytest.approx(world["y1"] - world["y0"])


def test_the_page_escapes_the_title(live_table):
    text = live_table.get("/").text
    assert MARKUP not in text
    assert "&lt;script&gt;" in text


def test_markup_of_the_data_arrives_as_json_alone(live_table):
    for path in ("/api/run", "/api/samples", "/api/explain/3", "/api/landmarks"):
        found = live_table.get(path)
        assert found.headers["content-type"] == "application/json"
    assert HOSTILE in {c["name"] for c in live_table.told("/api/run")["columns"]}
    assert MARKUP in live_table.told("/api/explain/3")["sample"]["id"]


def test_missing_cells_are_null(live_table):
    text = live_table.get("/api/samples?limit=50").text
    rows = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["rows"]
    assert rows[0]["cells"]["age"] is None
    assert rows[1]["cells"]["age"] is not None


def test_an_explanation_is_of_its_sample(asker):
    for position in (0, 1249, 1250, 4999):
        found = asker.told(f"/api/explain/{position}")
        assert found["sample"]["id"] == f"row-{position}"
        assert not found["complete"]
        assert found["total"] is None
        assert len(found["attract"]) + len(found["repel"]) <= 5
        assert [i["contribution"] > 0 for i in found["attract"]] == [True] * len(found["attract"])


@pytest.mark.parametrize("position", ["-1", "5000", "999999999999", "1" * 13, "9" * 5000, "x", "1.5", "٣", "%00"])
def test_a_sample_that_is_none(asker, position):
    assert "there is no such sample" in asker.refused(f"/api/explain/{position}", 404)


def test_pages_of_samples(asker):
    found = asker.told("/api/samples?offset=10&limit=3")
    assert (found["total"], [r["position"] for r in found["rows"]]) == (5000, [10, 11, 12])
    assert asker.told("/api/samples?offset=4999&limit=500")["rows"][0]["id"] == "row-4999"
    assert asker.told("/api/samples?offset=999999999999")["rows"] == []


@pytest.mark.parametrize("asked", ["offset=-1", "limit=501", "limit=x", "offset=1e5", "offset=", "limit=" + "9" * 400])
def test_pages_out_of_range(asker, asked):
    assert "expected a whole number" in asker.refused(f"/api/samples?{asked}", 422)


def test_a_search_a_query_and_a_selection_hold_together(asker):
    selection = asker.told("/api/select", positions=list(range(100)))["selection"]
    found = asker.told(f"/api/samples?selection={selection}&q=ROW-1&where=kind == 'b'")
    assert {r["position"] for r in found["rows"]} == {i for i in range(100) if str(i).startswith("1") and i % 3 == 1}


QUERIES = ("__import__('os').system('id')", "number.__class__", "(lambda: 1)()", "number[0]", "open('/etc/passwd')",
           "@x", "nowhere > 1", "number >", "number > 'a'", "`number", "x" * 10_001, "(" * 400 + "number" + ")" * 400,
           " ", "1", "number ** 9 ** 9 > 1")  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_that_is_none(asker, query):
    assert asker.refused("/api/select", 422, where=query)
    assert asker.get("/api/samples", params={"where": query}).status_code in (422, 200 if not query.strip() else 422)


def test_a_query_over_a_column_with_markup(live_table):
    found = live_table.told("/api/select", where=f"`{HOSTILE}` == 'plain' and age > 40")
    rows = live_table.told(f"/api/samples?selection={found['selection']}")["rows"]
    assert rows
    assert all(r["cells"][HOSTILE] == "plain" and r["cells"]["age"] > 40 for r in rows)


def test_a_lasso_takes_what_lies_within(asker):
    points = asker.state.points
    found = asker.told("/api/select", polygon=[[-1, -1], [1, -1], [1, 1], [-1, 1]])
    within = (np.abs(points.x) < 1) & (np.abs(points.y) < 1)
    assert found["n"] == within.sum()
    assert np.array_equal(asker.state.selections[found["selection"]].positions, np.flatnonzero(within))
    assert -1 <= found["box"]["x0"] <= found["box"]["x1"] <= 1


def test_a_groups_common_landmarks_and_features(asker):
    found = asker.told("/api/select", where="kind == 'a' and number < 0.2")
    features = {f["column"]: f for f in found["features"]}
    assert features["kind"]["value"] == "a"
    assert (features["kind"]["group"], round(features["kind"]["all"], 2)) == (1.0, 0.33)
    assert features["number"]["group"] == pytest.approx(0.1, abs=0.01)
    assert features["number"]["all"] == pytest.approx(0.5, abs=0.01)
    shares = [row["share"] for row in found["landmarks"]]
    assert shares == sorted(shares, reverse=True)
    assert found["landmarks"][0]["position"] == int(found["landmarks"][0]["id"].removeprefix("row-"))


NAN = float("nan")
POLYGONS = ([], [[0, 0]], [[0, 0], [1, 1]], [[NAN, 0], [1, 1], [0, 1]], [[0, 0], [1, float("inf")], [0, 1]], "square",
            [[0], [1], [2]], [[0, 0, 0]] * 3, [["0", "0"]] * 3, [[None, 0]] * 3, [[True, 0]] * 3, {"a": 1}, 7,
            [[10**400, 0], [0, 1], [1, 1]], [[1e308, -1e308], [0, 1], [1, 1]], [[0, 0]] * 5001)  # fmt: skip


@pytest.mark.parametrize("polygon", POLYGONS, ids=lambda p: str(p)[:30])
def test_a_polygon_that_is_none(asker, polygon):
    found = asker.post("/api/select", content=json.dumps({"polygon": polygon}))
    assert found.status_code == 422
    assert found.json()["error"].startswith("polygon holds")


def test_a_polygon_of_a_million_vertices_is_too_large(asker):
    body = json.dumps({"polygon": [[0.123456, 0.654321]] * 1_000_000})
    found = asker.post("/api/select", content=body)
    assert found.status_code == 413


def test_a_polygon_around_nothing(asker):
    assert "no sample is selected" in asker.refused("/api/select", 422, polygon=[[50, 50], [51, 50], [50, 51]])


@pytest.mark.parametrize("positions", [[], [-1], [5000], [1.5], ["1"], [True], [10**30], "0", {"a": 0}], ids=str)
def test_positions_that_are_none(asker, positions):
    assert "positions" in asker.refused("/api/select", 422, positions=positions)


BODIES = (b"", b"{", b"[]", b"null", b'{"polygon": [[0,0]', b"[" * 100_000, b"\xff\xfe", b'{"q": 1}',
          b'{"where": ["a"]}', b'{"q": "a", "where": "b"}', b"{}", b'{"q": ""}')  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda b: repr(b[:20]))
def test_a_body_that_asks_nothing(asker, body):
    found = asker.post("/api/select", content=body)
    assert found.status_code == 422
    assert found.json()["error"]


def test_the_last_selections_are_kept(asker):
    first = asker.told("/api/select", positions=[1])["selection"]
    names = [asker.told("/api/select", positions=[1])["selection"] for _ in range(24)]
    assert "select the samples again" in asker.refused(f"/api/samples?selection={first}", 422)
    assert asker.told(f"/api/samples?selection={names[-1]}")["total"] == 1


def test_the_nearest_point(asker):
    points = asker.state.points
    found = asker.told(f"/api/nearest?x={points.x[77]}&y={points.y[77]}&r=0.5")
    assert found == {"position": 77, "id": "row-77", "x": float(points.x[77]), "y": float(points.y[77])}
    assert asker.told("/api/nearest?x=90&y=90&r=0.1") is None


@pytest.mark.parametrize("asked", ["", "x=nan&y=0&r=1", "x=inf&y=0&r=1", "x=0&y=0", "x=a&y=0&r=1", "x=1e400&y=0&r=1"])
def test_a_place_that_is_none(asker, asked):
    assert "expected a finite number" in asker.refused(f"/api/nearest?{asked}", 422)


def test_tiles_are_pictures(asker):
    for asked in ("", "?colour=kind", "?colour=number&theme=dark"):
        found = asker.get(f"/tiles/1/0/1.png{asked}")
        assert found.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(found.content)).size == (256, 256)


@pytest.mark.parametrize("path", ["21/0/0", "-1/0/0", "1/2/0", "1/0/-1", "0/0/x", "0/0/" + "9" * 50, "0/٠/0"])
def test_a_tile_that_is_none(asker, path):
    assert asker.get(f"/tiles/{path}.png").status_code in (422, 404)


@pytest.mark.parametrize("asked", ["colour=nowhere", "selection=s99", "theme=red", "colour=" + "x" * 9000])
def test_a_tile_of_nothing_that_is_known(asker, asked):
    assert len(asker.refused(f"/tiles/0/0/0.png?{asked}", 422)) < 300


def test_a_map_is_exported(asker):
    found = asker.get("/export/map.png?x0=-2&y0=-2&x1=2&y1=1&width=400&height=300&colour=kind&theme=dark")
    assert "attachment" in found.headers["content-disposition"]
    image = Image.open(io.BytesIO(found.content))
    assert (image.size, image.mode) == ((400, 300), "RGB")


@pytest.mark.parametrize("asked", ["x0=0&y0=0&x1=0&y1=1", "x0=0&y0=0&x1=1&y1=1&width=9000",
                                   "x0=0&y0=0&x1=1&y1=1&width=8000&height=8000", "x0=nan&y0=0&x1=1&y1=1",
                                   ""])  # fmt: skip
def test_a_map_that_cannot_be_drawn(asker, asked):
    assert asker.refused(f"/export/map.png?{asked}", 422)


def test_a_selection_is_exported(live_table):
    selection = live_table.told("/api/select", positions=list(range(40)))["selection"]
    found = live_table.get(f"/export/selection.csv?selection={selection}")
    assert found.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(found.text)))
    assert [int(r["position"]) for r in rows] == list(range(40))
    assert rows[0]["age"] == ""
    assert MARKUP in {r[HOSTILE] for r in rows}
    assert f"'{FORMULA}" in {r[HOSTILE] for r in rows}  # a spreadsheet would run it
    assert FORMULA not in {r[HOSTILE] for r in rows}


def test_all_samples_are_exported_without_a_selection(asker):
    assert len(asker.get("/export/selection.csv").text.splitlines()) == 5001


def test_a_question_that_is_none(asker):
    assert "no such question" in asker.refused("/api/jobs/j99", 404)


def test_questions_to_no_model_name_what_is_missing(tables):
    asker = Asker(tables, live=True)
    asker.told("/api/select", positions=[1, 2])
    assert "not available" in asker.refused("/api/concept", 409, positive="s1")


def test_a_comparison_needs_another_run(asker):
    assert "--compare" in asker.refused("/api/compare", 422)


def test_two_runs_are_compared(table, tables):
    found = Asker(table, compare=table).told("/api/compare")
    assert found["kept"] == 24
    assert "saved from Python" in Asker(table, compare=tables).refused("/api/compare", 422)


def test_a_damaged_run_is_not_compared(table, tmp_path):
    other = shutil.copytree(table, tmp_path / "run")
    gone = pd.read_parquet(other / "landmarks.parquet").drop(columns="mean_influence")
    gone.to_parquet(other / "landmarks.parquet")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["outputs"]["landmarks.parquet"] = sha256_file(other / "landmarks.parquet")
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert "Run the audits again" in Asker(table, compare=other).refused("/api/compare", 422)


def test_requests_at_once_are_answered_alike(tables):
    asker = Asker(tables)
    paths = ["/api/explain/5", "/tiles/0/0/0.png", "/api/samples?where=number > 0.5&limit=3", "/api/run"] * 4
    answers: dict[int, bytes] = {}

    def ask(i: int) -> None:
        found = asker.get(paths[i])
        assert found.status_code == 200
        answers[i] = found.content

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(paths)
    for i in range(3):  # the overview changes while pieces are read
        assert len({answers[i + 4 * turn] for turn in range(4)}) == 1
