"""With the model: full explanations, concepts, counterfactuals; and why it cannot be had."""

import json

import numpy as np
import pytest

from tests.app.runs import HOSTILE, MARKUP, Asker, write_manifest


def halves(asker: Asker) -> tuple[str, str]:
    """Two selections: the samples left and right of the middle."""
    points = asker.state.points
    left = np.argsort(points.x)[: points.n // 2].tolist()
    right = sorted(set(range(points.n)) - set(left))
    return tuple(asker.told("/api/select", positions=part)["selection"] for part in (left, right))


def test_the_model_is_ready(live_table):
    assert live_table.told("/api/run")["live"] == {"state": "ready", "reason": None}


def test_a_live_explanation_adds_up(live_table):
    found = live_table.told("/api/explain/7")
    assert found["source"] == "live"
    assert found["complete"]
    shown = sum(item["contribution"] for item in found["attract"] + found["repel"])
    assert found["total"] == pytest.approx(shown + found["rest"])
    assert found["others"] == 24 - len(found["attract"]) - len(found["repel"])


def test_live_and_stored_scores_of_a_landmark_are_equal(live_table, table):
    stored = Asker(table).told("/api/explain/7")
    assert stored["source"] == "stored"
    found = live_table.told("/api/explain/7")
    live = {i["landmark"]: i["contribution"] for i in (found["attract"] + found["repel"])}
    for item in stored["attract"] + stored["repel"]:
        if item["landmark"] in live:
            assert item["contribution"] == pytest.approx(live[item["landmark"]], rel=1e-3, abs=1e-6)


def test_agreement_is_told_by_column(live_table):
    found = live_table.told("/api/explain/7")
    mine = found["sample"]["cells"]
    for item in found["attract"] + found["repel"]:
        assert item["agrees"] == [k for k, v in mine.items() if v is not None and item["cells"][k] == v]


def test_a_concept_of_two_lassos_is_scored(live_table):
    left, right = halves(live_table)
    job = live_table.told("/api/concept", positive=left, negative=right, name=f"left {MARKUP}")["job"]
    found = live_table.answer(job)
    assert found["state"] == "done", found
    result = found["result"]
    assert result["usable"]
    assert result["push"]["low"] <= result["push"]["estimate"] <= result["push"]["high"]
    assert len(result["samples"]) == 120
    assert result["name"] == f"left {MARKUP}"


def test_a_concept_of_overlapping_groups_fails_in_words(live_table):
    left, _ = halves(live_table)
    found = live_table.answer(live_table.told("/api/concept", positive=left, negative=left)["job"])
    assert found["state"] == "failed"
    assert "on both sides" in found["error"]


def test_a_counterfactual_moves_samples(live_table):
    selection = live_table.told("/api/select", positions=list(range(30)))["selection"]
    job = live_table.told("/api/counterfactual", remove=selection, positions=[0, 50])["job"]
    found = live_table.answer(job)
    assert found["state"] == "done", found
    first, second = found["result"]["samples"]
    assert (first["position"], first["removed"]) == (0, True)
    assert (second["position"], second["removed"]) == (50, False)
    assert second["shift"] > 0
    assert {row["figure"] for row in found["result"]["summary"]} == {"shift", "neighbours that stay"}


def test_a_counterfactual_without_everyone_fails_in_words(live_table):
    selection = live_table.told("/api/select", positions=list(range(120)))["selection"]
    found = live_table.answer(live_table.told("/api/counterfactual", remove=selection, positions=[1])["job"])
    assert found["state"] == "failed"
    assert "Traceback" not in found["error"]


def test_while_the_model_is_busy_stored_scores_are_told(live_table):
    import threading

    held, done = threading.Event(), threading.Event()

    def hold():
        with live_table.state.live.using():
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        assert live_table.told("/api/explain/7")["source"] == "stored"
    finally:
        done.set()
        thread.join()


def test_while_the_model_loads_questions_are_put_off(table):
    asker = Asker(table)
    selection = asker.told("/api/select", positions=[1, 2, 3])["selection"]
    assert "being loaded" in asker.refused("/api/concept", 409, positive=selection)
    assert "being loaded" in asker.refused("/api/counterfactual", 409, remove=selection, positions=[1])
    assert asker.told("/api/explain/1")["source"] == "stored"


def live_of(run) -> dict:
    return Asker(run, live=True).told("/api/run")["live"]


def test_other_samples_are_not_taken_for_those_of_the_run(copied):
    path = copied.parent / "table.csv"
    path.write_text(path.read_text().replace("Female", "Male", 1))
    found = live_of(copied)
    assert found["state"] == "unavailable"
    assert "fingerprint differs" in found["reason"]


def test_missing_samples_are_told(copied):
    (copied.parent / "table.csv").unlink()
    assert live_of(copied)["state"] == "unavailable"
    assert "table.csv" in live_of(copied)["reason"]


def test_views_by_an_import_path_are_not_imported(copied, tmp_path, monkeypatch):
    (tmp_path / "evil_views.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef views(b, g): return b\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((copied / "manifest.json").read_text())["config"]
    write_manifest(copied, config=config | {"views": {"name": "evil_views:views"}})
    asker = Asker(copied, live=True)
    found = asker.told("/api/run")["live"]
    assert found["state"] == "ready"
    assert "import path" in found["reason"]
    assert not (tmp_path / "ran").exists()
    selection = asker.told("/api/select", positions=[1, 2, 3])["selection"]
    assert "import path" in asker.refused("/api/counterfactual", 422, remove=selection, positions=[1])


def test_a_damaged_model_leaves_the_stored_tables(copied):
    (copied / "model.safetensors").write_bytes(b"no tensors")
    asker = Asker(copied, live=True)
    assert asker.told("/api/run")["live"]["state"] == "unavailable"
    assert asker.told("/api/explain/3")["source"] == "stored"
    assert HOSTILE in asker.told("/api/explain/3")["sample"]["cells"]
