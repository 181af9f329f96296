"""A run folder brings no code of its own, wherever its recipe lies."""

import json
import sys

import pytest
from safetensors.torch import save_file
from torch import nn

import krepes
from krepes.encoders import Recipe
from krepes.errors import ConfigError, RunFolderError
from tests.encoders.small import save

NET = "from pathlib import Path\nfrom torch import nn\nPath({!r}).touch()\nclass Net(nn.Linear):\n    pass\n"
ARGS = {"in_features": 2, "out_features": 2}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A run folder with a module beside its manifest; recipe, configuration and working directory are elsewhere."""
    run, elsewhere = tmp_path / "many" / "run", tmp_path / "elsewhere"
    run.mkdir(parents=True)
    elsewhere.mkdir()
    (run / "beside.py").write_text(NET.format(str(tmp_path / "ran")))
    save(elsewhere / "w.pt", nn.Linear(2, 2).state_dict())
    save_file(nn.Linear(2, 2).state_dict(), elsewhere / "w.safetensors")
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("beside", "run", "many"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def told(name: str, as_recipe: bool):
        if as_recipe:
            Recipe(checkpoint="w.pt", arch={"name": name, "args": ARGS}).save(elsewhere / "recipe.yaml")
            encoder = {"recipe": "recipe.yaml", "trust_recipe": True}
        else:
            encoder = {"factory": name, "args": ARGS, "weights": "w.safetensors"}
        manifest = {"format": 1, "status": "complete", "encoder": encoder, "config_folder": str(elsewhere)}
        (run / "manifest.json").write_text(json.dumps(manifest))
        return run

    return told


@pytest.mark.parametrize("as_recipe", [True, False], ids=["recipe", "factory"])
@pytest.mark.parametrize(
    ("name", "on_the_path"), [("beside:Net", "many/run"), ("run.beside:Net", "many"), ("many.run.beside:Net", ".")]
)
def test_a_module_beside_the_manifest_is_never_imported(name, on_the_path, as_recipe, hostile, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / on_the_path)
    with pytest.raises(ConfigError, match=r"it stands in .*many/run, .*krepes\.load\(folder, encoder="):
        krepes.load(hostile(name, as_recipe))
    assert not (tmp_path / "ran").exists()
    assert "beside" not in sys.modules


def test_a_library_of_the_run_folders_own_is_not_imported_for_a_folder_of_weights(hostile, tmp_path, monkeypatch):
    run = hostile("transformers:weights", True)
    (run / "transformers.py").write_text(NET.format(str(tmp_path / "ran")))
    (tmp_path / "elsewhere" / "weights").mkdir()
    Recipe(arch={"name": "transformers:weights"}).save(tmp_path / "elsewhere" / "recipe.yaml")
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(run)
    with pytest.raises(ConfigError, match="is not run unseen"):
        krepes.load(run)
    assert not (tmp_path / "ran").exists()


def test_a_run_folder_inside_of_an_installed_package_gets_no_trust_from_it(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "krepes.encoders.trust.sysconfig.get_paths",
        lambda: dict.fromkeys(("stdlib", "platstdlib", "purelib", "platlib"), str(tmp_path)),
    )
    monkeypatch.syspath_prepend(tmp_path / "many" / "run")
    with pytest.raises(ConfigError, match="is not run unseen"):
        krepes.load(hostile("beside:Net", True))
    assert not (tmp_path / "ran").exists()


def test_what_is_installed_inside_of_the_working_directory_is_imported(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "krepes.encoders.trust.sysconfig.get_paths",
        lambda: dict.fromkeys(("stdlib", "platstdlib", "purelib", "platlib"), str(tmp_path / "working" / "site")),
    )
    (tmp_path / "working" / "site").mkdir()
    (tmp_path / "working" / "site" / "installed_net.py").write_text(NET.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path / "working" / "site")
    with pytest.raises(RunFolderError, match="a file of the run"):  # the rest of it is missing
        krepes.load(hostile("installed_net:Net", False))
    assert (tmp_path / "ran").exists()
    monkeypatch.delitem(sys.modules, "installed_net")
