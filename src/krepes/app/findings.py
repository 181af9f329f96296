"""What a run says in words: the sentences of its report."""

from krepes.stored import StoredRun


def findings_of(run: StoredRun, hidden: frozenset[str]) -> list[str]:
    """What was found in plain words, of the tables that can be read; nothing of redacted columns."""
    from krepes.report.content import Page, findings_of, guarded
    from krepes.report.findings import sentences
    from krepes.report.words import number

    page = Page(run, thumbnails=False, redact=sorted(hidden))
    found = guarded(run, "findings", lambda: findings_of(page))
    return [] if found is None else [*sentences(found, number), *found.notes]
