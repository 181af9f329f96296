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
            refuse_a_strangers_file(path, top, trust.folders)
    elif not trust.code and top not in LIBRARIES:
        raise ConfigError(
            f"the recipe names {path}, which is code outside {', '.join(LIBRARIES)}; importing it runs it, and a "
            "recipe may be a stranger's. If you trust this recipe, allow it: krepes convert --trust-recipe, "
            "encoder.trust_recipe: true in the configuration, or build(..., trust_code=True)."
        )


def refuse_a_strangers_file(path: str, top: str, folders: tuple[Path, ...]) -> None:
    """Raise ConfigError where a top-level module stands in a stranger's folder or in the working directory."""
    installed = [Path(p).resolve() for p in sysconfig.get_paths().values()]
    inside = [p.resolve() for p in (Path.cwd(), *folders)]
    for origin in origins(top):
        if any(origin.is_relative_to(p) for p in installed):
            continue
        near = next((p for p in inside if origin.is_relative_to(p)), None)
        if near is not None:
            raise ConfigError(
                f"the run folder names {path}, which would import {origin}: it stands in {near}, so it may have come "
                "with the run folder, and is not run unseen. If you trust it, import it yourself before, or build the "
                "encoder yourself: krepes.load(folder, encoder=...)."
            )


def origins(top: str) -> list[Path]:
    """The files or folders that a top-level module would be imported from, found without running it."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # no spec, as of a module made in memory
        return []
    if spec is None:
        return []
    found = [*(spec.submodule_search_locations or ())]
    if spec.origin and spec.has_location:
        found.append(spec.origin)
    return [Path(p).resolve() for p in found]
