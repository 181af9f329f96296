"""Where reference data are published, under which licence, and the digests that say they are right."""

from importlib.resources import files as package_files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from krepes.errors import ConfigError

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # no way out of a folder


class _Record(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Record):
    """A file, the places that publish it (one that ends in / gets its name), and its digests.

    `content` is the digest of what a .gz file holds, since the same data may have been packed again.
    """

    name: Name
    urls: tuple[Url, ...] = ()
    sha256: Digest
    content: Digest | None = None
    bytes: int = Field(gt=0)


class Form(_Record):
    """One way in which the data are published."""

    name: str
    files: tuple[File, ...] = Field(min_length=1)

    @property
    def downloadable(self) -> bool:
        """Whether every file is published somewhere."""
        return all(file.urls for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.bytes for file in self.files)

    def in_folder(self, folder: Path) -> bool:
        """Whether files of all its names are there."""
        return all((folder / file.name).is_file() for file in self.files)


class Entry(_Record):
    """A data set: what it is, what it may be used for, and its forms."""

    title: str
    folder: Name
    homepage: Url
    licence: str
    citation: str
    forms: tuple[Form, ...] = Field(min_length=1)


Registry = dict[str, Entry]


def read_registry(path: Path | None = None) -> Registry:
    """The data sets by name.

    Args:
        path: a YAML file; default the one that comes with krepes.

    Raises:
        ConfigError: it cannot be read, or an entry is incomplete or wrong; names it.
    """
    place = package_files("krepes") / "assets" / "reference.yaml" if path is None else path
    try:
        return TypeAdapter(Registry).validate_python(yaml.safe_load(place.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the registry of reference data {place}: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (found {e['input']!r})" for e in error.errors()]
        raise ConfigError(f"{place}:\n" + "\n".join(lines)) from error
