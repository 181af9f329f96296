"""The configuration's `audit` and `report`: what is asked beside the scores, and what is shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from krepes.audit.findings import AuditPlan
from krepes.audit.selection import positions_of
from krepes.config.reading import Section, resolve
from krepes.data import Source
from krepes.errors import ConfigError, is_whole

if TYPE_CHECKING:
    from krepes.config.audit import Config

QUERY_OR_IDS = "a query on the table (text), or a list of ids"


def as_ids(content: Any, otherwise: str) -> list[str]:
    """Ids as text: in YAML those of an array, 0, 1, …, are written as whole numbers.

    Args:
        content: a list of texts and whole numbers.
        otherwise: what else could stand there, for the message.

    Raises:
        ValueError: it is no such list; pydantic names the place.
    """
    if not isinstance(content, list):
        raise ValueError(f"expected {otherwise}")
    odd = [v for v in content if not isinstance(v, str) and not is_whole(v)]
    if odd:
        raise ValueError(f"{odd[0]!r} is no id, which is text or a whole number; put it in quotes if it is one")
    return [str(v) for v in content]


def samples(content: Any) -> str | list[str]:
    """A query, or ids."""
    return content if isinstance(content, str) else as_ids(content, QUERY_OR_IDS)


def concept(content: Any) -> Any:
    """A concept: one side, or both."""
    if isinstance(content, ConceptConfig):
        return content
    if isinstance(content, dict):
        return ConceptConfig.model_validate(content)
    return content if isinstance(content, str) else as_ids(content, f"{QUERY_OR_IDS}, or positive and negative")


def removed(content: Any) -> Any:
    """The samples of a counterfactual."""
    if isinstance(content, str):
        return content
    if not is_whole(content):
        return as_ids(content, f"{QUERY_OR_IDS}, or a number of landmarks")
    if content < 1:
        raise ValueError("expected at least 1 landmark")
    return content


def explained(content: Any) -> Any:
    """The samples that are explained."""
    return content if is_whole(content) else as_ids(content, "a number of samples, or a list of ids")


Samples = Annotated[str | list[str], BeforeValidator(samples)]


class ConceptConfig(Section):
    """Two sides of a concept: queries on the table, or lists of ids."""

    positive: Samples
    negative: Samples | None = None


Concept = Annotated[str | list[str] | ConceptConfig, BeforeValidator(concept)]
Removed = Annotated[str | list[str] | int, BeforeValidator(removed)]


class AuditConfig(Section):
    """What is asked beside the scores; see `krepes.AuditPlan`. `evaluate` switches figures against `data.label` off."""

    concepts: dict[str, Concept] = Field(default_factory=dict)
    concept_folder: str | None = None
    automatic_concepts: bool = True
    features: list[str] | None = None
    points: int = Field(default=1000, ge=20)
    refits: int = Field(default=10, ge=0)
    attribution: int = Field(default=200_000, ge=0)
    attribution_at: Literal["encoder", "step", "training"] = "encoder"
    counterfactuals: dict[str, Removed] = Field(default_factory=dict)
    evaluate: bool = True


class ReportConfig(Section):
    """What the run folder shows: samples explained in the report, landmarks per sample in the tables.

    Without `thumbnails`, and of columns in `redact`, neither report nor app shows samples.
    """

    explain: Annotated[list[str] | int, BeforeValidator(explained)] = 6
    top_k: int = Field(default=10, ge=1)
    thumbnails: bool = True
    redact: list[str] = Field(default_factory=list)


def build_plan(config: "Config", folder: Path) -> AuditPlan:
    """What is asked beside the scores."""
    asked = config.audit
    concepts = {
        name: side.model_dump() if isinstance(side, ConceptConfig) else side for name, side in asked.concepts.items()
    }
    place = None if asked.concept_folder is None else resolve(asked.concept_folder, folder)
    return AuditPlan(
        concepts, place, asked.automatic_concepts, asked.features, asked.points, asked.refits, asked.attribution,
        asked.counterfactuals, asked.attribution_at,
    )  # fmt: skip


def refuse_unknown_samples(config: ReportConfig, source: Source) -> None:
    """Raise ConfigError naming samples of `report.explain` that there are not."""
    if isinstance(config.explain, int):
        return
    known = positions_of(source.ids, set(config.explain))
    odd = [name for name in config.explain if name not in known]
    if odd:
        raise ConfigError(
            f"report.explain names unknown samples: {', '.join(odd[:5])}; expected ids of the {len(source):,} samples, "
            f"which run from {source.ids[0]!r} to {source.ids[-1]!r}, or a number of samples"
        )
