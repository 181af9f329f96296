"""One audit from samples to run folder."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

import krepes
from krepes.audit.findings import AuditPlan, Findings, find
from krepes.audit.selection import explained_positions, positions_of
from krepes.auditor import Auditor
from krepes.data.source import Source
from krepes.data.stream import Views
from krepes.engine import in_words, peak_resident
from krepes.errors import ConfigError, DataError, KrepesError, lacks_memory
from krepes.files import (
    one_writer,
    refusals_of,
    sha256_file,
    sha256_tree,
    write_atomically,
    write_json,
)
from krepes.remote import Bucket
from krepes.report.audited import of_source
from krepes.report.card import build_card
from krepes.report.page import build_page
from krepes.report.words import number
from krepes.results import MODEL, describe_settings, read_manifest, save_auditor, versions
from krepes.run_folder import FINDINGS, OUTPUTS, WORK, finished, opened
from krepes.seen import behaviour
from krepes.shown import write_shown
from krepes.stored import StoredRun
from krepes.tables import write_tables
from krepes.terminal import say, visible
from krepes.work import Work, key_of
from krepes.workers import alone, current

EXPLAINED = 6  # samples that a report explains when nobody names them


def run_audit(
    auditor: Auditor,
    source: Source,
    views: Views,
    folder: Path,
    config: dict[str, Any],
    console: Console,
    *,
    title: str,
    command: str,
    explain: Sequence[str] | int = 6,
    top_k: int = 10,
    overwrite: bool = False,
    extra: dict[str, Any] | None = None,
    plan: AuditPlan | None = None,
    labels: np.ndarray | None = None,
    thumbnails: bool = True,
    redact: Sequence[str] = (),
    bucket: Bucket | None = None,
) -> Path:
    """Fit, score, write everything; the folder's manifest says at any moment how far the run got.

    Blocks that an interrupted run finished are taken from the folder's `work` and not computed again.

    Args:
        config: the resolved configuration; a folder of another one is refused.
        extra: more entries of the manifest; of space, note, account and normalisation of the encoder the report tells.
        plan: what is asked beside the scores; default `AuditPlan()`.
        labels: one class per sample, None where missing, for the figures against labels alone.
        thumbnails: whether pictures of samples are kept for report and app.
        redact: columns of the samples' table whose values report and app do not show.
        bucket: where the run is kept, if the folder is its local copy.

    Returns:
        the report's path.

    Raises:
        RunFolderError: another process writes to the folder, it belongs to another run, or it cannot be written.
    """
    plan = plan or AuditPlan()
    plan.check(source)
    refuse_unknown(source, redact)
    chosen = explained_positions(source, explain, auditor.settings.seed)
    workers = current()
    with one_writer(folder) if workers.first else nullcontext():
        prints = {"encoder": auditor.encoder.fingerprint(), "data": source.fingerprint()}
        if labels is not None:
            prints["labels"] = hashlib.sha256(repr(labels.tolist()).encode()).hexdigest()
        if plan.concept_folder is not None:
            prints["concepts"] = sha256_tree(Path(plan.concept_folder))
        seen = behaviour(auditor.settings, auditor.encoder, source, views)
        identity = {"fingerprints": prints, "config": config, "behaviour": seen}
        if workers.size > 1:
            workers.agree(seen_by_a_worker(auditor, prints, config))
        run = opened(folder, identity, overwrite, console, bucket) if workers.first else None
        if workers.same(run is None):
            return folder / "report.html"
        numbers = {"settings": describe_settings(auditor.settings), "device": auditor.encoder.device.type,
                   "dtype": str(auditor.encoder.dtype)}  # fmt: skip
        # of the first worker: numbers computed from the first samples may be rounded differently elsewhere
        key = workers.same(key_of({**identity, **numbers, "versions": versions()}))
        work = Work(folder / WORK, key, bucket)

        def mark(state: str, stage: str | None = None) -> None:
            if run is not None:
                run.mark(state, *([] if stage is None else [stage]))

        try:
            mark("running", "fit")  # before all else: without a manifest, what stands in the folder is a stranger's
            if bucket is None or needs_shared_files(auditor):
                workers.check_shared(folder / WORK)
            workers.scratch = folder / WORK if workers.size > 1 else None
            auditor.fit_with(source, views, work)
            mark("running", "scores")
            with auditor.progress.stage("scores", total=len(source)) as note:
                landmarks = write_tables(auditor, source, folder, top_k, work, note)
                if work.reused:
                    note(f"{len(work.reused)} finished blocks of an earlier run used")
            mark("running", "findings")
            found = find(auditor, plan, chosen, labels)
            trust = auditor.trust_
            if run is None:
                return folder / "report.html"
            written = write_findings(found, folder)
            for note in found.notes:
                auditor.progress.say(f"note       {note}")
            mark("running", "report")
            write_json(folder / "trust.json", trust.as_dict())
            with auditor.progress.stage("report"):
                written += write_shown(auditor, folder, chosen, landmarks, found, thumbnails, redact)
            peak = peak_resident()
            if peak is not None:
                auditor.progress.say(f"memory     peak {in_words(peak)} resident in this process")
            more = {"title": title, "config": config, "behaviour": identity["behaviour"], "command": command,
                    "peak_resident_bytes": peak, "figures": {"spectral_entropy": auditor.spectral_entropy_},
                    "notes": list(found.notes), "attributed": found.attributed, "source": of_source(source),
                    "thumbnails": thumbnails, "redact": list(redact), **(extra or {})}  # fmt: skip
            # the report is of what stands in the folder; the manifest is complete when all else is
            save_auditor(auditor, folder, {**more, "status": "running", "stage": "report"}, prints)
            stored = StoredRun(folder, {**read_manifest(folder), "status": "complete"})
            card = build_card(stored)
            write_atomically(folder / "card.md", lambda p: p.write_bytes(card.encode("utf-8", "replace")))
            write_report(stored)
            run.check()
            refuse_changed(source, prints["data"])
            names = [name for name in (*OUTPUTS, *written) if name != MODEL]
            with refusals_of(folder):
                sums = {name: sha256_file(folder / name) for name in names}
            run.keep([*names, MODEL])
            run.check()
            run.write(finished(read_manifest(folder), sums))
            run.end(work)
        except BaseException as error:
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            try:
                mark(state)
            except Exception as second:  # the first error is the one to tell; it may be the reason for this one
                error.add_note(f"The manifest could not be updated either: {second}")
            if isinstance(error, Exception) and not (isinstance(error, KrepesError) or lacks_memory(error)):
                refuse_changed(source, prints["data"])  # as the reason for whatever it led to
            raise
        finally:
            workers.scratch = None
        return folder / "report.html"


def needs_shared_files(auditor: Auditor) -> bool:
    """Whether workers read each other's features of pairs, whose files are too large to be kept elsewhere."""
    return auditor.settings.objective.streaming and auditor.settings.engine.store != "recompute"


def refuse_changed(source: Source, fingerprint: str) -> None:
    """Raise DataError where the samples are not those that had this fingerprint."""
    if source.fingerprint() != fingerprint:
        raise DataError(
            "the samples changed while they were audited: their fingerprint is another one than at the start. Keep "
            "them as they are, and audit them into another folder, or --overwrite this one."
        )


def seen_by_a_worker(auditor: Auditor, prints: dict[str, str], config: dict[str, Any]) -> dict[str, str]:
    """What must be the same on every worker."""
    settings = {k: v for k, v in config.items() if k != "device"}
    return {
        "krepes": f"{krepes.__version__} ({code_fingerprint()})", "torch": torch.__version__,
        "threads": str(torch.get_num_threads()), "a processor with": torch.backends.cpu.get_cpu_capability(),
        "the settings": key_of({"config": settings, "settings": describe_settings(auditor.settings)})[:12],
        **{f"the {name}": value[:12] for name, value in prints.items()},
    }  # fmt: skip


def code_fingerprint() -> str:
    """sha256 over krepes' own sources, twelve digits."""
    digest = hashlib.sha256()
    for path in sorted(Path(krepes.__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def write_report(run: StoredRun, path: Path | None = None, thumbnails: bool = True, redact: Sequence[str] = ()) -> Path:
    """The report of a run folder, complete or not; `run.problems` then says what it lacks.

    Args:
        path: where it is written; default report.html in the folder.
        thumbnails, redact: see `krepes.report.page.build_page`.

    Raises:
        ConfigError: the path is a file of a complete run's own.
    """
    own = run.manifest.get("outputs") or {}
    if path is not None and path.resolve().parent == run.folder.resolve() and path.name in own:
        raise ConfigError(f"{path} belongs to the run and stays as it is; name another file")
    html = build_page(run, thumbnails, redact)
    return write_atomically(
        path or run.folder / "report.html", lambda p: p.write_bytes(html.encode("utf-8", "replace"))
    )


def report_of(
    auditor: Auditor, path: Path, title: str, found: Findings, thumbnails: bool, redact: Sequence[str]
) -> Path:
    """The report of a fitted auditor that has no run folder; see `Auditor.report`."""
    workers = current()
    if workers.size > 1:  # the first writes it, with what it holds
        _ = auditor.trust_  # by all of them together
        if workers.first:
            with alone():
                report_of(auditor, path, title, found, thumbnails, redact)
        workers.wait()
        return path
    source = auditor.source_
    refuse_unknown(source, redact)
    with TemporaryDirectory(prefix="krepes-") as place:
        folder = Path(place)
        landmarks = write_tables(auditor, source, folder, 1, Work(folder / WORK, "report"), lambda *done: None)
        write_findings(found, folder)
        write_json(folder / "trust.json", auditor.trust_.as_dict())
        chosen = explained_positions(source, min(EXPLAINED, len(source)), auditor.settings.seed)
        if found.attribution is not None:
            chosen = list(positions_of(source.ids, set(found.attribution["sample"])).values()) or chosen
        write_shown(auditor, folder, chosen, landmarks, found, thumbnails, redact)
        more = {"title": title, "notes": list(found.notes), "attributed": found.attributed,
                "source": of_source(source), "thumbnails": thumbnails, "redact": list(redact)}  # fmt: skip
        save_auditor(auditor, folder, more)
        return write_report(StoredRun.open(folder), path)


def refuse_unknown(source: Source, redact: Sequence[str]) -> None:
    """Raise ConfigError naming columns to redact that the samples' table does not have."""
    table = source.metadata()
    known = [] if table is None else [str(c) for c in table.columns]
    unknown = [c for c in redact if c not in known]
    if unknown:
        raise ConfigError(
            f"redact names {', '.join(unknown)}, which the samples' table does not have; its columns: "
            f"{', '.join(known) or 'none'}"
        )


def write_findings(found: Findings, folder: Path) -> list[str]:
    """A Parquet file per table; a table that an earlier attempt left and this one has not is removed."""
    written = []
    for name in FINDINGS:
        table = getattr(found, name.removesuffix(".parquet"))
        if table is None:
            (folder / name).unlink(missing_ok=True)
            continue
        write_atomically(folder / name, lambda p, table=table: table.to_parquet(p, index=False))
        written.append(name)
    return written


def summarise(auditor: Auditor, folder: Path, console: Console) -> None:
    """What was found, in a few lines."""
    trust, outcome = auditor.trust_, auditor.outcome_
    colour = {"green": "green", "amber": "yellow", "red": "red"}[trust.verdict]
    if not outcome.lowered:
        say(console, outcome.message, "bold red")
    say(console, f"trust: {trust.verdict.upper()}. {trust.sentence}", f"bold {colour}")
    for figure in trust.figures:
        say(console, f"  {figure.verdict:<6} {figure.name:<14} {figure.display} (wanted: {figure.threshold})")
    top = pd.read_parquet(folder / "landmarks.parquet").head(5)
    say(console, "strongest landmarks (mean influence, balance of attraction and repulsion):")
    for row in top.to_dict("records"):
        name = visible(row["landmark"])
        say(console, f"  {name:<14} {number(row['mean_influence']):>8}  {row['sign_balance']:+.2f}")
