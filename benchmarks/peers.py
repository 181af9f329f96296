"""One kernel block by krepes, by plain torch, and by other packages, all with the same meaning.

The block is k(x_i, z_j) = Σ_p ⟨∇θ⟨w_p, f(x_i)⟩, ∇θ⟨w_p, f(z_j)⟩⟩. Packages for data attribution need a scalar per
sample; they get s = (1/√d) Σ_c f_c, for which the block is the pseudo kernel. What is prepared for the landmarks is
prepared before the clock starts, for every way alike.
"""

import copy
import functools
import inspect
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from krepes.encoders.frozen import FrozenEncoder
from krepes.kernel import ntk as krepes_kernel

CHUNK = 32  # samples per call of vmap(grad), and per batch of the packages
LFXAI_TILE = 8  # samples per side of the tile that LFXAI computes


@dataclass
class Way:
    """One way to compute a block.

    Attributes:
        block: x (B, ...) ↦ K (B, M), or a tile of it.
        target: "pseudo", "trace" or "sketch8": the kernel that it computes, for the oracle.
        covers: parameters that enter.
        scale: what the seconds of `block` are multiplied by to stand for the whole block.
        plus: timed as well, and added unscaled.
        note: what a reader must know.
        centred: the block is centred over the landmarks, so that it has no raw error.
    """

    name: str
    block: Callable[[Tensor], Tensor]
    target: str = "pseudo"
    covers: int = 0
    scale: float = 1.0
    plus: Callable[[], Any] | None = None
    note: str = ""
    centred: bool = False


class MissingError(Exception):
    """A way that cannot run here; the message says why."""


def parameter_count(network: nn.Module) -> int:
    """Numbers in all parameters."""
    return sum(p.numel() for p in network.parameters())


# ------------------------------------------------------------------ plain torch
def sample_gradients(network: nn.Module, x: Tensor, direction: Tensor, chunk: int = CHUNK) -> Tensor:
    """∇θ⟨w, f(x)⟩ of every sample by vmap(grad), (B, P), in the order of `named_parameters`."""
    values = {n: p.detach() for n, p in network.named_parameters()}
    buffers = dict(network.named_buffers())
    direction = direction.to(x)

    def scalar(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(network, (values, buffers), (sample.unsqueeze(0),)).squeeze(0) @ direction

    def one(sample: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in grad(scalar)(values, sample).values()])

    return vmap(one, chunk_size=chunk)(x)


def pseudo_direction(d: int) -> Tensor:
    """1/√d in every output (d,)."""
    return torch.full((d,), d**-0.5, dtype=torch.float64)


# ----------------------------------------------------------------------- krepes
def accepts(call: Callable[..., Any], name: str) -> bool:
    """Whether a function or class takes an argument of that name."""
    return name in inspect.signature(call).parameters


def krepes_way(
    network: nn.Module,
    z: Tensor,
    label: str,
    precision: str = "float32",
    device: str = "cpu",
    center: bool = False,
    **settings: Any,
) -> Way:
    """`KernelRows` with the raw kernel, or centred over the landmarks, as lower precision is meant to be used.

    Raises:
        MissingError: this version of krepes has no such setting.
    """
    project = settings.get("project")
    if project is not None and not accepts(krepes_kernel.NTK, "project"):
        raise MissingError("this version of krepes has no NTK(project=…)")
    kernel = krepes_kernel.NTK(center=center, cosine=False, **settings)
    holders = {
        "ntk": krepes_kernel.NTK,
        "encoder": FrozenEncoder,
        "map": krepes_kernel.gradient_map,
        "rows": krepes_kernel.KernelRows,
    }
    takes = [name for name, call in holders.items() if accepts(call, "precision")]
    if precision != "float32" and not takes:
        raise MissingError("this version of krepes has no precision option in its kernel engine")
    extra: dict[str, dict[str, Any]] = {name: {"precision": precision} if name in takes else {} for name in holders}
    if accepts(krepes_kernel.KernelRows, "keep"):
        extra["rows"]["keep"] = True  # the landmarks' features are prepared, whatever they take
    if "ntk" in takes:
        kernel = krepes_kernel.NTK(center=center, cosine=False, precision=precision, **settings)
    encoder = FrozenEncoder(network, device=device, dtype=torch.float32, **extra["encoder"])
    gradients = krepes_kernel.gradient_map(kernel, encoder, z[:3], **extra["map"])
    rows = krepes_kernel.KernelRows(kernel, gradients, z, **extra["rows"])
    q = settings.get("sketch")
    kinds = list(gradients.plan.values())
    plan = ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds)))
    covers = sum(encoder.module.get_parameter(n).numel() for n in encoder.param_names)
    target = f"sketch{q}" if q else settings["variant"]
    return Way(label, lambda x: rows(x)[0], target, covers, note=f"parameters: {plan}", centred=center)


# ------------------------------------------------------------------------ peers
def gemm_way(network: nn.Module, Z: Tensor, precision: str = "float32") -> Way:
    """vmap(grad) in chunks, then one product with the landmarks' gradients (M, P)."""
    w = pseudo_direction(outputs(network))
    half = precision == "bfloat16"

    @functools.cache
    def landmarks() -> Tensor:
        return Z.bfloat16() if half else Z

    def block(x: Tensor) -> Tensor:
        G = sample_gradients(network, x, w)
        return (G.bfloat16() @ landmarks().T).float() if half else G @ landmarks().T

    name = "vmap(grad) + GEMM" + (", bfloat16" if half else "")
    note = "torch's bfloat16 product rounds its result to bfloat16" if half else f"chunks of {CHUNK}"
    return Way(name, block, covers=Z.shape[1], note=note)


def trak_ways(network: nn.Module, Z: Tensor, project: int) -> list[Way]:
    """traker: its gradient computer with NoOpProjector in memory, the same through TRAKer.featurize, BasicProjector."""
    try:
        from trak import TRAKer
        from trak.gradient_computers import FunctionalGradientComputer
        from trak.modelout_functions import AbstractModelOutput
        from trak.projectors import BasicProjector, NoOpProjector, ProjectionType
    except ImportError as error:
        raise MissingError(f"traker is not installed ({error})") from error

    class Output(AbstractModelOutput):
        """s = (1/√d) Σ_c f_c."""

        def __init__(self) -> None:
            pass

        @staticmethod
        def get_output(model, weights, buffers, sample: Tensor) -> Tensor:
            out = functional_call(model, (weights, buffers), (sample.unsqueeze(0),))
            return out.sum() * out.shape[1] ** -0.5

        def get_out_to_loss_grad(self, model, weights, buffers, batch) -> Tensor:
            return torch.ones(len(batch[0]), 1)

    P = Z.shape[1]
    computer = FunctionalGradientComputer(network, Output(), P, torch.float32, torch.device("cpu"))
    plain = NoOpProjector(device="cpu")

    @functools.cache  # made at the first call, so that a way without it does not hold its matrix
    def basic() -> tuple[BasicProjector, Tensor]:
        projector = BasicProjector(P, project, 0, ProjectionType.rademacher, "cpu")
        return projector, projector.project(Z, 0)

    def features(x: Tensor) -> Tensor:
        return torch.cat([plain.project(computer.compute_per_sample_grad((c,)), 0) for c in x.split(CHUNK)])

    folder = tempfile.TemporaryDirectory()

    def through_traker(x: Tensor) -> Tensor:
        settings = {"train_set_size": len(x), "proj_dim": P, "projector": plain, "device": "cpu"}
        store = tempfile.mkdtemp(dir=folder.name)
        traker = TRAKer(network, Output(), save_dir=store, use_half_precision=False, logging_level=50, **settings)
        traker.load_checkpoint(network.state_dict(), model_id=0)
        for chunk in x.split(CHUNK):
            traker.featurize((chunk,), num_samples=len(chunk))
        K = torch.as_tensor(traker.saver.current_store["grads"]) @ Z.T * traker.normalize_factor
        shutil.rmtree(store)
        return K

    through_traker.folder = folder  # type: ignore[attr-defined]  lives as long as the way
    return [
        Way("TRAK, NoOp + GEMM, in memory", lambda x: features(x) @ Z.T, covers=P, note="no file is written"),
        Way("TRAK, NoOp featurize + GEMM", through_traker, covers=P, note="TRAKer.featurize with its memory map"),
        Way(
            f"TRAK, BasicProjector k={project}",
            lambda x: basic()[0].project(features(x), 0) @ basic()[1].T / project,
            covers=P,
            note="random projection, an approximation; once per block, not once per batch",
        ),
    ]


def dattri_ways(network: nn.Module, Z: Tensor, project: int) -> list[Way]:
    """dattri: the per-sample gradients of its TracIn with and without its random projection.

    `TracInAttributor.attribute` computes the test gradients anew for every batch of training samples and always
    projects; its own functions are called here with the landmarks prepared, which favours it.
    """
    try:
        from dattri.func.projection import random_project
        from dattri.task import AttributionTask
    except ImportError as error:
        raise MissingError(f"dattri is not installed ({error})") from error

    # parameters that do not require gradients are left out without a word: an encoder frozen that way scores zero
    network = copy.deepcopy(network).requires_grad_(True)

    def scalar(params, sample) -> Tensor:
        out = functional_call(network, params, (sample[0].unsqueeze(0),))
        return out.sum() * out.shape[1] ** -0.5

    task = AttributionTask(loss_func=scalar, model=network, checkpoints=network.state_dict())
    gradients = task.get_grad_target_func(in_dims=(None, 0))
    weights = task.get_param(ckpt_idx=0)[0].detach()
    P = Z.shape[1]

    def projector(feature: Tensor):
        return random_project(feature, len(feature), proj_dim=project, proj_max_batch_size=CHUNK, proj_seed=0)

    @functools.cache
    def projected_landmarks() -> Tensor:
        return projector(Z)(Z)

    def features(x: Tensor) -> Tensor:
        return torch.cat([gradients(weights, (c,)) for c in x.split(CHUNK)])

    def projected(x: Tensor) -> Tensor:
        G = features(x)
        return projector(G)(G) @ projected_landmarks().T

    return [
        Way(
            "dattri, gradients + GEMM",
            lambda x: features(x) @ Z.T,
            covers=int(weights.numel()),
            note=f"batches of {CHUNK}",
        ),
        Way(
            f"dattri, random_project k={project}",
            projected,
            covers=P,
            note="random projection, an approximation; once per block, not once per batch",
        ),
    ]


def lfxai_way(network: nn.Module, Z: Tensor, z: Tensor, batch: int) -> Way:
    """LFXAI's TracIn on a tile; its label-free loss is replaced by s, so that it means the same kernel.

    It computes one gradient per backward pass on both sides and keeps none, so the tile costs 2 · LFXAI_TILE
    gradients; it is scaled to the gradients of the batch alone (what the landmarks cost is left out, as for all),
    and a product of the block's size is added.
    """
    try:
        from lfxai.explanations.examples import TracIn
    except ImportError as error:
        raise MissingError(f"lfxai is not installed ({error})") from error
    folder = tempfile.TemporaryDirectory()
    checkpoint = Path(folder.name) / "network.pt"
    torch.save(network.state_dict(), checkpoint)

    class Model(nn.Module):
        """What LFXAI asks for: an encoder and the files of its checkpoints."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = network
            self.checkpoints_files = [checkpoint]
            self.keep = folder

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

    explainer = TracIn(Model(), lambda x, out: out.sum() * out.shape[1] ** -0.5, Path(folder.name) / "kept", X_train=z)

    def block(x: Tensor) -> Tensor:
        network.requires_grad_(True)
        try:
            return explainer.attribute(x[:LFXAI_TILE], list(range(LFXAI_TILE))).detach()
        finally:
            network.requires_grad_(False)

    @functools.cache
    def stand_in() -> Tensor:
        return torch.zeros(batch, Z.shape[1])

    note = f"from a tile of {LFXAI_TILE} × {LFXAI_TILE}, its gradients scaled to the batch's {batch}; a GEMM added"
    scale = batch / (2 * LFXAI_TILE)
    return Way("LFXAI, TracIn", block, covers=Z.shape[1], scale=scale, plus=lambda: stand_in() @ Z.T, note=note)


def outputs(network: nn.Module) -> int:
    """d, read from the last linear layer."""
    return [m for m in network.modules() if isinstance(m, nn.Linear)][-1].out_features
