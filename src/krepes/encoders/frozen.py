"""A frozen encoder: a deterministic map from samples to embeddings, sample by sample."""

import copy
import hashlib
import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from krepes.encoders.selection import PLACES, parameters_at, select_parameters
from krepes.errors import ConfigError, EncoderError


class FrozenEncoder:
    """A private, frozen copy of a network, checked to be a function of one sample at a time.

    Args:
        module: any `nn.Module` that maps (B, ...) to (B, d), in eval mode. It is copied, never changed.
        params: names or `fnmatch` patterns of the parameters that enter the kernel; None means all of them,
            whether or not they require gradients; "last_block" and "head" are found by `check`.
        device, dtype: where and in which floating type the copy computes.

    Attributes:
        lock: held by whoever runs the copy: gradients switch its parameters' flags, and threads would see each other's.

    Raises:
        EncoderError: a layer is in train mode, or there is no parameter.
        ConfigError: a pattern of `params` matches no parameter.
    """

    def __init__(
        self,
        module: nn.Module,
        params: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if not isinstance(module, nn.Module):
            raise EncoderError(f"the encoder is a {type(module).__name__}; expected a torch.nn.Module")
        refuse_train_mode(module)
        self.dtype = dtype
        try:
            self.device = torch.device(device or "cpu")
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA asserts
            raise ConfigError(f"device={str(device)!r} cannot be used here: {error}") from error
        try:
            with torch.no_grad():  # a scripted module's copies would otherwise be computed tensors
                self.module = copy.deepcopy(module).to(device=self.device, dtype=dtype)
        except RuntimeError as error:
            raise EncoderError(
                f"the encoder cannot be copied: {error}. The old torch.nn.utils.weight_norm and spectral_norm are such "
                "hooks: use torch.nn.utils.parametrizations, or remove them first."
            ) from error
        for name, p in self.module.named_parameters():
            if p.is_complex() or dict(module.named_parameters())[name].is_complex():
                raise EncoderError(f"parameter '{name}' is complex; krepes differentiates real parameters only")
            p.requires_grad_(False)
        for layer in self.module.modules():
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
                layer.sparse = False  # says how a gradient is stored, not what it is
        self._fingerprint = fingerprint_of(self.module)  # now: a forward pass may change it (Embedding's max_norm)
        self.param_names = select_parameters(self.module, params)
        self._place = params if isinstance(params, str) and params in PLACES else None
        self.n_outputs: int | None = None
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"lock": None}  # a copy has its own, which no pickle can hold

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"lock": threading.RLock()}

    def prepare(self, batch: Tensor) -> Tensor:
        """The batch on the encoder's device; floating inputs in its dtype, integer ones (token ids) as they are."""
        dtype = self.dtype if batch.is_floating_point() else batch.dtype
        return batch.to(self.device, dtype, non_blocking=True)

    @torch.no_grad()
    def __call__(self, batch: Tensor) -> Tensor:
        """Embeddings (B, d) of a batch (B, ...)."""
        with self.lock:
            return self.module(self.prepare(batch))

    def check(self, batch: Tensor) -> None:
        """Refuse a network that is random, looks at other samples of the batch, or returns no (B, d) tensor.

        Args:
            batch: at least two samples (B, ...).

        Raises:
            EncoderError: says which property fails, on which layer where that can be told.
        """
        with self.lock:
            self._check(batch)

    def _check(self, batch: Tensor) -> None:
        try:
            out = self(batch)
        except (RuntimeError, AssertionError) as error:  # vision transformers assert the images' size
            raise EncoderError(
                f"the encoder cannot process a batch of shape {tuple(batch.shape)} ({batch.dtype}): {error}"
            ) from error
        if not isinstance(out, Tensor):
            raise EncoderError(
                f"the encoder returns a {type(out).__name__}; expected a tensor (B, d). "
                "Wrap it in a module that picks the embedding."
            )
        if out.ndim != 2 or len(out) != len(batch):
            raise EncoderError(
                f"the encoder maps {tuple(batch.shape)} to {tuple(out.shape)}; expected (B, d) with "
                f"B = {len(batch)}. Flatten or pool its output."
            )
        if not out.is_floating_point():
            raise EncoderError(f"the encoder returns {out.dtype}; expected floating-point embeddings (B, d)")
        if not torch.isfinite(out).all():
            raise EncoderError("the encoder gives NaN or infinity for the first samples; look at its weights")
        if not torch.equal(out, self(batch)):
            raise EncoderError(
                "the encoder is not deterministic: two passes over the same batch differ"
                f"{self._random_layer(batch)}. Remove random layers or augmentations from the model."
            )
        try:
            # each of them, as a recurrent network that takes the batch for time leaves the first sample alone
            each = [self(one) for one in batch.split(1)]
        except ValueError as error:  # a batch norm without running statistics
            raise EncoderError(f"the encoder needs more than one sample at a time: {error}") from error
        if odd := [tuple(one.shape) for one in each if one.shape != (1, out.shape[1])]:
            raise EncoderError(
                f"the encoder maps one sample to {odd[0]}; expected (1, {out.shape[1]}): look for a squeeze() without "
                "a dimension."
            )
        alone = torch.cat(each)
        scale = out.norm(dim=1).mean().clamp_min(torch.finfo(out.dtype).tiny)
        if (change := float((alone - out).norm(dim=1).max() / scale)) > 1e-3 or not math.isfinite(change):
            raise EncoderError(
                f"the embedding of a sample changes with the rest of its batch (by {change:.1%}). krepes needs a map "
                "of one sample at a time: no statistics over the batch, and the batch as the first axis."
            )
        self.n_outputs = out.shape[1]
        if self._place is not None:
            self.param_names = parameters_at(self.module, self._place, self.prepare(batch))

    def _random_layer(self, batch: Tensor) -> str:
        """The first leaf layer whose output differs between two passes, as a phrase."""
        leaves = [
            (name, m)
            for name, m in self.module.named_modules()
            if not list(m.children()) and not isinstance(m, torch.jit.ScriptModule)  # which take no hooks
        ]
        passes: list[dict[str, Tensor]] = [{}, {}]
        for seen in passes:
            hooks = [m.register_forward_hook(_keep_output(seen, name)) for name, m in leaves]
            try:
                self(batch)
            finally:
                for hook in hooks:
                    hook.remove()
        for name, module in leaves:
            if name in passes[0] and name in passes[1] and not torch.equal(passes[0][name], passes[1][name]):
                return f", first in layer '{name}' ({type(module).__name__})"
        return ""

    def fingerprint(self) -> str:
        """sha256 over the architecture's printed form and every parameter and buffer (name, shape, bytes)."""
        return self._fingerprint


def fingerprint_of(module: nn.Module) -> str:
    """sha256 over a network's printed form and state."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):  # a module's own extra state
            digest.update(f"{name}{tensor!r}".encode())
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _keep_output(seen: dict[str, Tensor], name: str):
    """A forward hook that stores a layer's first output."""

    def hook(_module, _args, out) -> None:
        if isinstance(out, Tensor):
            seen.setdefault(name, out.clone())

    return hook


def refuse_train_mode(module: nn.Module) -> None:
    """Raise EncoderError naming the first layers in train mode."""
    names = [name or "(the model itself)" for name, m in module.named_modules() if getattr(m, "training", False)]
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise EncoderError(f"the encoder is in train mode: {shown}. Call encoder.eval() first.")
