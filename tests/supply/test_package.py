"""Wheel and source archive hold what they should, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.supply.declared import ROOT

CODE = ROOT / "src" / "krepes"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


def published() -> set[str]:
    """Every file of the package in the checkout."""
    files = [p for p in CODE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {str(p.relative_to(CODE.parent)) for p in files}


def test_the_wheel_holds_the_package_and_its_metadata_alone(wheel):
    names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert names == published()
    for needed in ("py.typed", "app/static/app.js", "app/templates/index.html", "report/template.html.j2",
                   "assets/digits.safetensors", "app/static/vendor/leaflet.LICENSE.txt"):  # fmt: skip
        assert f"krepes/{needed}" in names


def test_the_wheel_carries_the_licence_and_the_command(wheel):
    info = {n.split(".dist-info/")[1]: wheel.read(n).decode() for n in wheel.namelist() if ".dist-info/" in n}
    assert info["licenses/LICENSE"] == (ROOT / "LICENSE").read_text()
    assert "License-Expression: Apache-2.0" in info["METADATA"]
    assert "krepes = krepes.cli:app" in info["entry_points.txt"]


def test_the_source_archive_holds_named_folders_alone(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [n.partition("/")[2] for n in archive.getnames()]
    tops = {n.split("/")[0] for n in names}
    assert tops == {
        "src", "tests", "docs", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "constraints.txt",
        "requirements.lock", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore",
    }  # fmt: skip
    assert published() <= {n.removeprefix("src/") for n in names}
    assert [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".tmp"))] == []
