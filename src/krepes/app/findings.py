"""What a run says in words, and what it keeps hidden."""

from dataclasses import replace

import pandas as pd

from krepes.errors import KrepesError
from krepes.stored import DATA, StoredRun, first_line


def redacted(run: StoredRun) -> frozenset[str]:
    """Raw names of the columns that a run keeps hidden; of all where the manifest misstates them."""
    report = run.section("config").get("report")
    found = [part.get("redact") or [] for part in (run.manifest, report if isinstance(report, dict) else {})]
    if all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in found):
        return frozenset(name for names in found for name in names)
    run.say("redact", "The manifest's redact is no list of columns: no column is shown.")
    file = run.parquet("points.parquet", expected=False)
    return frozenset([] if file is None else (n.removeprefix(DATA) for n in file.schema_arrow.names))


def findings_of(run: StoredRun, hidden: frozenset[str]) -> list[str]:
    """What was found in plain words, of the tables that can be read; nothing of redacted columns."""
    from krepes.audit.findings import Findings
    from krepes.report.findings import sentences
    from krepes.report.words import number

    tables: dict[str, pd.DataFrame] = {}
    for name in ("concepts", "feature_gap", "attribution", "evaluation"):
        table = run.table(f"{name}.parquet", expected=False)
        if table is None or table.empty:
            continue
        if "column" in table:
            table = table.loc[~table["column"].isin(list(hidden))]
        if "explained_by" in table:
            table = table.assign(
                explained_by=table["explained_by"].where(~table["explained_by"].isin(list(hidden)), "")
            )
        tables[name] = table
    attributed = run.manifest.get("attributed")
    said = []
    for name, table in tables.items():  # one that is of another version takes no other with it
        try:
            looked = attributed if isinstance(attributed, int) else 0
            said += sentences(replace(Findings(attributed=looked), **{name: table}), number)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, KrepesError) as error:
            run.say(f"{name}.parquet", f"{name}.parquet is of another version of krepes ({first_line(error)}).")
    notes = run.manifest.get("notes")
    told_ = [n for n in (notes if isinstance(notes, list) else []) if isinstance(n, str)]
    return said + [note for note in told_ if not any(name in note for name in hidden)]
