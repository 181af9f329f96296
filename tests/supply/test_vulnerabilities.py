"""CI's question for known vulnerabilities never passes without an answer; a stand-in takes pip-audit's place."""

import subprocess
from pathlib import Path

import pytest

from tests.supply.declared import ROOT

FOUND = "jinja2 3.1.2 PYSEC-2024-1 3.1.3"
SKIPPED = "jinja2 Dependency not found on PyPI and could not be audited: jinja2 (3.1.2)"


def asked(folder: Path, canary: str, rest: int) -> subprocess.CompletedProcess[str]:
    """What is said where pip-audit prints `canary` of the known vulnerable release and ends with `rest`."""
    stand_in = folder / "pip-audit"
    stand_in.write_text(f'#!/bin/sh\ncase "$*" in *canary*) echo "{canary}" ;; *) exit {rest} ;; esac\n')
    stand_in.chmod(0o755)
    command = ["bash", str(ROOT / ".ci" / "vulnerabilities"), str(stand_in)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_service_that_skips_everything_is_not_believed(tmp_path):
    assert "NOT CHECKED" in asked(tmp_path, SKIPPED, 0).stdout


@pytest.mark.parametrize("rest", [0, 1])
def test_the_answer_of_a_service_that_knows_is_the_outcome(tmp_path, rest):
    done = asked(tmp_path, FOUND, rest)
    assert done.returncode == rest
    assert "NOT CHECKED" not in done.stdout
    assert "asking pypi of" in done.stdout
