"""Planted truth: what was put into the data must come out of the audit, and what was not must not.

    OMP_NUM_THREADS=1 python benchmarks/planted.py [--quick] [--parts gaps samples rankings removals]

A synthetic table: a group of three and a number that the views keep ("kept"), another group and another number that
they draw anew ("destroyed"), and columns of the raw table that the encoder never sees ("clean"). MLPs are trained on it
with Barlow Twins; the digits are those of krepes.demo with its shipped encoder. Every part is done with damping="auto"
and with λ = 100 times the mean curvature.

gaps      how often the 95 % interval of `feature_gap` holds the population's gap; discoveries in clean tables
samples   foreign training samples and one sample repeated 30 times, in `attribute` and `influence`
rankings  agreement of rankings between two draws of the views, and with the same network of random weights
removals  what `counterfactual` moves without the top 5 % of `attribute`, against random groups; the linear prediction

Labels are not used. Figures are means with a 95 % interval: exact binomial of shares, Student's t over seeds, bootstrap
over queries of removals. A part writes its figures when it ends; those of other parts in the file stay.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import measure
import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest, rankdata, t
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from krepes import NTK, Auditor, BarlowTwins, Newton, demo, movement
from krepes.audit.columns import features
from krepes.audit.statistics import benjamini_hochberg
from krepes.data import ArraySource
from krepes.encoders import MLP, SmallCNN
from krepes.landmarks import KMeansPlusPlus, Uniform

OBJECTIVE, N, LANDMARKS, TOP, HELD = BarlowTwins(weight=0.05), 1000, 100, 10, 100.0
DAMPINGS = ("auto", HELD)
SEEN = ("kept", "kept number", "destroyed", "destroyed number")
CLEAN = ("coin", "levels", "rare", "normal", "skewed", "whole")
INPUTS, KEPT = 8, 4  # columns of the encoder's input; the first four are what the views keep
OTHER = 10**6  # seeds from here on are of data and views that no audit was fitted on
Views = Callable[[Tensor, torch.Generator], Tensor]
Section = tuple[str, str, list[dict[str, Any]]]  # title, note, rows
Report = tuple[list[Section], list[dict[str, Any]]]  # and checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few seeds and queries, no digits")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, kept = measure.machine_facts(), (measure.read_result("planted", args.quick) or {}).get("parts", {})
    for name in args.parts:
        started = time.perf_counter()
        sections, checks = PARTS[name](args.quick)
        kept[name] = {"code": measure.code_fingerprint(), "seconds": round(time.perf_counter() - started, 1),
                      "figures": {title: rows for title, _, rows in sections},
                      "tables": [shown(*section) for section in sections], "checks": checks}  # fmt: skip
        parts = {p: kept[p] for p in PARTS if p in kept}
        content = {"protocol": {"n": N, "landmarks": LANDMARKS, "top": TOP, "objective": repr(OBJECTIVE),
                                "network": [INPUTS, 32, 8], "digits' views": repr(demo.VIEWS)},
                   "seconds": round(sum(p["seconds"] for p in parts.values()), 1), "parts": parts,
                   "tables": [x for p in parts.values() for x in p["tables"]],
                   "checks": [x for p in parts.values() for x in p["checks"]]}  # fmt: skip
        path = measure.write_result("planted", args.quick, content, facts)
        print(f"{name}: {kept[name]['seconds']:.0f} s", flush=True)
    for x in content["tables"]:
        print(f"\n### {x['title']}\n\n{x['note']}\n\n{measure.markdown_table(x['columns'], x['rows'])}")
    print("\n", *(f"{c['claim']}: {c['found']} (wanted: {c['wanted']})\n" for c in content["checks"]))
    print(f"written: benchmarks/results/{path.name}, {content['seconds']:.0f} s")


def shown(title: str, note: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A section as a table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return measure.table(title, columns, [[cell(row.get(c, "–")) for c in columns] for row in rows], note)


def cell(value: Any) -> str:
    """A figure with its interval, a number, or a word."""
    if isinstance(value, dict):
        low, high = value["interval"]
        return f"{value['mean']:.2f} [{low:.2f}, {high:.2f}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def check(claim: str, wanted: str, figure: dict[str, Any], met: bool) -> dict[str, Any]:
    return measure.check(claim, wanted, cell(figure), met)


# Data, views, encoders -----------------------------------------------------------------------------------


def draw(n: int, seed: int) -> ArraySource:
    """n rows of the population: inputs (n, 8) and the raw table, whose clean columns no input holds."""
    generator = np.random.default_rng([seed, 0])
    kept, destroyed = generator.integers(3, size=(2, n))
    numbers, around = generator.normal(size=(2, n, 1)), 0.3 * generator.normal(size=(2, n, 3))
    centres = 2 * np.eye(3)
    x = np.concatenate([centres[kept] + around[0], numbers[0], centres[destroyed] + around[1], numbers[1]], 1)
    table = {"kept": np.array(list("abc"))[kept], "kept number": numbers[0, :, 0],
             "destroyed": np.array(list("abc"))[destroyed], "destroyed number": numbers[1, :, 0],
             "coin": generator.random(n) < 0.5, "levels": generator.choice(list("abcde"), n),
             "rare": generator.random(n) < 0.1, "normal": generator.normal(size=n),
             "skewed": np.exp(generator.normal(size=n)), "whole": generator.poisson(2, n)}  # fmt: skip
    return ArraySource(torch.as_tensor(x, dtype=torch.float32), [f"row {i}" for i in range(n)], pd.DataFrame(table))


def rows_of(n: int, seed: int) -> Tensor:
    """The inputs of n rows (n, 8)."""
    return draw(n, seed).batch(range(n)).clone()


def destroying(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Views that keep the first four columns and take the others from another row, with noise."""
    other = batch[torch.randperm(len(batch), generator=generator)]
    return noisy(torch.cat([batch[:, :KEPT], other[:, KEPT:]], 1), generator)


def noisy(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Views that keep all columns, with noise."""
    return batch + 0.2 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def train(x: Tensor, views: Views, seed: int, steps: int = 300) -> nn.Module:
    """An MLP trained on x (n, 8) with Barlow Twins, in eval mode."""
    network, generator = untrained(seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = x[torch.randperm(len(x), generator=generator)[:256]]
        loss = OBJECTIVE.loss(network(views(batch, generator)), network(views(batch, generator)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def untrained(seed: int) -> nn.Module:
    """The same architecture with fresh weights, in eval mode."""
    torch.manual_seed(seed)
    return MLP(INPUTS, (32,), 8).eval()


@dataclass(frozen=True)
class Case:
    """An encoder, its objective and views, the training samples, and fresh ones to be explained."""

    name: str
    encoder: nn.Module
    objective: BarlowTwins
    views: Views
    x: Any
    queries: Any

    def fit(self, damping: float | str, seed: int, landmarks: Any = LANDMARKS, **settings: Any) -> Auditor:
        """An audit of the training samples."""
        newton = Newton(damping=damping)
        auditor = Auditor(self.encoder, self.objective, landmarks=landmarks, newton=newton, seed=seed, **settings)
        return auditor.fit(self.x, self.views)

    def again(self, auditor: Auditor, seed: int) -> Auditor:
        """The same audit with another draw of the views; the landmarks are kept."""
        newton = auditor.settings.newton
        return self.fit(newton.damping, OTHER + seed, [int(i) for i in auditor.fit_.indices])


def table_case(views: Views, seed: int, queries: int = 20) -> Case:
    """Rows of the synthetic table, and an encoder trained on them."""
    x, fresh = rows_of(N, seed), rows_of(queries, OTHER + seed)
    return Case(f"table, {views.__name__} views", train(x, views, seed), OBJECTIVE, views, x, fresh)


def digits_case(seed: int, queries: int = 20) -> Case:
    """A thousand of the digits, the shipped encoder, and others of the digits."""
    images, _ = demo.digits()
    images = images[np.random.default_rng(seed).permutation(len(images))[: N + queries]]
    return Case("digits", demo.encoder(), demo.OBJECTIVE, demo.VIEWS, images[:N].clone(), images[N:].clone())


# Statistics ----------------------------------------------------------------------------------------------


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean over rows of scores (q, n) of the chance that a positive (n,) one is above another."""
    ranks, k = rankdata(scores, axis=1), int(positive.sum())
    return float(((ranks[:, positive].sum(1) - k * (k + 1) / 2) / (k * (len(positive) - k))).mean())


def agreement(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Mean over rows of Spearman's correlation, and of the Jaccard overlap of the ten largest in size."""
    a, b = (rankdata(s.numpy(), axis=1) for s in (one, other))
    a, b = (r - r.mean(1, keepdims=True) for r in (a, b))
    rho = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    tops = [s.abs().topk(TOP, 1).indices for s in (one, other)]
    shared = (tops[0][:, :, None] == tops[1][:, None]).any(2).sum(1).double()
    return float(rho.mean()), float((shared / (2 * TOP - shared)).mean())


def share(hits: Sequence[Any] | np.ndarray) -> dict[str, Any]:
    """The share of hits (n,) and its interval."""
    k, n = int(np.sum(np.asarray(hits, bool))), len(hits)
    return {"mean": round(k / n, 4), "interval": [round(v, 4) for v in binomtest(k, n).proportion_ci()], "n": n}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The mean over seeds (n,), its interval, and every value."""
    v = np.asarray(values, float)
    half = float(t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else float("inf")
    ends = [round(float(v.mean()) + sign * half, 4) for sign in (-1, 1)]
    return {"mean": round(float(v.mean()), 4), "interval": ends, "all": v.round(4).tolist()}


def resampled(a: Sequence[float], b: Sequence[float] | None = None) -> dict[str, Any]:
    """The mean of a (q,), or the ratio of the means of a and b, and its interval over queries."""
    one, other = np.asarray(a), np.ones(len(a)) if b is None else np.asarray(b)
    counts = np.random.default_rng(0).multinomial(len(one), np.full(len(one), 1 / len(one)), 2000)
    ends = np.quantile((counts @ one) / (counts @ other), (0.025, 0.975)).round(4).tolist()
    return {"mean": round(float(one.mean() / other.mean()), 4), "interval": ends, "n": len(one)}


# Gaps ----------------------------------------------------------------------------------------------------


def gap_case(encoder: nn.Module, seed: int) -> Case:
    """Fresh rows for a given encoder."""
    return Case("table", encoder, OBJECTIVE, destroying, draw(N, seed), None)


def gaps_at(auditor: Auditor, test: ArraySource) -> np.ndarray:
    """The gaps of the seen columns by their definition, at samples that the audit was not fitted on, (4,)."""
    influence = auditor.influence(test).numpy()
    landmarks = auditor.source_.metadata().iloc[auditor.fit_.indices]
    both = pd.concat([test.metadata(), landmarks], ignore_index=True)
    points, marks = np.split(np.arange(len(both)), [len(test)])
    top = np.argsort(-influence, axis=1)[:, :TOP]
    weight, found = np.take_along_axis(influence, top, 1), []
    for column in features(both, SEEN):
        v = column.agreement(points[:, None], marks[None]).astype(float)  # (t, m)
        psi = (weight * np.take_along_axis(v, top, 1)).sum(1) / weight.sum(1)
        found.append(float((psi - v.mean(1)).mean()))
    return np.array(found)


def gaps(quick: bool) -> Report:
    """Coverage by sampler and damping, clean tables, and what the kernel sees of a destroyed column."""
    seeds = range(6 if quick else 100)
    encoder, test = train(rows_of(4000, OTHER), destroying, 0), draw(2000, OTHER + 1)
    covered, discoveries, checks = [], [], []
    chosen = KMeansPlusPlus(m=LANDMARKS)
    for damping, sampler in (("auto", chosen), (HELD, chosen), ("auto", Uniform(m=LANDMARKS))):
        others = [gap_case(encoder, OTHER + 2 + i).fit(damping, OTHER + i, sampler) for i in seeds]
        value = np.mean([gaps_at(a, test) for a in others], 0)
        tables, fixed = [], []
        for seed in seeds:
            auditor = gap_case(encoder, seed).fit(damping, seed, sampler)
            tables.append(auditor.feature_gap(columns=[*SEEN, *CLEAN]).set_index("column"))
            fixed.append(auditor.feature_gap(columns=SEEN, refits=0).set_index("column"))
        head = {"landmarks": type(sampler).__name__, "λ": damping}
        covered += [head | row for row in coverage(tables, fixed, value)]
        discoveries.append(head | discovered(tables))
        claim = f"({head['landmarks']}, λ {damping})"
        for name in ("kept", "destroyed"):
            f = next(r["covered"] for r in covered[-len(SEEN) :] if r["column"] == name)
            wanted = ".95 or more, within its interval"
            held = f["interval"][1] >= 0.95
            checks.append(check(f"95 % interval holds the {name} group's gap {claim}", wanted, f, held))
        f = discoveries[-1]["clean tables with a discovery"]
        checks.append(check(f"clean tables with a discovery {claim}", "at most .05, within its interval", f,
                            f["interval"][0] <= 0.05))  # fmt: skip
        f = discoveries[-1]["kept group found"]
        checks.append(check(f"kept group found {claim}", "at least .95", f, f["mean"] >= 0.95))
    note = (
        f"{len(seeds)} audits of fresh data; the population's gap is the mean over as many other audits at 2,000 fresh "
    )
    note += "points. Held: the interval over test points alone (`refits=0`), as if fit and landmarks were given."
    return [("Coverage of the 95 % interval of an alignment gap", note, covered),
            ("Discoveries at q ≤ .05", f"{len(seeds)} tables of {len(CLEAN)} clean columns each.", discoveries),
            ("What an encoder ignores, its tangent kernel may still see",
             f"λ = {HELD:g}. The gradient by the first layer's weights contains the input itself.",
             seen_by(encoder, range(3 if quick else 20)))], checks  # fmt: skip


def coverage(tables: list[pd.DataFrame], fixed: list[pd.DataFrame], value: np.ndarray) -> list[dict[str, Any]]:
    """Per seen column: how often its interval holds the population's value, and how wide it is.

    Args:
        tables, fixed: of `feature_gap`, one per seed; with refits and without.
        value: the population's (4,).
    """
    rows = []
    for i, name in enumerate(SEEN):
        gap, low, high, held_low, held_high = (
            np.array([table.at[name, key] for table in some], float)
            for some, key in ((tables, "gap"), (tables, "low"), (tables, "high"), (fixed, "low"), (fixed, "high"))
        )
        rows.append({
            "column": name, "gap": round(float(value[i]), 4), "mean estimate": round(float(gap.mean()), 4),
            "sd": round(float(gap.std(ddof=1)), 4), "half-width": round(float((high - low).mean() / 2), 4),
            "covered": share((low <= value[i]) & (value[i] <= high)),
            "covered, held": share((held_low <= value[i]) & (value[i] <= held_high)),
        })  # fmt: skip
    return rows


def discovered(tables: list[pd.DataFrame]) -> dict[str, Any]:
    """Discoveries among the clean columns alone, and among them and the kept ones."""

    def found(columns: Sequence[str]) -> np.ndarray:
        q = [benjamini_hochberg(table.loc[list(columns), "p"].to_numpy(float)) for table in tables]
        return np.array(q) <= 0.05

    alone, mixed = found(CLEAN), found(SEEN[:2] + CLEAN)
    false, everything = mixed[:, 2:].sum(1), mixed.sum(1)
    return {"clean tables with a discovery": share(alone.any(1)),
            "the same beside the kept columns": share(false > 0),
            "false discovery rate there": float((false / everything.clip(1)).mean()),
            "kept group found": share(mixed[:, 0]), "kept number found": share(mixed[:, 1]),
            "destroyed group found": share(found(SEEN + CLEAN)[:, 2])}  # fmt: skip


def seen_by(encoder: nn.Module, seeds: range) -> list[dict[str, Any]]:
    """Gaps by what encoder and kernel can see of the destroyed columns."""
    blind = untrained(0)
    blind.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        blind.get_parameter("layers.0.weight")[:, KEPT:] = 0
    ways = {"trained": (encoder, NTK()), "random weights": (untrained(1), NTK()),
            "trained, weights of the destroyed columns set to 0": (blind, NTK()),
            "the same, kernel of the last layer": (blind, NTK(params=("layers.2.*",)))}  # fmt: skip
    rows = []
    for name, (network, kernel) in ways.items():
        audits = [gap_case(network, s).fit(HELD, s, kernel=kernel) for s in seeds]
        found = [a.feature_gap(columns=SEEN).set_index("column") for a in audits]
        row = {"encoder": name} | {c: spread([f.at[c, "gap"] for f in found]) for c in SEEN}
        rows.append(row | {"destroyed group found": share([f.at["destroyed", "q"] <= 0.05 for f in found])})
    return rows


# Samples -------------------------------------------------------------------------------------------------


def foreign(n: int, seed: int, kind: str) -> Tensor:
    """Rows of another distribution: a "cluster" with a large number, or a "combination" of two kept groups."""
    generator, x = np.random.default_rng([seed, 1]), rows_of(n, 2 * OTHER + seed)
    group, eye = generator.integers(3, size=n), np.eye(3)
    centre = np.full((n, 3), -1.5) if kind == "cluster" else 2 * (eye[group] + eye[(group + 1) % 3])
    x[:, :3] = torch.as_tensor(centre + 0.3 * generator.normal(size=(n, 3)))
    if kind == "cluster":
        x[:, 3] = torch.as_tensor(5 + 0.5 * generator.normal(size=n))
    return x


def planted_case(kind: str, views: Views | None, seed: int) -> tuple[Case, np.ndarray, Tensor]:
    """A case with planted samples, which ones (n,), and queries of the planted kind; no views mean the digits.

    "duplicates" repeats one sample 30 times; other kinds take the place of 2 % of the samples. Encoders of tables are
    trained with them.
    """
    base = digits_case(seed, 40) if views is None else table_case(views, seed)
    x, planted = base.x, np.zeros(N, bool)
    chosen = np.random.default_rng([seed, 2]).permutation(N)[: 30 if kind == "duplicates" else N // 50]
    planted[chosen] = True
    if kind == "duplicates":
        queries = x[chosen[:1]].clone()
        x[chosen] = queries
    elif kind == "negatives":
        x[chosen], queries = 1 - x[chosen], 1 - base.queries[20:]
    else:
        x[chosen], queries = foreign(len(chosen), seed, kind), foreign(20, OTHER + seed, kind)
    encoder = base.encoder if views is None else train(x, views, seed)
    return replace(base, encoder=encoder, x=x, queries=base.queries[:20]), planted, queries


def surfacing(case: Case, planted: np.ndarray, queries: Tensor, damping: float | str, seed: int) -> dict[str, float]:
    """How well attribution to all samples, and landmarks' influence, point to the planted samples."""
    auditor = case.fit(damping, seed)
    scores, single = (auditor.attribute(queries, draws=draws).numpy() for draws in (None, 1))
    size = np.abs(scores)
    found = {"AUC of |score|": auc(size, planted), "AUC of |score|, one draw of views": auc(np.abs(single), planted),
             "AUC of the score": auc(scores, planted)}  # fmt: skip
    found["AUC of |score| for other queries"] = auc(np.abs(auditor.attribute(case.queries).numpy()), planted)
    found["|score| per planted sample, over the mean"] = float(size[:, planted].mean() / size.mean())
    with torch.no_grad():
        cosines = normalize(case.encoder(queries)) @ normalize(case.encoder(case.x)).T
    found["AUC of the network's cosine"] = auc(cosines.numpy(), planted)
    mine = planted[list(auditor.fit_.indices)]
    if mine.any():
        top = auditor.influence(queries).topk(TOP, 1).indices.numpy()
        found["planted share of top landmarks, over that of landmarks"] = float(mine[top].mean() / mine.mean())
    return found


def samples(quick: bool) -> Report:
    """Foreign and repeated samples in tables with mild and with destroying views, and in digits."""
    kinds: list = [(kind, views) for views in (noisy, destroying) for kind in ("cluster", "combination", "duplicates")]
    kinds += [] if quick else [("negatives", None), ("duplicates", None)]
    rows, checks = [], []
    for kind, views in kinds:
        seeds = range(2 if quick else 5 if views is None else 12)
        cases = [planted_case(kind, views, seed) for seed in seeds]
        for damping in DAMPINGS:
            found = pd.DataFrame([surfacing(*cases[s], damping, s) for s in seeds])
            head = {"data": cases[0][0].name, "planted": kind, "λ": damping}
            rows.append(head | {name: spread(found[name].dropna().tolist()) for name in found})
            f = rows[-1]["AUC of |score|"]
            claim = f"planted {kind} surface in attribution ({head['data']}, λ {damping})"
            checks.append(check(claim, "AUC above .5", f, f["interval"][0] > 0.5))
    note = "Queries are fresh samples of the planted kind, for duplicates the repeated sample. Mean over queries, then "
    return [("Planted samples in `attribute` and `influence`", note + "over seeds.", rows)], checks


# Rankings ------------------------------------------------------------------------------------------------


def rankings(quick: bool) -> Report:
    """Agreement of each score's rankings: another draw of the views, and random weights, the landmarks kept."""
    cases = [table_case(views, seed) for views in (noisy, destroying) for seed in range(2 if quick else 6)]
    cases += [] if quick else [digits_case(seed) for seed in range(3)]
    scores = {"influence": Auditor.influence, "contribution": Auditor.contribution, "attribution": Auditor.attribute}
    found: dict[tuple[str, float | str, str], list[list[float]]] = {}
    for i, case in enumerate(cases):
        torch.manual_seed(100 + i)
        random = SmallCNN(**demo.ENCODER).eval() if case.name == "digits" else untrained(100 + i)
        for damping in DAMPINGS if case.name == "digits" else ("auto", 1.0, 10.0, HELD):
            first = case.fit(damping, i)
            views = case.again(first, i)
            weights = replace(case, encoder=random).fit(damping, i, [int(j) for j in first.fit_.indices])
            for name, score in scores.items():
                mine, *others = (score(a, case.queries) for a in (first, views, weights))
                seen = [v for other in others for v in agreement(mine, other)]
                found.setdefault((case.name, damping, name), []).append(seen)
    rows, checks = [], []
    for (name, damping, score), values in found.items():
        v = np.array(values)  # (seeds, 4)
        row = {"data": name, "λ": damping, "score": score}
        row |= {"Spearman, views": spread(v[:, 0]), "random weights": spread(v[:, 2]),
                "Jaccard, views": spread(v[:, 1]), "Jaccard, random weights": spread(v[:, 3])}  # fmt: skip
        rows.append(row)
        f = spread(v[:, 0] - v[:, 2])
        claim = f"ranks by {score}: draw of the views above random weights ({name}, λ {damping})"
        checks.append(check(claim, "difference of Spearman above 0", f, f["interval"][0] > 0))
    note = f"Mean over 20 fresh queries, then over seeds. By chance, ten of {LANDMARKS} landmarks overlap .05, ten of "
    return [
        ("Rankings under another draw of the views, and under random weights", note + f"{N} samples .005.", rows)
    ], checks


# Removals ------------------------------------------------------------------------------------------------


def with_views(case: Case, x: Tensor) -> Tensor:
    """x (t, ...) and eight views of each, one after the other, (9t, ...)."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([x, *(case.views(x, generator) for _ in range(8))])


def cosine_to_views(f: Tensor) -> Tensor:
    """Mean cosine between f(x) and f of eight views, (t,), from f of `with_views` (9t, h)."""
    parts = f.unflatten(0, (9, -1))
    return cosine_similarity(parts[:1], parts[1:], dim=2).mean(0)


def held(auditor: Auditor) -> Auditor:
    """The auditor, whose refits keep its absolute λ: "auto" may choose another, which moves everything."""
    newton = replace(auditor.settings.newton, damping=auditor.outcome_.damping, relative=False)
    auditor.settings = replace(auditor.settings, newton=newton)
    return auditor


@dataclass(frozen=True)
class Moved:
    """What removing groups does to each query, all (groups, t): the first t groups are the queries' top groups.

    Attributes:
        change, said: of the target, and as the scores predict it.
        shift: ‖f' − f‖/‖f‖.
    """

    change: np.ndarray
    said: np.ndarray
    shift: np.ndarray


def removal(case: Case, auditor: Auditor, target: str, draws: int, seed: int) -> Moved:
    """Each query's top 5 % by attribution, and random groups of that size, removed in turn."""
    x, batch, own = case.queries, with_views(case, case.queries), normalize(auditor.transform(case.queries))

    def value(a: Auditor) -> Tensor:
        return cosine_to_views(a.transform(batch)) if target == "invariance" else (a.transform(x) * own).sum(1)

    invariant = target == "invariance"
    scores = (
        auditor.attribute(batch, target=cosine_to_views, draws=1, at="step")
        if invariant
        else auditor.attribute(x, own, draws=1, at="step")
    )
    size, generator = N // 20, np.random.default_rng(seed)
    groups = [*scores.topk(size, 1).indices.numpy(), *(generator.permutation(N)[:size] for _ in range(draws))]
    before, change, shift = value(auditor), [], []
    for group in groups:
        after = auditor.counterfactual([auditor.source_.ids[i] for i in group], keep_landmarks=True)
        change.append((value(after) - before).numpy())
        shift.append(movement(auditor, after, x).samples["shift"].to_numpy())
    said = np.stack([-scores[:, group].sum(1).numpy() for group in groups])
    return Moved(np.stack(change), said, np.stack(shift))


def removal_figures(moved: Sequence[Moved]) -> dict[str, Any]:
    """Top against random groups, queries of all audits together; correlations over groups, per query."""
    own, rest = [m.change.shape[1] for m in moved], [slice(m.change.shape[1], None) for m in moved]
    pairs = list(zip(moved, own, rest, strict=True))

    def correlations(groups: Sequence[slice]) -> list[float]:
        return [float(np.corrcoef(m.said[g, q], m.change[g, q])[0, 1]) for m, g in zip(moved, groups, strict=True)
                for q in range(m.change.shape[1])]  # fmt: skip

    fall = [v for m, q, _ in pairs for v in -m.change[:q].diagonal()]
    shift = [v for m, q, _ in pairs for v in m.shift[:q].diagonal()]
    return {
        "fall of the target": float(np.mean(fall)),
        "fall, by random groups' change": resampled(
            fall, [v for m, _, g in pairs for v in np.abs(m.change[g]).mean(0)]
        ),
        "shift of f, by random groups'": resampled(shift, [v for m, _, g in pairs for v in m.shift[g].mean(0)]),
        "queries whose target falls": share(np.array(fall) > 0),
        "predicted and actual change, random groups": resampled(correlations(rest)),
        "all groups": resampled(correlations([slice(None)] * len(moved))),
        "slope": float(np.mean([np.polyfit(m.said.ravel(), m.change.ravel(), 1)[0] for m in moved])),
    }


def removals(quick: bool) -> Report:
    """Both targets, by damping, on tables and digits."""
    cases = [table_case(views, seed) for views in (noisy, destroying) for seed in range(1 if quick else 3)]
    cases += [] if quick else [digits_case(0)]
    moved: dict[tuple[str, float | str, str], list[Moved]] = {}
    for i, case in enumerate(cases):
        for damping in DAMPINGS:
            auditor = held(case.fit(damping, i))
            for target in ("invariance", "projection"):
                found = removal(case, auditor, target, 5 if quick else 20, i)
                moved.setdefault((case.name, damping, target), []).append(found)
    rows, checks = [], []
    for (name, damping, target), parts in moved.items():
        rows.append({"data": name, "λ": damping, "target": target} | removal_figures(parts))
        f = rows[-1]["fall, by random groups' change"]
        claim = f"{target} falls without its top 5 %, by random groups' change ({name}, λ {damping})"
        checks.append(check(claim, "above 1", f, f["interval"][0] > 1))
    note = "Invariance: mean cosine of f(x) and f of eight views; projection: ⟨f'(x), f(x)/‖f(x)‖⟩. λ is held. Random "
    note += "groups: mean size of the change over 20. Correlations are over groups, per query; slope of actual on "
    note += "predicted."
    return [("Removing each query's top 5 % by attribution", note, rows)], checks


PARTS: dict[str, Callable[[bool], Report]] = {
    "gaps": gaps, "samples": samples, "rankings": rankings, "removals": removals,
}  # fmt: skip

if __name__ == "__main__":
    main()
