"""Audits whose data, weights and run folder are in an object store."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save
from typer.testing import CliRunner

import krepes
from krepes.cli import app
from krepes.encoders import MLP
from krepes.errors import RunFolderError
from krepes.remote import Bucket
from krepes.results import read_manifest
from tests.remote.test_remote import put

RUN = "objects://bucket/runs/one"


@pytest.fixture
def config(store, tmp_path):
    """A configuration whose files are all in the store."""
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "x.npy", x)
    put("objects://bucket/x.npy", (tmp_path / "x.npy").read_bytes())
    torch.manual_seed(0)
    put("objects://bucket/w.safetensors", save(MLP(6, (16,), 4).state_dict()))
    settings = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 6, "hidden": [16], "n_out": 4},
                    "weights": "objects://bucket/w.safetensors"},
        "data": {"array": "objects://bucket/x.npy"}, "views": {"name": "gaussian", "std": 0.3},
        "objective": {"name": "barlow_twins"}, "landmarks": {"m": 20}, "newton": {"damping": 1.0},
        "audit": {"refits": 0, "points": 50, "automatic_concepts": False}, "report": {"explain": 1}, "output": RUN,
    }  # fmt: skip
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "audit.yaml"


def command(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def kept(store) -> set[str]:
    """Names below the run."""
    return {name.removeprefix("/bucket/runs/one/") for name in store.store if name.startswith("/bucket/runs/one/")}


def manifest(store) -> dict:
    return json.loads(store.store["/bucket/runs/one/manifest.json"].getvalue())


def test_a_run_is_kept_at_its_url_whole(store, config):
    result = command("audit", config)
    assert result.exit_code == 0, result.output
    assert f"kept at:    {RUN}" in result.output
    found = manifest(store)
    assert found["status"] == "complete"
    assert kept(store) == {*found["outputs"], *found["sha256"], "manifest.json"}
    puts = [name for name in store.puts if "/work/" not in name]
    assert puts[-1].endswith("manifest.json")
    auditor = krepes.load(RUN)
    assert auditor.influence(torch.zeros(1, 6)).shape == (1, 20)
    for verb in (("check", RUN, "--trust", "red"), ("compare", RUN, RUN)):
        assert command(*verb).exit_code == 0


def test_a_signature_is_not_kept(store, config):
    put("objects://bucket/x.npy?sig=secret", store.store["/bucket/x.npy"].getvalue())
    result = command("audit", config, "--set", "data.array=objects://bucket/x.npy?sig=secret")
    assert result.exit_code == 0, result.output
    assert "secret" not in result.output
    assert not [name for name in kept(store) if b"secret" in store.store[f"/bucket/runs/one/{name}"].getvalue()]
    assert manifest(store)["config"]["data"]["array"] == "objects://bucket/x.npy?sig=…"


def test_a_comparison_shows_no_secret(store, config):
    assert command("audit", config).exit_code == 0
    for name, value in list(store.store.items()):  # a store whose addresses end in a signature
        if name.startswith("/bucket/runs/one/"):
            store.store[name.replace("/bucket/runs/one/", "/bucket/runs/one?sig=secret/")] = value
    result = command("compare", RUN, f"{RUN}?sig=secret")
    assert result.exit_code == 0, result.output
    assert f"B: {RUN}?sig=…" in result.output
    assert "secret" not in result.output


def test_a_run_whose_secret_is_in_the_environment_is_loaded_again(store, config, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    put("objects://bucket/w.safetensors?token=secret", store.store["/bucket/w.safetensors"].getvalue())
    result = command("audit", config, "--set", "encoder.weights=objects://bucket/w.safetensors?token=${TOKEN}")
    assert result.exit_code == 0, result.output
    assert manifest(store)["encoder"]["weights"].endswith("?token=${TOKEN}")
    assert krepes.load(RUN).influence(torch.zeros(1, 6)).shape == (1, 20)


def test_a_mistaken_setting_shows_no_secret(store, config):
    result = command("audit", config, "--set", "data.arrya=https://h/a.npy?sig=secret")
    assert result.exit_code == 1
    assert "arrya" in result.output
    assert "secret" not in result.output


def test_a_complete_run_is_not_made_again(store, config, cache):
    assert command("audit", config).exit_code == 0
    shutil.rmtree(cache)  # as on another machine
    store.puts.clear()
    result = command("audit", config)
    assert result.exit_code == 0
    assert "holds a complete run" in result.output
    assert store.puts == []


def test_a_file_that_was_changed_at_the_url_is_made_again(store, config):
    assert command("audit", config).exit_code == 0
    put(f"{RUN}/influence.parquet", b"other")
    result = command("audit", config)
    assert "influence.parquet" in result.output
    assert "missing or changed" in result.output
    assert krepes.load(RUN).landmark_ids_


def test_another_machine_goes_on_from_the_blocks_at_the_url(store, config, cache, monkeypatch):
    from krepes import run

    with monkeypatch.context() as patch:
        patch.setattr(run, "find", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command("audit", config).exit_code == 130
    assert manifest(store)["status"] == "interrupted"
    assert {"work/landmarks.safetensors", "work/step.safetensors", "work/moments-000.safetensors"} <= kept(store)
    shutil.rmtree(cache)
    result = command("audit", config)
    assert result.exit_code == 0, result.output
    assert "finished blocks of an earlier run used" in result.output
    assert not any(name.startswith("work/") for name in kept(store))


def test_a_folder_that_is_no_run_is_refused_and_stays(store, config):
    put(f"{RUN}/thesis.tex", b"mine")
    for more in ((), ("--overwrite",)):
        result = command("audit", config, *more)
        assert result.exit_code == 1
        assert "thesis.tex and no manifest.json" in result.output
    assert kept(store) == {"thesis.tex"}


def test_folders_beside_a_run_are_refused_and_stay(store, config):
    put(f"{RUN}/work/thesis.tex", b"mine")
    result = command("audit", config)
    assert result.exit_code == 1
    assert "no manifest.json" in result.output
    assert kept(store) == {"work/thesis.tex"}


def test_another_programs_manifest_is_not_overwritten(store, config):
    put(f"{RUN}/manifest.json", b'{"name": "webapp"}')
    put(f"{RUN}/work/mine.txt", b"mine")
    result = command("audit", config, "--overwrite")
    assert result.exit_code == 1
    assert "is not of a krepes run" in result.output
    assert kept(store) == {"manifest.json", "work/mine.txt"}


def test_a_run_that_was_removed_at_its_url_is_made_anew(store, config, monkeypatch):
    from krepes import run

    with monkeypatch.context() as patch:
        patch.setattr(run, "find", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command("audit", config).exit_code == 130
    for name in [name for name in store.store if name.startswith("/bucket/runs/")]:
        del store.store[name]
    result = command("audit", config)
    assert result.exit_code == 0, result.output
    assert manifest(store)["status"] == "complete"


def test_another_runs_block_here_does_not_hide_the_one_at_the_url(store, cache):
    from krepes.work import Work

    bucket = Bucket(RUN)
    Work(bucket.local / "work", "new", bucket).save("landmarks", {"indices": torch.tensor([1])})
    Work(bucket.local / "work", "old").save("landmarks", {"indices": torch.tensor([2])})
    found = Work(bucket.local / "work", "new", bucket).load("landmarks")
    assert found is not None
    assert found["indices"].tolist() == [1]


def test_a_name_that_another_process_put_there_stays(store):
    first, second = Bucket(RUN), Bucket(RUN)
    first.claim()
    second.claim()
    with pytest.raises(RunFolderError, match="another process has begun"):
        first.end()
    second.check()


def test_a_run_may_be_kept_below_a_folder_that_is_not_there(config, tmp_path):
    place = f"file://{tmp_path}/shared/runs/one"
    result = command("audit", config, "--output", place)
    assert result.exit_code == 0, result.output
    assert read_manifest(tmp_path / "shared/runs/one")["status"] == "complete"


def test_overwriting_removes_the_runs_own_files_alone(store, config):
    assert command("audit", config).exit_code == 0
    put(f"{RUN}/notes.txt", b"mine")
    result = command("audit", config, "--overwrite", "--set", "seed=1")
    assert result.exit_code == 0, result.output
    assert "notes.txt" in kept(store)
    assert manifest(store)["config"]["seed"] == 1


def test_overwriting_a_local_run_removes_its_own_files_alone(config, tmp_path):
    folder = tmp_path / "run"
    assert command("audit", config, "--output", folder).exit_code == 0
    (folder / "notes.txt").write_text("mine")
    result = command("audit", config, "--output", folder, "--overwrite", "--set", "seed=1")
    assert result.exit_code == 0, result.output
    assert (folder / "notes.txt").read_text() == "mine"
    assert read_manifest(folder)["config"]["seed"] == 1


def test_another_configuration_is_refused(store, config):
    assert command("audit", config).exit_code == 0
    result = command("audit", config, "--set", "seed=1")
    assert result.exit_code == 1
    assert "belongs to another configuration" in result.output
    assert ".writer" not in kept(store)


def test_of_two_writers_the_first_stops(store, config, monkeypatch):
    from krepes import run

    write = run.write_tables

    def meanwhile(*arguments):
        Bucket(RUN).claim()  # as another process does that begins with this run
        return write(*arguments)

    monkeypatch.setattr(run, "write_tables", meanwhile)
    result = command("audit", config)
    assert result.exit_code == 1
    assert "another process has begun to write" in result.output
    assert manifest(store)["status"] == "running"  # the other's to change


def test_a_store_that_refuses_is_named_and_the_run_goes_on_later(store, config):
    store.fail.append("influence.parquet")
    result = command("audit", config)
    assert result.exit_code == 1
    assert f"cannot write {RUN}: PermissionError" in result.output
    assert manifest(store)["status"] == "failed"
    store.fail.clear()
    assert command("audit", config).exit_code == 0
    assert manifest(store)["status"] == "complete"
    assert read_manifest(Bucket(RUN).local)["status"] == "complete"


def test_a_strangers_run_fetches_nothing(store, config):
    from krepes.app.restricted import encoder_of, refuse_asking
    from krepes.config import read_config
    from krepes.errors import ConfigError

    settings = read_config(config)
    store.gets.clear()
    with pytest.raises(ConfigError, match="encoder is fetched from objects://bucket/w"):
        encoder_of(settings.encoder, config.parent, config.parent)
    with pytest.raises(ConfigError, match="samples are fetched from objects://bucket/x"):
        refuse_asking(settings.data, config.parent)
    assert store.gets == []
