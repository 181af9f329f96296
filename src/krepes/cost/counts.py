"""Operations, bytes and exchanged numbers of every stage that grows with the data (docs/scale.md has the formulas).

A product of (a, b) and (b, c) counts 2abc operations; elementwise work is not counted, but is in the measured rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from krepes.audit.descent import POWER, STEPS
from krepes.data.stream import VIEW_BLOCK, shards
from krepes.landmarks.samplers import BLOCK as PROPOSALS
from krepes.pipeline import PILOT, pool_size
from krepes.solver.newton import GRID

KINDS = {
    "samples": "samples read",
    "pairs": "pairs of views drawn",
    "network": "operations of forward and backward passes",
    "kernel": "operations of kernel entries",
    "products": "operations of other matrix products in the encoder's type",
    "double": "operations of matrix products in float64",
    "eigen": "operations of symmetric eigenproblems in float64",
    "elementwise": "numbers that elementwise functions pass over, where they are as dear as products",
    "disk": "bytes written to and read from files that workers share",
}
OPERATIONS = ("network", "kernel", "products", "double", "eigen")
PROPOSED = 1.6  # kernel columns per landmark that D² seeding and pivoted Cholesky look at (docs/scale.md)
EIGEN = 9.0  # operations of a symmetric eigenproblem, times m³
PASSED = 6  # times that a product with SimCLR's curvature passes over its similarities; twice for a loss
TRIALS = len(GRID)  # losses of damping="auto" at most

Counts = Mapping[str, float]


@dataclass(frozen=True)
class Sizes:
    """What the counts depend on.

    Attributes:
        n: training samples.
        m: landmarks; the rank is taken to be as large.
        h: dimension of the representation.
        network: operations of the passes that give one sample's gradient features.
        pair: operations of one kernel entry.
        inputs: numbers of a sample.
        sampler: of the landmarks: "kmeans++", "leverage", "rpcholesky", "uniform" or "given".
        space: in which the sampler works, "kernel" or "input".
        kept: whether the landmarks' features stay in memory; else every tile of `tile` samples forms them anew.
        streaming: whether the features of all pairs are needed (SimCLR, BYOL), in batches of `batch` pairs.
        compared: pairs that a pair is compared with: SimCLR's batch, 0 of BYOL.
        stored: bytes of a number of such a feature on disk; 0: computed anew for each pass.
        iterations: of the linear solve, at most.
        curvature: pairs that a curvature product sees.
        gram: Gram matrices of the moments, 3 or 4.
        viewed: whether views of the landmarks stand in the kernel for them.
    """

    n: int
    m: int
    h: int
    network: float
    pair: float
    inputs: int
    sampler: str = "kmeans++"
    space: str = "kernel"
    kept: bool = True
    tile: int = 256
    streaming: bool = False
    batch: int = 1
    compared: int = 0
    stored: int = 0
    iterations: int = 200
    curvature: int = 32_768
    gram: int = 3
    viewed: bool = False


@dataclass(frozen=True)
class Stage:
    """What a stage takes.

    Attributes:
        name: as the progress has it.
        counts: kind (`KINDS`) ↦ how much, over all workers together.
        parts: equal parts that are divided among workers; 1: every worker does all of it.
        exchanged: numbers that each worker puts into sums.
        sums: how many sums these are.
        bound: whether it is what the stage takes at most.
    """

    name: str
    counts: Counts = field(default_factory=dict)
    parts: int = 1
    exchanged: float = 0.0
    sums: float = 0.0
    bound: bool = False

    @property
    def operations(self) -> float:
        """Of all kinds."""
        return sum(self.counts.get(kind, 0.0) for kind in OPERATIONS)

    def share(self, workers: int) -> float:
        """Of the work, what falls to the worker that has most of it."""
        return -(-self.parts // workers) / self.parts


def added(*counts: Counts, times: float = 1.0) -> Counts:
    """The sum of counts, so many times."""
    return {kind: times * sum(c.get(kind, 0.0) for c in counts) for kind in KINDS if any(kind in c for c in counts)}


def rows(sizes: Sizes, samples: float) -> Counts:
    """Kernel rows of samples against the landmarks, and their features."""
    anew = 0.0 if sizes.kept else samples / sizes.tile * sizes.m
    return {"network": (samples + anew) * sizes.network, "kernel": samples * sizes.m * sizes.pair}


def paired_features(sizes: Sizes, pairs: float) -> Counts:
    """Features of both views of so many samples, from the samples."""
    drawn = {"samples": pairs, "pairs": pairs, "products": 4.0 * pairs * sizes.m**2}
    return added(rows(sizes, 2 * pairs), drawn)


def landmarks(sizes: Sizes) -> Stage:
    """The landmark search in a pool of candidates, whose rows the workers divide."""
    n, m = sizes.n, sizes.m
    pool = pool_size(n, m)
    if sizes.sampler in ("uniform", "given"):
        return Stage("landmarks")
    columns = 4 * m if sizes.sampler == "leverage" else PROPOSED * m + PROPOSALS
    search: dict[str, float] = {"samples": pool, "double": 0.0}
    if sizes.sampler == "rpcholesky":
        search["double"] = float(pool) * m * m
    if sizes.sampler == "leverage":
        search |= {"double": 2.0 * pool * (4 * m) ** 2, "eigen": EIGEN * (4 * m) ** 3}
    if sizes.space == "input":
        search["double"] += 2.0 * pool * columns * sizes.inputs
        return Stage("landmarks", search)
    columns += PILOT
    search |= {"network": (pool + columns) * sizes.network, "kernel": pool * columns * sizes.pair}
    return Stage("landmarks", search, pool, pool * (1 + columns), columns / PROPOSALS + 2)


def nystrom(sizes: Sizes) -> Stage:
    """The landmarks' kernel and its eigenpairs, by every worker."""
    m = sizes.m
    own: Counts = {"samples": m, "eigen": EIGEN * m**3}
    if sizes.viewed:  # whole blocks are drawn for the landmarks in them, which lie anywhere
        drawn = sizes.n * (1 - max(0.0, 1 - VIEW_BLOCK / sizes.n) ** m)
        own = added(own, {"samples": drawn, "pairs": drawn})
    return Stage("nystrom", added(rows(sizes, m), own), exchanged=m * (m + 1), sums=1)


def views(sizes: Sizes) -> Stage:
    """Both views' features, and their moments or the files that keep them."""
    n, m = sizes.n, sizes.m
    features = paired_features(sizes, n)
    if sizes.streaming:
        features = features if sizes.stored else {}
        return Stage("views", added(features, {"disk": 2.0 * n * m * sizes.stored}), len(shards(n)))
    summed = {"products": 2.0 * sizes.gram * n * m * m}
    return Stage("views", added(features, summed), len(shards(n)), m * (sizes.gram * m + 2), sizes.gram + 2)


def curvature_product(sizes: Sizes, vectors: int = 1) -> Stage:
    """One product with the curvature: of the moments, or of the pairs that it is taken from, summed over workers.

    Args:
        vectors: that are multiplied together; what the features of the pairs take is taken once.
    """
    m, h = sizes.m, sizes.h
    if not sizes.streaming:
        return Stage("product", {"double": 4.0 * m * m * h * vectors})
    pairs = min(sizes.n, -(-sizes.curvature // sizes.batch) * sizes.batch)  # whole batches
    passes = 8.0 * pairs * m * h + 4 * logits(sizes, pairs) * 2 * h
    counts = {"products": passes * vectors, "elementwise": PASSED * logits(sizes, pairs) * vectors}
    found = added(counts, pairs_again(sizes, pairs))
    return Stage("product", found, batches(sizes, pairs), m * h * vectors, 1)


def loss(sizes: Sizes) -> Stage:
    """The loss of all pairs, or of their moments."""
    n, m, h = sizes.n, sizes.m, sizes.h
    if not sizes.streaming:
        return Stage("loss", {"double": 4.0 * m * m * h})
    counts = {"products": 4.0 * n * m * h + logits(sizes, n) * 2 * h, "elementwise": 2 * logits(sizes, n)}
    return Stage("loss", added(counts, pairs_again(sizes, n)), batches(sizes, n), 1, 1)


def logits(sizes: Sizes, pairs: float) -> float:
    """Similarities among the views of the pairs' batches."""
    return 4.0 * pairs * sizes.compared


def pairs_again(sizes: Sizes, pairs: float) -> Counts:
    """The features of pairs, read from files, or computed where none are kept."""
    return {"disk": 2.0 * pairs * sizes.m * sizes.stored} if sizes.stored else paired_features(sizes, pairs)


def batches(sizes: Sizes, pairs: int) -> int:
    """Parts in which workers divide a pass over pairs."""
    return max(1, pairs // sizes.batch)


def newton(sizes: Sizes) -> Stage:
    """The linear solve, and the losses that its step is judged by."""
    product, judged = curvature_product(sizes), loss(sizes)
    counts = added(added(product.counts, times=sizes.iterations), added(judged.counts, times=TRIALS))
    exchanged = sizes.iterations * product.exchanged + TRIALS * judged.exchanged
    return Stage("newton", counts, product.parts, exchanged, sizes.iterations * product.sums + TRIALS, bound=True)


def scores(sizes: Sizes, samples: int) -> Stage:
    """Rows, representation and contributions of every audited sample."""
    scored = {"samples": samples, "products": 4.0 * samples * sizes.m * sizes.h}
    return Stage("scores", added(rows(sizes, samples), scored), len(shards(samples)), 3 * sizes.m, 1)


def refits(sizes: Sizes, number: int, samples: int, points: int) -> Stage:
    """Refits on so many samples, each by one worker alone, and their scores of some points."""
    small = replace(
        sizes, n=samples, m=min(sizes.m, samples), curvature=min(sizes.curvature, samples),
        batch=min(sizes.batch, samples), compared=min(sizes.compared, samples),
    )  # fmt: skip
    steps = landmarks(small), nystrom(small), views(small), newton(small), scores(small, points)
    return Stage("refits", added(*(s.counts for s in steps), times=number), max(number, 1), bound=True)


def attribution(sizes: Sizes, looked: int, draws: int, queries: int, invariance: int) -> Stage:
    """Training samples looked at, each with so many draws of its views, for each query.

    Args:
        invariance: views of a query that its own gradient is taken from.
    """
    m, h = sizes.m, sizes.h
    passed = added(paired_features(sizes, looked), {"products": 4.0 * looked * m * h * (1 + queries)}, times=draws)
    asked = added(rows(sizes, invariance * queries), {"pairs": invariance * queries / 2})
    return Stage("attribution", added(passed, asked), len(shards(looked)), draws * queries * looked, draws)


def along_training(sizes: Sizes, looked: int, draws: int, queries: int, starts: int) -> tuple[Stage, ...]:
    """Trainings of the kernel machine and their derivatives, beside the views of the looked-at samples (`attribution`).

    Of moments: those of the other draws, the descents and their ways back, by every worker, and r² a form, query and
    sample. Of pairs: the draws' features, and passes over all pairs at every step.
    """
    n, m, h = sizes.n, sizes.m, sizes.h
    if not sizes.streaming:
        again, steps = views(sizes), starts * STEPS
        moments = replace(again, name="moments", counts=added(again.counts, times=draws - 1),
                          exchanged=(draws - 1) * again.exchanged, sums=(draws - 1) * again.sums)  # fmt: skip
        forms = {"double": 2.0 * draws * looked * m * m * sizes.gram * queries}
        descents = {"double": steps * m * m * h * (4.0 * (POWER + 3) + 10 * sizes.gram * queries)}
        return moments, Stage("training", descents), Stage("forms", forms, len(shards(looked)))
    similar, judged = logits(sizes, n), loss(sizes)
    vectors = POWER * (1 + 3 / STEPS) + queries  # products with the Hessian per step, the first of which takes more
    products = vectors * (8.0 * n * m * h + 10 * h * similar) + queries * (4.0 * n * m * h + 4 * h * similar)
    shared = {"products": 4 * (4.0 * n * m * h + 8 * h * similar), "elementwise": 12 * similar}
    step = added({"products": products, "elementwise": 2 * vectors * similar}, shared, added(judged.counts, times=3))
    exchanged = (POWER + 1) * m * h + queries * (m * h + n)
    passes = batches(sizes, n), starts * STEPS * exchanged, starts * STEPS * (POWER + 5)
    drawn = views(sizes)
    return (
        replace(drawn, name="moments", counts=added(drawn.counts, times=draws)),
        Stage("training", added(step, times=starts * STEPS), *passes),
    )


def adjoint(sizes: Sizes, queries: int) -> Stage:
    """The solve for all queries, whose products are made together, with as many as the step may take.

    It may take ten times as many; with SimCLR it took 1.4 times as many (docs/scale.md).
    """
    product = curvature_product(sizes, queries)
    counts = added(product.counts, times=sizes.iterations)
    exchanged, sums = sizes.iterations * product.exchanged, sizes.iterations * product.sums
    return Stage("adjoint", counts, product.parts, exchanged, sums)
