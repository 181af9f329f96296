"""What pyproject.toml declares, and what the lock and the constraints pin.

`python tests/supply/declared.py` prints the oldest release of every direct dependency that is allowed, one
`name==version` a line: what `make floors` installs.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def normal(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def floors() -> dict[str, str]:
    """Direct dependencies at run time ↦ the oldest release allowed."""
    found = {}
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        parts = re.fullmatch(r"([\w.-]+)>=([\w.]+)", line)
        if parts is None:
            raise SystemExit(
                f"pyproject.toml: '{line}' has no single floor; write name>=version, which `make floors` tests"
            )
        found[normal(parts[1])] = parts[2]
    return found


def pinned(file: str) -> dict[str, str]:
    """Packages of a requirements file ↦ their pinned release, hashes and markers left out."""
    lines = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / file).read_text(), re.MULTILINE)
    return {normal(name): version for name, version in lines}


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in floors().items()))
