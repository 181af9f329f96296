"""Architectures of the real torchvision and timm, where a folder holds them; elsewhere they are stand-ins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.encoders.real_vision import CHECKS

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("KREPES_VISION") or ROOT / ".venv" / "vision")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    """Check ↦ "" or its traceback, from a process of its own: what is imported there is seen by no other test."""
    missing = [name for name in ("torchvision", "timm") if not (FOLDER / name).is_dir()]
    if missing:
        pytest.skip(
            f"{FOLDER} holds no {' and no '.join(missing)} (KREPES_VISION names another folder; see the Makefile)"
        )
    told = tmp_path_factory.mktemp("vision") / "outcomes.json"
    path = os.pathsep.join([str(FOLDER), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tests.encoders.real_vision", str(told)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(told.read_text())


@pytest.mark.parametrize("check", CHECKS)
def test_the_real_libraries_give_what_a_recipe_says(check, outcomes):
    assert outcomes[check] == "", outcomes[check]
