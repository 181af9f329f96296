"""A run that nobody called one's own: no code but known libraries', no network, no file written."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import httpx2
import pytest
from typer.testing import CliRunner

from krepes.app.restricted import offline, refuse_asking, refuse_other_code
from krepes.cli import app as cli
from krepes.config import DataConfig
from krepes.errors import ConfigError
from tests.app.runs import Asker, write_manifest

OWN = "if the run is your own, start with --trust-run"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed module with the run's own kind of network, that leaves a mark when it is imported."""
    place = tmp_path / "packages"
    place.mkdir()
    (place / "my_networks.py").write_text(
        f"from krepes.encoders import MLP as Known\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "class MLP(Known): pass\n"
    )
    monkeypatch.syspath_prepend(place)
    yield tmp_path / "ran"
    sys.modules.pop("my_networks", None)


def manifest(run) -> dict:
    return json.loads((run / "manifest.json").read_text())


def live_of(run, trust_run=False) -> dict:
    return Asker(run, live=True, trust_run=trust_run).told("/api/run")["live"]


def with_factory(run, factory: str) -> None:
    write_manifest(run, encoder=manifest(run)["encoder"] | {"factory": factory})


def test_another_modules_encoder_is_not_imported(copied, package):
    with_factory(copied, "my_networks:MLP")
    found = live_of(copied)
    assert found == {"state": "unavailable", "reason": f"this run's encoder is built by my_networks:MLP; {OWN}"}
    assert not package.exists()


def test_ones_own_run_loads_what_its_configuration_names(copied, package):
    with_factory(copied, "my_networks:MLP")
    assert live_of(copied, trust_run=True) == {"state": "ready", "reason": None}
    assert package.exists()


def test_a_recipe_is_held_to_the_same_rule(copied, package):
    (copied.parent / "recipe.yaml").write_text("arch: my_networks:MLP\ncheckpoint: weights.safetensors\n")
    write_manifest(copied, encoder={"recipe": "recipe.yaml", "trust_recipe": True})
    assert live_of(copied)["reason"] == f"this run's encoder is built by my_networks:MLP; {OWN}"
    (copied.parent / "recipe.yaml").write_text(
        "arch: krepes:MLP\nhead: my_networks:MLP\ncheckpoint: weights.safetensors\n"
    )
    assert "my_networks:MLP" in live_of(copied)["reason"]
    assert not package.exists()


@pytest.mark.parametrize("path", ["antigravity:x", "torch.hub:load", "torchnn:X", "krepes_evil:X", "os:system", "timm"])
def test_other_code_is_refused(path):
    with pytest.raises(ConfigError, match="--trust-run"):
        refuse_other_code(path)


@pytest.mark.parametrize("path", ["torch.nn:Linear", "torchvision:resnet18", "timm:vit", "transformers.models.x:Y"])
def test_known_libraries_may_be_named(path):
    assert refuse_other_code(path) is None


@pytest.mark.parametrize("more", [{}, {"streaming": True, "cache": "cache"}])
def test_a_dataset_is_neither_downloaded_nor_cached(copied, more):
    data = {"hugging_face": {"path": "somebody/something", "column": "x", "split": "train", **more}}
    write_manifest(copied, config=manifest(copied)["config"] | {"data": data})
    before = sorted(copied.parent.rglob("*"))
    found = live_of(copied)
    assert found["state"] == "unavailable"
    assert OWN in found["reason"]
    assert sorted(copied.parent.rglob("*")) == before


def test_a_saved_dataset_may_be_read(tmp_path):
    (tmp_path / "saved").mkdir()
    config = DataConfig.model_validate({"hugging_face": {"path": "saved", "column": "x"}})
    with pytest.raises(ConfigError, match="no folder of save_to_disk"):
        refuse_asking(config, tmp_path)
    (tmp_path / "saved" / "state.json").write_text("{}")
    assert refuse_asking(config, tmp_path) is None


def test_views_by_an_import_path_need_trust(copied, package):
    views = {"name": "compose", "compose": [{"name": "my_networks:MLP"}]}
    write_manifest(copied, config=manifest(copied)["config"] | {"views": views})
    found = live_of(copied)
    assert found["state"] == "ready"
    assert f"import path my_networks:MLP; {OWN}" in found["reason"]
    assert not package.exists()


def test_libraries_that_are_imported_already_are_offline_meanwhile():
    hub = pytest.importorskip("huggingface_hub")
    config = pytest.importorskip("datasets").config
    before = hub.constants.is_offline_mode(), config.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    with offline():
        assert hub.constants.is_offline_mode()
        assert config.HF_HUB_OFFLINE
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert before == (hub.constants.is_offline_mode(), config.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE"))


def test_a_served_run_has_its_model_and_its_folder_stays_as_it_was(copied, tmp_path):
    (tmp_path / "passing").mkdir()
    before = sorted((p, p.stat().st_mtime_ns) for p in copied.parent.rglob("*"))
    command = [sys.executable, "-u", "-m", "krepes", "serve", str(copied), "--no-open"]
    environment = os.environ | {"TMPDIR": str(tmp_path / "passing"), "HOME": str(tmp_path / "nobody")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{40,})", process.stdout.readline())
            assert found is not None
            with httpx2.Client(follow_redirects=True, timeout=60) as browser:
                browser.get(found[0])
                until, live = time.monotonic() + 90, {"state": "loading"}
                while live["state"] == "loading" and time.monotonic() < until:
                    live = browser.get(f"http://127.0.0.1:{found[1]}/api/run").json()["live"]
                assert live == {"state": "ready", "reason": None}
                page = browser.get(f"http://127.0.0.1:{found[1]}/api/explain/3").json()
                assert page["source"] == "live"
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    assert sorted((p, p.stat().st_mtime_ns) for p in copied.parent.rglob("*")) == before
    assert not (tmp_path / "nobody").exists()


def test_a_run_that_changes_while_it_is_served_is_told(copied):
    asker = Asker(copied)
    changed = "The run has changed since this app was started; start it again."
    assert changed not in asker.told("/api/run")["problems"]
    write_manifest(copied, title="made again")
    asker.told("/api/explain/1")
    assert changed in list(asker.state.run.problems.values())
    assert changed in asker.told("/api/run")["problems"]


def test_a_report_that_is_a_link_out_of_the_folder_is_refused(copied, tmp_path):
    (tmp_path / "secret.html").write_text("a secret")
    (copied / "report.html").unlink()
    (copied / "report.html").symlink_to(tmp_path / "secret.html")
    asker = Asker(copied)
    assert "secret" not in asker.refused("/report", 404)
    assert not asker.told("/api/run")["report"]


@pytest.mark.parametrize("flags", [[], ["--trust-run"]])
def test_the_command_trusts_a_run_only_when_it_is_asked_to(copied, monkeypatch, flags):
    asked = []
    monkeypatch.setattr("krepes.app.server.serve", lambda *args: asked.append(args))
    done = CliRunner().invoke(cli, ["serve", str(copied), "--no-open", *flags])
    assert done.exit_code == 0, done.output
    assert asked[0][-1] is bool(flags)


def test_a_library_that_is_imported_meanwhile_is_online_afterwards():
    script = (
        "from krepes.app.restricted import offline\n"
        "with offline():\n"
        "    from huggingface_hub import constants\n"
        "    assert constants.is_offline_mode()\n"
        "assert not constants.is_offline_mode()\n"
    )
    pytest.importorskip("huggingface_hub")
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def test_the_models_questions_leave_the_run_as_it_was(live_table, table):
    before = sorted((p, p.stat().st_mtime_ns) for p in table.parent.rglob("*"))
    sides = [live_table.told("/api/select", positions=list(range(*part)))["selection"] for part in ((60,), (60, 120))]
    jobs = [
        live_table.told("/api/concept", positive=sides[0], negative=sides[1])["job"],
        live_table.told("/api/counterfactual", remove=sides[0], positions=[100])["job"],
    ]
    assert [live_table.answer(job)["state"] for job in jobs] == ["done", "done"]
    assert sorted((p, p.stat().st_mtime_ns) for p in table.parent.rglob("*")) == before
