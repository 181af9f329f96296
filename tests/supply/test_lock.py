"""The pinned releases fit what is declared, and each other."""

import ast
import importlib.metadata
import re
import sys

import pytest
from packaging.version import Version

from tests.supply.declared import ROOT, floors, normal, pinned

# imported lazily where an extra brings them; declared under [project.optional-dependencies]
EXTRAS = {"kornia", "datasets", "transformers", "torchvision", "timm", "huggingface-hub", "tokenizers"}


@pytest.mark.parametrize("name", sorted(floors()))
def test_every_direct_dependency_is_pinned_within_its_range(name):
    version = pinned("constraints.txt").get(name)
    assert version is not None, f"constraints.txt does not pin {name}"
    assert Version(version) >= Version(floors()[name])
    if name != "torch":  # its build is the user's choice, see docs/installation.md
        assert pinned("requirements.lock").get(name) == version


def test_the_lock_and_the_constraints_pin_the_same_releases():
    constraints = pinned("constraints.txt")
    differing = {n: (v, constraints.get(n)) for n, v in pinned("requirements.lock").items() if constraints.get(n) != v}
    differing.pop("colorama", None)  # Windows alone needs it; the constraints are of Linux
    assert differing == {}


def test_every_locked_package_has_hashes():
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert [b.splitlines()[0] for b in blocks if "--hash=sha256:" not in b] == []


def test_what_a_locked_package_needs_is_locked_or_torch():
    """The lock is whole: nothing that is installed from it asks for a package without a hash."""
    locked, missing = pinned("requirements.lock"), set()
    for name in locked:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for line in needs:
            if ";" not in line:
                needed = normal(re.match(r"[\w.-]+", line)[0])  # pyright: ignore[reportOptionalSubscript]
                missing |= {(name, needed)} - {(name, n) for n in [*locked, "torch"]}
    assert missing == set()


def test_every_package_that_the_code_imports_is_declared():
    of_modules = importlib.metadata.packages_distributions()
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import)
                else [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module
                else []
            )  # fmt: skip
            found |= {n.split(".")[0] for n in names}
    # pydantic pins pydantic_core, and its documentation takes the classes of custom errors from there
    found -= set(sys.stdlib_module_names) | {"krepes", "pydantic_core"}
    undeclared = {m for m in found if not ({normal(d) for d in of_modules.get(m, [m])} & (set(floors()) | EXTRAS))}
    assert undeclared == set()
