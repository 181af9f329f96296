"""Whose code an import path may run: a recipe or a run folder may be a stranger's."""

import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from krepes.errors import ConfigError

LIBRARIES = ("krepes", "torchvision", "timm", "transformers")


@dataclass(frozen=True)
class Trust:
    """What may be imported and called.

    Attributes:
        functions: call any callable: the user wrote the path; otherwise nothing but nn.Module classes.
        code: import modules outside krepes, torchvision, timm and transformers.
        stranger: the path came with a run folder: import only what is imported already or installed elsewhere.
        folders: where a stranger's files are; the working directory is always one.
    """

    functions: bool = False
    code: bool = False
    stranger: bool = False
    folders: tuple[Path, ...] = ()


OWN = Trust(functions=True, code=True)


def refuse_untrusted(path: str, module: str, trust: Trust) -> None:
    """Raise ConfigError where a module must not be imported for this path; nothing is imported to find out.

    Args:
        path: as written, for the error.
        module: dotted name of the module that would be imported.
    """
    top = module.split(".")[0]
    if "__main__" in module.split(".") and not trust.functions:
        raise ConfigError(f"{path}: __main__ is a program, not a place for a network")
    if trust.stranger:
        if module not in sys.modules and top != "krepes":
            refuse_a_strangers_file(path, module, trust.folders)
    elif not trust.code and top not in LIBRARIES:
        raise ConfigError(
            f"the recipe names {path}, which is code outside {', '.join(LIBRARIES)}; importing it runs it, and a "
            "recipe may be a stranger's. If you trust this recipe, allow it: krepes convert --trust-recipe, "
            "encoder.trust_recipe: true in the configuration, or build(..., trust_code=True)."
        )


def refuse_a_strangers_file(path: str, module: str, folders: tuple[Path, ...]) -> None:
    """Raise ConfigError where a module would come from a stranger's folder or from the working directory."""
    paths = sysconfig.get_paths()
    installed = [Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    inside = [p.resolve() for p in (Path.cwd(), *folders)]
    for origin in origins(module):
        # an environment may lie in the working directory, a stranger's folder in an environment
        near = next((p for p in inside if origin.is_relative_to(p) and not any(
            origin.is_relative_to(q) and q.is_relative_to(p) for q in installed)), None)  # fmt: skip
        if near is not None:
            raise ConfigError(
                f"the run folder names {path}, which would import {origin}: it stands in {near}, so it may have come "
                "with the run folder, and is not run unseen. If you trust it, import it yourself before, or build the "
                "encoder yourself: krepes.load(folder, encoder=...)."
            )


def origins(module: str) -> list[Path]:
    """The files or folders that a module, and the packages around it, would be imported from; nothing is run."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # no spec, as of a module made in memory
        return []
    if spec is None:
        return []
    packages = [Path(p) for p in spec.submodule_search_locations or ()]
    found = [package.joinpath(*inner[:depth]) for package in packages for depth in range(len(inner) + 1)]
    if spec.origin and spec.has_location:
        found.append(Path(spec.origin))
    return [p.resolve() for p in found]
