"""The training loop: pairs of views, an objective's own loss, a checkpoint at the end of every epoch."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from krepes.data import Source
from krepes.data.source import check_finite
from krepes.data.views import pair_of
from krepes.encoders import MLP
from krepes.errors import ConfigError, EncoderError, NonFiniteError, warn
from krepes.objectives import BYOL, Objective
from krepes.pretrain.checkpoint import load_checkpoint, save_checkpoint
from krepes.pretrain.config import TrainConfig
from krepes.progress import Progress

COLLAPSED = 0.01  # standard deviation of the embeddings' columns, in units of their root mean square
LOOKED_AT = 512  # samples whose embeddings are looked at after every epoch


@dataclass(frozen=True)
class Trained:
    """What came of a training run.

    Attributes:
        network: in eval mode, on the CPU; of BYOL the student.
        losses: the mean loss of every epoch.
        spread: standard deviation of the embeddings' columns in units of their root mean square, after every epoch;
            near zero all samples have one embedding.
    """

    network: nn.Module
    losses: list[float]
    spread: list[float]


def train(
    network: nn.Module,
    source: Source,
    views: Any,
    objective: Objective,
    settings: TrainConfig = TrainConfig(),  # noqa: B008  frozen
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    identity: dict[str, Any] | None = None,
) -> Trained:
    """Train a network on views of unlabelled samples; it is changed in place.

    Args:
        network: (B, ...) -> (B, d).
        source: the samples; their labels, if any, are never seen.
        views: callable (batch, generator) -> batch, or a pair of them.
        objective: its `loss` is what is minimised. With BYOL one side is a predictor's output, the other that of an
            exponential moving average of the network, mean of both directions.
        checkpoint: written at the end of every epoch, atomically, and gone on from if it is there: on one machine the
            weights then equal an uninterrupted run's bit for bit (CPU).
        identity: what must be the same for a checkpoint to be gone on from.

    Raises:
        NonFiniteError: the samples or the loss are not finite; the last checkpoint stays.
        EncoderError: the network does not map (B, ...) to (B, d).
        RunFolderError: the checkpoint is damaged, is of another run, or cannot be written.
    """
    progress = Progress(None) if progress is None else progress
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = _State.start(network, source, objective, settings, seed, device)
        if checkpoint is not None and checkpoint.is_file():
            state.restore(load_checkpoint(checkpoint, identity or {}))
            progress.say(f"going on after epoch {len(state.losses)} of {settings.epochs} ({checkpoint})")
        with progress.stage("training", total=settings.epochs) as note:
            for epoch in range(len(state.losses), settings.epochs):
                _epoch(state, source, views, objective, settings, checkpoint)
                _look(state, source)
                if checkpoint is not None:
                    save_checkpoint(checkpoint, state.content(), identity or {})
                note(epoch + 1)
                note(f"epoch {epoch + 1} of {settings.epochs}, loss {state.losses[-1]:.4g}")
    return Trained(network.cpu().eval(), state.losses, state.spread)


@dataclass
class _State:
    """Everything that changes while training."""

    network: nn.Module
    predictor: nn.Module
    target: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    device: torch.device
    losses: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)

    @classmethod
    def start(
        cls, network: nn.Module, source: Source, objective: Objective, settings: TrainConfig, seed: int, device: str
    ) -> "_State":
        """Before the first step."""
        place = _moved(network, device)
        d = _width(network, source, place)
        byol = isinstance(objective, BYOL)
        predictor = (MLP(d, settings.predictor, d) if byol else nn.Identity()).to(place)
        target = copy.deepcopy(network) if byol else nn.Identity()
        for p in target.parameters():
            p.requires_grad_(False)
        optimiser = torch.optim.AdamW(
            [*network.parameters(), *predictor.parameters()], lr=settings.lr, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _factor(settings, _steps(len(source), settings)))
        generator = torch.Generator().manual_seed(seed)
        return cls(network, predictor, target, optimiser, schedule, generator, place)

    @property
    def _parts(self) -> dict[str, Any]:
        names = ("network", "predictor", "target", "optimiser", "schedule")
        return {name: getattr(self, name) for name in names}

    def content(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {
            **{name: part.state_dict() for name, part in self._parts.items()},
            "generator": self.generator.get_state(), "global": torch.get_rng_state(),
            "losses": self.losses, "spread": self.spread,
        }  # fmt: skip

    def restore(self, content: dict[str, Any]) -> None:
        """Back to where `content` was taken."""
        for name, part in self._parts.items():
            part.load_state_dict(content[name])
        self.generator.set_state(content["generator"])
        torch.set_rng_state(content["global"])
        self.losses, self.spread = list(content["losses"]), list(content["spread"])


def try_out(network: nn.Module, source: Source, views: Any, device: str) -> None:
    """Views and network on two samples, so that what cannot be trained is known before anything is written.

    Raises:
        ConfigError, DataError: there is no such device, or the views do not take the samples.
        EncoderError: the network does not map (B, ...) to (B, d).
    """
    with torch.random.fork_rng(devices=[]):
        samples, generator = source.batch(range(min(2, len(source)))), torch.Generator().manual_seed(0)
        for view in pair_of(views):
            view(samples, generator)
        _width(network, source, _moved(network, device))


def _moved(network: nn.Module, device: str) -> torch.device:
    """The device that the network was put on."""
    try:
        place = torch.device(device)
        network.to(place).train()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={device!r}: {error}") from error
    return place


def _width(network: nn.Module, source: Source, device: torch.device) -> int:
    """d of (B, ...) -> (B, d)."""
    samples = source.batch(range(min(2, len(source)))).to(device)
    network.eval()
    try:
        with torch.no_grad():
            out = network(samples)
    except (RuntimeError, TypeError, ValueError) as error:
        raise EncoderError(f"the encoder does not take samples of shape {tuple(samples.shape[1:])}: {error}") from error
    network.train()
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(samples):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise EncoderError(f"the encoder maps {tuple(samples.shape)} to {found}; expected (B, d). Flatten or pool it.")
    return out.shape[1]


def _batches(order: Tensor, settings: TrainConfig) -> list[Tensor]:
    """Batches of a permutation; a last one of less than half the size is left out."""
    size = min(settings.batch_size, len(order))
    return [batch for batch in order.split(size) if 2 * len(batch) >= size]


def _steps(n: int, settings: TrainConfig) -> int:
    """Steps of the whole run."""
    return settings.epochs * len(_batches(torch.arange(n), settings))


def _factor(settings: TrainConfig, steps: int) -> Callable[[int], float]:
    """step ↦ learning rate as a share of the setting."""
    rising = int(settings.warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, steps - rising)
        return 1.0 if settings.schedule == "constant" else (1 + math.cos(math.pi * min(1.0, done))) / 2

    return factor


def _epoch(
    state: _State, source: Source, views: Any, objective: Objective, settings: TrainConfig, checkpoint: Path | None
) -> None:
    """One pass over the samples."""
    first, second = pair_of(views)
    total, seen = 0.0, 0
    for step, index in enumerate(_batches(torch.randperm(len(source), generator=state.generator), settings)):
        positions = index.tolist()
        x = source.batch(positions)
        check_finite(x, [str(source.ids[i]) for i in positions])
        x = x.to(state.device)
        a, b = first(x, state.generator), second(x, state.generator)
        loss = _loss(state, objective, a, b)
        value = float(loss.detach())
        if not math.isfinite(value):
            kept = "there is no checkpoint yet" if checkpoint is None or not state.losses else (
                f"the last good checkpoint is that of epoch {len(state.losses)}, {checkpoint}"
            )  # fmt: skip
            raise NonFiniteError(
                f"the loss is {value} in epoch {len(state.losses) + 1}, step {step + 1} (learning rate "
                f"{state.schedule.get_last_lr()[0]:.3g}); {kept}. Lower train.lr, or look at the samples' ranges."
            )
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        state.schedule.step()
        with torch.no_grad():
            for slow, fast in zip(state.target.parameters(), state.network.parameters(), strict=False):
                slow.lerp_(fast, 1 - settings.momentum)
            for slow, fast in zip(state.target.buffers(), state.network.buffers(), strict=False):
                slow.copy_(fast)
        total, seen = total + value * len(index), seen + len(index)
    state.losses.append(total / seen)


def _loss(state: _State, objective: Objective, a: Tensor, b: Tensor) -> Tensor:
    """The objective's loss of two views."""
    if not isinstance(objective, BYOL):
        return objective.loss(state.network(a), state.network(b))
    with torch.no_grad():
        t_a, t_b = state.target(a), state.target(b)
    one, other = (state.predictor(state.network(x)) for x in (a, b))
    return (objective.loss(one, t_b) + objective.loss(other, t_a)) / 2


def _look(state: _State, source: Source) -> None:
    """Note the embeddings' spread; warn the first time that they collapse."""
    state.network.eval()
    with torch.no_grad():
        z = state.network(source.batch(range(min(LOOKED_AT, len(source)))).to(state.device)).double()
    state.network.train()
    size = z.square().mean().sqrt()
    if not torch.isfinite(size):
        raise NonFiniteError(
            f"the embeddings are not finite after epoch {len(state.losses)}; the checkpoint of the epoch before stays. "
            "Lower train.lr."
        )
    spread = float(z.std(0, correction=0).mean() / size.clamp_min(torch.finfo(z.dtype).tiny))
    if spread < COLLAPSED and all(s >= COLLAPSED for s in state.spread):
        warn(
            f"the embeddings have collapsed after epoch {len(state.losses)}: their columns' standard deviation is "
            f"{spread:.2g} of their size, so that all samples look alike. Take other views, a smaller learning rate, "
            "or an objective that keeps variance (VICReg, Barlow Twins)."
        )
    state.spread.append(spread)
