"""What a notebook shows of auditors, explanations, audits and trust gates."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from krepes.report.findings import sentences
from krepes.report.pictures import Sprites
from krepes.report.words import number, templates

if TYPE_CHECKING:
    from krepes.audit.findings import Findings
    from krepes.audit.trust import TrustGate
    from krepes.auditor import Auditor

LANDMARKS = 8  # of an auditor that are shown


def rendered(name: str, **content: Any) -> str:
    """A macro of notebook.html.j2 with its content."""
    return templates().get_template("notebook.html.j2").render(part=name, **content)


def explanation(table: pd.DataFrame, pictures: Mapping[str, bytes], most: int) -> str:
    """Each sample with the bars of its top landmarks."""
    sprites, samples = Sprites(pictures), []
    for name, part in list(table.groupby("sample", sort=False))[:most]:
        rows = part.to_dict("records")
        widest = max([*(abs(row["contribution"]) for row in rows), 1e-300])
        shown = [{**row, "width": abs(row["contribution"]) / widest, "picture": sprites(str(row["landmark"]))}
                 for row in rows]  # fmt: skip
        samples.append({"id": name, "rows": shown})
    return rendered("explanation", samples=samples, more=table["sample"].nunique() - len(samples))


def auditor(fitted: "Auditor", trust: "TrustGate | None") -> str:
    """Objective, outcome, trust where it is known, and the landmarks of the largest norm."""
    settings = fitted.settings
    content: dict[str, Any] = {"objective": settings.objective.name, "outcome": None, "trust": None, "landmarks": []}
    if fitted.is_fitted:
        norms = fitted.dA_.norm(dim=1)
        strongest = norms.argsort(descending=True)[:LANDMARKS].tolist()
        ids = fitted.landmark_ids_
        sprites = Sprites(landmark_pictures(fitted, [ids[i] for i in strongest]))
        content |= {
            "outcome": fitted.outcome_,
            "trust": trust,
            "m": len(ids),
            "h": fitted.dA_.shape[1],
            "landmarks": [{"id": ids[i], "norm": float(norms[i]), "picture": sprites(ids[i])} for i in strongest],
        }
    return rendered("auditor", **content)


def landmark_pictures(fitted: "Auditor", wanted: list[str]) -> dict[str, bytes]:
    """Pictures of some landmarks; {} where samples are no images."""
    from krepes.shown import Pictures, looks_like_an_image

    samples, place = fitted.fit_.samples, {name: i for i, name in enumerate(fitted.landmark_ids_)}
    audited = fitted.seen_.audited
    if not looks_like_an_image(samples, None if audited is None else audited.kind):
        return {}
    draw = Pictures.of(fitted)
    return {name: draw.encode(samples[place[name]].float().cpu().numpy()) for name in wanted if name in place}


def gate(found: "TrustGate") -> str:
    """The verdict and every figure."""
    return rendered("gate", trust=found)


def findings(found: "Findings") -> str:
    """What was found, in sentences, and what could not be had."""
    tables = [name for name, value in vars(found).items() if isinstance(value, pd.DataFrame)]
    return rendered("findings", sentences=sentences(found, number), notes=found.notes, tables=tables)


def captioned(tables: Mapping[str, pd.DataFrame], notes: tuple[str, ...] = ()) -> str:
    """Data frames under their names."""
    shown = [(name, table.to_html(index=False, max_rows=20, border=0)) for name, table in tables.items() if len(table)]
    return rendered("tables", tables=shown, notes=notes)
