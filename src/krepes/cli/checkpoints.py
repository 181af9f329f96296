"""Verbs that read checkpoint files: convert, and inspect where it is given one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from krepes.cli.console import Quiet, errors_in_words, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from krepes.encoders.building import Loaded
    from krepes.encoders.recipe import Recipe

AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Run the code that the file's pickle names. Only for files you trust.")
]


def is_configuration(path: Path) -> bool:
    """Whether a file is a YAML configuration by its name; everything else is taken for a checkpoint."""
    return path.suffix.lower() in (".yaml", ".yml")


def inspect_file(path: Path, console: "Console", allow_pickle: bool = False, rows: int = 60, depth: int = 3) -> None:
    """Print a checkpoint's prefixes with their shapes, and the preset that fits.

    Args:
        path: the file, or a folder of safetensors.
        console: where.
        allow_pickle: see `krepes.encoders.read_checkpoint`.
        rows: of the tree to show.
        depth: of the tree.
    """
    import yaml
    from rich.markup import escape
    from rich.table import Table

    from krepes.encoders.inspection import inspect_checkpoint

    found = inspect_checkpoint(path, allow_pickle, depth)
    console.print(f"{path}: {found.format}, {found.size:,} bytes", highlight=False, markup=False, soft_wrap=True)
    held = ", ".join(f"{name} ({n} tensors)" for name, n in found.containers[:12])
    console.print(f"state dicts: {held}\nshown: {found.container}", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("prefix", overflow="fold")
    for name in ("tensors", "numbers"):
        table.add_column(name, justify="right")
    table.add_column("type")
    table.add_column("shapes", overflow="fold")
    for node in found.tree[:rows]:
        name = escape("  " * node.depth + node.prefix)
        table.add_row(name, str(node.tensors), f"{node.numbers:,}", node.dtypes, escape(node.shapes))
    console.print(table)
    if len(found.tree) > rows:
        console.print(f"… and {len(found.tree) - rows} more (--rows)", highlight=False)
    console.print("proposal:", highlight=False)
    for line in found.why:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if found.proposal is None:
        return
    plain = found.proposal.model_dump(mode="json", exclude_defaults=True)
    console.print("recipe:", highlight=False)
    for line in yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).splitlines():
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint: safetensors, what torch.save wrote, or a folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for encoder.safetensors and recipe.yaml.")],
    preset: Annotated[
        str | None, typer.Option(help="The framework that wrote it; krepes inspect proposes one.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe to begin with, instead of a preset.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A field of the recipe, key.sub=value, such as branch=teacher.")
    ] = None,
    allow_pickle: AllowPickle = False,
    trust_recipe: Annotated[
        bool, typer.Option("--trust-recipe", help="Import the code that the recipe names. Only for recipes you trust.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a conversion that stands in the folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint to safetensors and a recipe that load without the original."""
    with errors_in_words():
        from krepes.encoders.conversion import convert as converted

        start = starting_recipe(file, preset, recipe, set_ or [])
        done = converted(start, file.parent, output, allow_pickle, overwrite, trust_recipe)
        console = terminal(quiet)
        print_account(done.loaded, console)
        console.print(f"written: {done.folder}/encoder.safetensors, {done.folder}/recipe.yaml", highlight=False,
                      markup=False, soft_wrap=True)  # fmt: skip


def starting_recipe(file: Path, preset: str | None, recipe: Path | None, overrides: list[str]) -> "Recipe":
    """The recipe of the original file.

    Raises:
        ConfigError: neither preset nor recipe is given, or an override is none.
    """
    import yaml
    from pydantic import ValidationError

    from krepes.config.mistakes import in_words, with_suggestions
    from krepes.config.reading import load_yaml, put
    from krepes.encoders.recipe import Recipe
    from krepes.errors import ConfigError

    if (preset is None) == (recipe is None) and not (preset is None and overrides):
        raise ConfigError(
            "say where the weights are: --preset NAME, or --recipe FILE with prefixes and arch. krepes inspect "
            f"{file} shows the keys and proposes a preset."
        )
    plain = {"preset": preset} if recipe is None else Recipe.load(recipe).model_dump(exclude_unset=True)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: expected key=value, such as branch=teacher")
        try:
            put(plain, key.split("."), load_yaml(value))
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"--set {override}: '{value}' is not valid YAML; close its brackets") from error
    plain["checkpoint"] = file.name
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        lines = [f"  {in_words(e)}" for e in with_suggestions(error, "recipe", list(Recipe.model_fields)).errors()]
        raise ConfigError("the recipe:\n" + "\n".join(lines)) from error


def print_account(loaded: "Loaded", console: "Console") -> None:
    """The parts, the account and what must be known of them."""
    audited = "network" if loaded.space == "output" else loaded.space
    for line in [*loaded.words, *loaded.account.lines(), f"audited    the {audited}'s output"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if loaded.note:
        console.print(loaded.note, style="yellow", highlight=False, markup=False, soft_wrap=True)
