"""Which way the gradient of every selected parameter is taken, chosen by counted operations and verified on samples.

Ways: `factored` keeps both sides of the outer products; `explicit` forms the per-sample gradient; `projected` forms
a two-sided random projection of it; `generic` goes through `torch.func`; `unused` has no influence on the output.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from krepes.encoders.frozen import FrozenEncoder
from krepes.encoders.selection import connected_parameters, parameter
from krepes.errors import EncoderError
from krepes.kernel import tape
from krepes.kernel.contractions import (
    Factored,
    Layout,
    Term,
    explicit,
    operands,
    output_gradient,
    positions_of,
    with_bias,
)

# Operations that one pass over an intermediate entry costs, from measured memory traffic against products
# (docs/benchmarks.md); it decides between factored and explicit only where T > 1.
PASS = 24
LANDMARKS = 1000  # a nominal m, over which the cost of forming a feature is spread


@dataclass(frozen=True)
class Piece:
    """One block of the gradient feature.

    Attributes:
        names: parameters that it covers; two pieces may share one when each covers a slice of it.
        terms: what adds up to it; for `factored` with a bias the weight's term, then the bias's.
        way: factored, explicit or projected.
        linked: the tracked tensors are functions of the parameters, through which gradients are pulled back.
        slots: per linked or sliced term, None or the (size, stride, offset) of the slice.
        numel: entries of the gradient.
        projection: (k_out, k_in) or (k,) of a projected piece.
    """

    names: tuple[str, ...]
    terms: tuple[Term, ...]
    way: str
    linked: bool
    slot: tuple[torch.Size, tuple[int, ...], int] | None
    numel: int
    projection: tuple[int, ...] = ()

    @property
    def bias(self) -> bool:
        """Whether a column of ones stands for the bias."""
        return len(self.terms) == 2 and not self.linked and self.terms[0].outer and self.terms[1].kind == "sum"

    def numbers(self, q: int) -> int:
        """Numbers per sample that the features take."""
        if self.way == "factored":
            return factored_numbers(self.terms[0], self.bias, q)
        if self.way == "projected":
            return q * torch.Size(self.projection).numel()
        return q * self.numel

    def pair_operations(self, q: int) -> float:
        """Operations per kernel entry."""
        return factored_operations(self.terms[0], self.bias, q) if self.way == "factored" else 2.0 * self.numbers(q)

    def forming_operations(self, q: int) -> float:
        """Operations per sample beyond the backward pass."""
        if self.way == "factored":
            return 0.0
        total = 0.0
        for t in self.terms:
            n_out, n_in = t.sides if t.outer else (1, t.numel)
            if self.way == "projected" and len(self.projection) == 2:
                k_out, k_in = self.projection
                total += 2.0 * t.positions * (k_in * n_in + q * k_out * n_out + q * k_out * k_in)
            else:
                total += 2.0 * q * t.positions * (n_out * n_in if t.outer else n_in)
        return total


def factored_numbers(term: Term, bias: bool, q: int) -> int:
    """Numbers per sample of a factored term."""
    n_out, n_in = term.sides
    width = 1 if term.kind == "embedding" else n_in + bias
    return term.positions * (width + (0 if term.constant else q * n_out))


def factored_operations(term: Term, bias: bool, q: int) -> float:
    """Operations per kernel entry of a factored term: products, and passes over T × T' intermediates."""
    n_out, n_in = term.sides
    width = 0 if term.kind == "embedding" else n_in + bias
    g = 0 if term.constant else q * n_out
    T = term.positions
    return T * T * (2.0 * (width + g) + (PASS * (q + 2) if T > 1 else 4))


def make(encoder: FrozenEncoder, probe: Tensor, q: int, project: int | None) -> tuple[list[Piece], dict[str, str]]:
    """The pieces, and the parameters without one: name ↦ "generic: why" or "unused".

    Args:
        probe: samples (B, ...), on which every piece is verified against plain autograd.
        q: output directions.
        project: numbers per direction and piece above which a gradient is projected; None: never.
    """
    two, three = (encoder.prepare(probe[[i % len(probe) for i in range(b)]]) for b in (2, 3))
    names = encoder.param_names
    recordings = [tape.record(encoder.module, names, x) for x in (two, three)]
    terms, lost = read_terms(*recordings)
    pieces = [p for p in assemble(encoder.module, recordings[1], terms, lost) if p is not None]
    pieces, failed = verify(encoder, pieces, recordings[1], three)
    lost |= dict.fromkeys(failed, "generic: its calls do not add up to its gradient")
    covered = {n for p in pieces for n in p.names}
    silent = [n for n in names if n not in covered and n not in lost]
    connected = connected_parameters(encoder.module, silent, two) if silent else set()
    lost |= {n: "generic: used where no call shows it" if n in connected else "unused" for n in silent}
    pieces = [p for p in pieces if not set(p.names) & lost.keys()]
    return [choose_way(p, q, project) for p in pieces], lost


def read_terms(two: tape.Recording, three: tape.Recording) -> tuple[list[Term], dict[str, str]]:
    """Terms of all calls, and the parameters of calls that are not understood: name ↦ why."""
    shapes = [[(c.kind, c.tracked) for c in r.calls] for r in (two, three)]
    if shapes[0] != shapes[1]:
        raise EncoderError(
            "the encoder calls other layers for a batch of two samples than for one of three; krepes needs a map of "
            "one sample at a time. Use NTK(..., contractions=False)."
        )
    terms, lost = [], {}
    for i, (first, second) in enumerate(zip(two.calls, three.calls, strict=True)):
        found = call_terms(i, first, second, three)
        terms += found
        if not found:
            why = f"generic: consumed by {second.options.get('function', second.kind)}"
            lost |= dict.fromkeys(roots(set(second.tracked.values()), three.parents), why)
    return terms, lost


def call_terms(i: int, first: tape.Call, second: tape.Call, recording: tape.Recording) -> list[Term]:
    """A call's terms; none where it is not understood."""
    g, a = Layout.of(first.shape, second.shape), Layout.of(first.a_shape, second.a_shape)
    if second.kind == "unknown" or g is None or (a is None and second.kind not in ("add", "expand")):
        return []
    kind = {"norm": "scale", "mul": "scale", "add": "sum", "expand": "sum"}.get(second.kind, second.kind)
    options = dict(second.options) | {"channel": second.options.get("channel", kind == "conv")}
    if kind == "conv" and (g.dim, len(second.a_shape)) != (0, options["dims"] + 2):
        return []
    out = []
    for role, key in second.tracked.items():
        k = kind if role == "weight" else "sum"
        positions = positions_of(k, second.shape, g, options) if k in OUTER else 1
        out.append(
            Term(i, k, key, recording.shapes[key], None if k == "sum" else a, g, second.is_output, positions, options)
        )
    return out


OUTER = ("linear", "matmul", "conv", "embedding")


def roots(keys: set[str], parents: dict[str, set[str]]) -> set[str]:
    """The parameters behind tracked tensors."""
    out: set[str] = set()
    for key in keys:
        out |= roots(parents[key], parents) if key in parents else {key}
    return out


def assemble(module: nn.Module, recording: tape.Recording, terms: Sequence[Term], lost: dict[str, str]) -> list[Piece]:
    """Terms grouped into pieces: one per weight (with its bias), or one per family of linked parameters."""
    families: list[tuple[set[str], list[Term]]] = []
    for term in terms:
        own, members = roots({term.key}, recording.parents), [term]
        for family in [f for f in families if f[0] & own]:
            families.remove(family)
            own, members = own | family[0], family[1] + members
        families.append((own, members))
    simple: dict[int, list[tuple[str, Term]]] = {}
    pieces = []
    for owners, members in families:
        if owners & lost.keys():
            lost |= {n: lost.get(n, "generic: computed together with another such parameter") for n in owners}
            continue
        if len(owners) == 1 and disjoint(parameter(module, next(iter(owners))), members, recording):
            for term in members:
                simple.setdefault(term.call, []).append((next(iter(owners)), term))
        else:
            names = tuple(sorted(owners))
            numel = sum(parameter(module, n).numel() for n in names)
            linked = any(t.key in recording.derived for t in members)
            pieces.append(Piece(names, tuple(members), "explicit", linked, None, numel))
    for members in simple.values():
        pieces += pair_up(members, recording)
    return pieces


def pair_up(members: list[tuple[str, Term]], recording: tape.Recording) -> list[Piece]:
    """A call's weight with its bias where both are simple, else one piece each."""
    members = sorted(members, key=lambda m: not m[1].outer)
    whole = all(t.key not in recording.derived for _, t in members)
    if len(members) == 2 and members[0][1].outer and whole:
        names, terms = zip(*members, strict=True)
        return [Piece(names, terms, "explicit", False, None, sum(t.numel for t in terms))]
    return [Piece((n,), (t,), "explicit", False, slot_of(t, recording), t.numel) for n, t in members]


def slot_of(term: Term, recording: tape.Recording):
    d = recording.derived.get(term.key)
    return None if d is None else (d.size(), d.stride(), int(d.storage_offset()))


def disjoint(parameter: nn.Parameter, terms: Sequence[Term], recording: tape.Recording) -> bool:
    """Whether every term reads its own entries of the parameter, so that inner products simply add up."""
    if not parameter.is_contiguous():
        return False
    count = torch.zeros(parameter.numel(), dtype=torch.int32)
    storage = parameter.untyped_storage().data_ptr()
    for term in terms:
        d = recording.derived.get(term.key, parameter)
        if d.untyped_storage().data_ptr() != storage or 0 in d.stride():
            return False
        offset = d.storage_offset() - parameter.storage_offset()
        count.as_strided(d.size(), d.stride(), offset).add_(1)
    return int(count.max()) <= 1


def verify(
    encoder: FrozenEncoder, pieces: list[Piece], recording: tape.Recording, batch: Tensor
) -> tuple[list[Piece], set[str]]:
    """Pieces that equal plain autograd on the batch, in the layout that does, and the names of the others."""
    from krepes.kernel.gradients import autograd_gradient, backward

    if not pieces:
        return [], set()
    module = encoder.module
    names = sorted({n for p in pieces for n in p.names})
    d = recording.out.shape[1]
    # a fixed direction without symmetry: no output may cancel another one
    w = torch.cos(torch.arange(1, d + 1, device=recording.out.device, dtype=recording.out.dtype))[None]
    exact = torch.stack([autograd_gradient(module, names, x, w) for x in batch])
    exact = dict(zip(names, exact.split([parameter(module, n).numel() for n in names], 1), strict=True))
    g = backward(recording, w, batched=False)
    tolerance = 1e-3 if encoder.dtype != torch.float64 else 1e-9
    # a gradient that is zero but for rounding (the bias of attention's keys) has nothing to agree with
    rounding = 100 * torch.finfo(encoder.dtype).eps * float(torch.cat(list(exact.values()), 1).norm())
    good, failed = [], set()
    for piece in pieces:
        target = torch.cat([exact[n] for n in piece.names], 1)
        if piece.slot is not None:
            size, stride, offset = piece.slot
            base = parameter(module, piece.names[0]).storage_offset()
            target = torch.stack([row.clone().as_strided(size, stride, offset - base).flatten() for row in target])
        fitting = [p for p in layouts(piece) if agrees(p, recording, module, g, target, tolerance, rounding)]
        if len(fitting) == 1:  # several agree where the probe's gradients are zero or equal: undecided is not verified
            good.append(fitting[0])
        else:
            failed |= set(piece.names)
    return good, failed


def layouts(piece: Piece) -> list[Piece]:
    """The piece, and the piece with the samples varying fastest in flattened dimensions."""
    if all(t.g.k == 1 for t in piece.terms):
        return [piece]
    turned = [replace(t, g=turn(t.g), a=None if t.a is None else turn(t.a)) for t in piece.terms]
    return [piece, replace(piece, terms=tuple(turned))]


def turn(layout: Layout) -> Layout:
    return replace(layout, fastest=layout.k > 1)


def agrees(piece: Piece, recording, module: nn.Module, g, target: Tensor, tolerance: float, rounding: float) -> bool:
    try:
        found = piece_gradient(piece, recording, module, g, len(target)).flatten(1)
    except (RuntimeError, IndexError):  # shapes that do not fit together: another layout, or no known one
        return False
    if found.shape != target.shape or (found - target).norm() > tolerance * target.norm() + rounding:
        return False
    head = piece.terms[0]
    if not head.outer or piece.linked or len(piece.terms) > 1 + piece.bias:
        return True
    # the same as a pair of factors, of which only inner products are ever formed
    a, g_t = operands(head, recording.calls[head.call].a, output_gradient(head, g[head.call], len(target)), len(target))
    pair = Factored(with_bias(a) if piece.bias else a, g_t)
    gram = target @ target.T
    return bool((pair.inner(pair) - gram).norm() <= 3 * tolerance * gram.norm() + (rounding * rounding))


def piece_gradient(piece: Piece, recording: tape.Recording, module: nn.Module, g: dict, samples: int) -> Tensor:
    """The explicit gradient (B, q, numel) of a piece.

    Args:
        g: call ↦ gradients of the q directions at its output.
    """
    parts = []
    sums: dict[str, Tensor] = {}
    for term in piece.terms:
        call = recording.calls[term.call]
        a = call.a() if callable(call.a) else call.a
        part = explicit(term, a, output_gradient(term, g[term.call], samples), samples)
        if part.shape[2] != term.numel:
            raise RuntimeError(f"{part.shape[2]} entries for a tensor of {term.numel}")
        parts.append(part)
        sums[term.key] = sums[term.key] + part if term.key in sums else part
    if len(piece.terms) == 1 and not piece.linked:
        return parts[0]
    if piece.bias:
        return torch.cat(parts, 2)
    return pull_back(piece.names, sums, recording, module)


def pull_back(names: tuple[str, ...], sums: dict[str, Tensor], recording: tape.Recording, module: nn.Module) -> Tensor:
    """Gradients of tracked tensors (B, q, ·) as gradients of the parameters behind them (B, q, numel)."""
    total = {n: sums[n] for n in names if n in sums}
    shape = next(iter(sums.values())).shape[:2]
    with in_graph(module, names) as parameters:
        for key in sums.keys() & recording.derived.keys():
            for name, part in zip(names, vjp_rows(recording.derived[key], parameters, sums[key]), strict=True):
                if part is not None:
                    total[name] = total[name] + part if name in total else part
    zero = next(iter(sums.values())).new_zeros(*shape, 1)
    filled = [total[n] if n in total else zero.expand(*shape, parameter(module, n).numel()) for n in names]
    return torch.cat(filled, 2)


def vjp_rows(d: Tensor, parameters: list[nn.Parameter], rows: Tensor) -> list[Tensor | None]:
    """Rows of gradients (B, q, ·) of a derived tensor pulled back to its parameters, each (B, q, numel) or None."""
    flat = rows.flatten(0, 1).unflatten(1, d.shape)

    def pull(v: Tensor, batched: bool):
        return torch.autograd.grad(d, parameters, v, retain_graph=True, allow_unused=True, is_grads_batched=batched)

    try:
        grads = pull(flat, True)
    except RuntimeError:  # an operation that cannot be batched: row by row, with the same result
        single = [pull(v, False) for v in flat]
        grads = [None if g[0] is None else torch.stack(g) for g in zip(*single, strict=True)]
    return [None if g is None else g.flatten(1).unflatten(0, rows.shape[:2]) for g in grads]


@contextmanager
def in_graph(module: nn.Module, names: Sequence[str]):
    """The named parameters require gradients inside."""
    parameters = [parameter(module, n) for n in names]
    for p in parameters:
        p.requires_grad_(True)
    try:
        yield parameters
    finally:
        for p in parameters:
            p.requires_grad_(False)


def choose_way(piece: Piece, q: int, project: int | None) -> Piece:
    """The cheapest exact way, or the projection where that is cheaper still."""
    head = piece.terms[0]
    alone = not piece.linked and (len(piece.terms) == 1 or piece.bias)
    best = piece
    if alone and head.outer:
        factored = replace(piece, way="factored")
        if factored.pair_operations(q) < piece.pair_operations(q) + piece.forming_operations(q) / LANDMARKS:
            best = factored
    if project is None or piece.numel <= project or best.pair_operations(q) <= 2 * q * project:
        return best
    if alone and head.outer:
        return replace(piece, way="projected", projection=sides(*head.sides, project))
    return replace(piece, way="projected", projection=(project,))


def sides(n_out: int, n_in: int, k: int) -> tuple[int, int]:
    """Sizes of a two-sided projection with at most k numbers; a side that is small enough is kept whole."""
    root = int(k**0.5)
    if n_out <= root:
        return n_out, min(n_in, k // n_out)
    if n_in <= root:
        return min(n_out, k // n_in), n_in
    return root, root
