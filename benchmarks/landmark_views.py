"""Several rows of the kernel per landmark: its sample and views of it. krepes keeps one; docs/defaults.md says why."""

from dataclasses import replace
from typing import Any

import torch

from krepes import Auditor
from krepes.data.stream import VIEW_BLOCK, blocks, paired_views
from krepes.kernel.ntk import KernelRows
from krepes.nystrom import decompose
from krepes.pipeline import Stream, rank_cut, take_step
from krepes.work import Work


def with_views(auditor: Auditor, views: Any, each: int) -> Auditor:
    """An auditor with rows of the kernel not for the landmarks alone but for `each` − 1 views of each, too.

    Its landmarks are m · `each`, of which `each` are of one sample.
    """
    if each == 1:
        return auditor
    fit, settings, source = auditor.fit_, auditor.settings, auditor.source_
    pairs = [paired_views(source, views, block, settings.seed) for block in blocks(range(len(source)), VIEW_BLOCK)]
    more = [torch.cat(view)[fit.indices] for view in zip(*pairs, strict=True)][: each - 1]
    rows = KernelRows(settings.kernel, fit.rows.gradients, torch.cat([fit.samples, *more]))
    nystrom = decompose(rows.K_mm, fit.nystrom.h, rank_cut(settings, rows))
    moments, step = take_step(Stream(source, views, rows, nystrom, settings, fit.memory, Work()), auditor.progress)
    A0, dA = nystrom.dual(nystrom.B0), nystrom.dual(step.dB)
    several = replace(
        fit, indices=fit.indices * each, samples=rows.landmarks, rows=rows, nystrom=nystrom, moments=moments, step=step,
        A0=A0, dA=dA,
    )  # fmt: skip
    ids = [f"{source.ids[i]}, {k}" for k in range(each) for i in fit.indices]
    return auditor.with_fit(several, auditor.seen_, ids)
