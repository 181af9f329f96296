"""The data sets: samples, labels for evaluation alone, views, networks, and how they differ from the paper's."""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from krepes import NTK
from krepes.data import ArraySource, Scarf, ShiftNoise, Source, TableSchema, TableSource, reference
from krepes.data.views.images import ImageView
from krepes.encoders import MLP, SmallCNN
from krepes.objectives import BYOL, BarlowTwins, Objective, SimCLR, SpectralContrastive, VICReg
from krepes.pretrain import TrainConfig

SPLIT = 0  # seed of the split into training and test samples
OBJECTIVES: dict[str, Objective] = {
    "barlow_twins": BarlowTwins(weight=5e-3),
    "vicreg": VICReg(),
    "simclr": SimCLR(temperature=0.5, batch_size=512),
    "byol": BYOL(),
    "spectral_contrastive": SpectralContrastive(),
}
TABLE = NTK("sketch", sketch=8)


@dataclass(frozen=True)
class Case:
    """One data set.

    Attributes:
        training, test: samples without labels.
        labels, test_labels: their classes (n,), (t,); only `Auditor.evaluate` and the baselines' hits see them.
        network: makes an untrained network.
        settings: of the training.
        note: what is not as in the paper.
        groups: of training and test samples, where groups are compared, and their names.
    """

    name: str
    title: str
    training: Source
    test: Source
    labels: np.ndarray
    test_labels: np.ndarray
    views: Any
    network: Callable[[], nn.Module]
    settings: TrainConfig
    landmarks: int
    kernel: NTK
    note: str
    groups: tuple[np.ndarray, np.ndarray, tuple[str, ...]] | None = None

    def quick(self) -> "Case":
        """A small piece, to see that everything runs."""
        from krepes.data.source import Subset

        few = np.arange(min(1000, len(self.training))), np.arange(min(200, len(self.test)))
        return replace(
            self, training=Subset(self.training, few[0]), test=Subset(self.test, few[1]), labels=self.labels[:1000],
            test_labels=self.test_labels[:200], settings=replace_epochs(self.settings, 1), landmarks=100,
            groups=self.groups and (self.groups[0][:1000], self.groups[1][:200], self.groups[2]),
        )  # fmt: skip


def arguments(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that all measurements on the data sets share; `quick` says what --quick does."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data sets; default KREPES_DATA or a download")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krepes-paper")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def work_folder(args: argparse.Namespace) -> Path:
    """Where trained encoders are kept."""
    work = args.work / ("quick" if args.quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    return work


def replace_epochs(settings: TrainConfig, epochs: int) -> TrainConfig:
    """The same settings for another number of epochs."""
    return settings.model_copy(update={"epochs": epochs})


def load(name: str, folder: Path | None = None) -> Case:
    """A data set by name; `folder` as `krepes.data.reference` takes it."""
    return CASES[name](folder)


# ------------------------------------------------------------------------ tables


def adult(folder: Path | None) -> Case:
    """32,561 rows of the census; the label is income."""
    (frame, label), (test, _) = (reference.adult(split, folder) for split in ("train", "test"))
    test = test.sample(4000, random_state=SPLIT).reset_index(drop=True)
    note = "32,561 original rows (the paper: enlarged to 1M), 4,000 seeded rows of adult.test"
    return _table("adult", "Adult", frame, test, label, 15, note)


def covtype(folder: Path | None) -> Case:
    """Forest cover types; seven classes."""
    note = "30,000 rows of the 109,745 that the form `parts` holds (the paper: enlarged to 1M), 4,000 others"
    return _table("covtype", "CoverType", *_split(reference.covtype(folder)), 15, note)


def higgs(folder: Path | None) -> Case:
    """Particle collisions; signal or background."""
    note = "30,000 rows of 35,298 (the paper: enlarged to 1M), 4,000 others"
    return _table("higgs", "HIGGS", *_split(reference.higgs(folder)), 15, note)


def _split(table: reference.LabelledTable) -> tuple[Any, Any, str]:
    order = np.random.default_rng(SPLIT).permutation(len(table.frame))
    parts = (table.frame.iloc[i].reset_index(drop=True) for i in (order[:30_000], order[30_000:34_000]))
    return *parts, table.label


def _table(name: str, title: str, frame: Any, test: Any, label: str, epochs: int, note: str) -> Case:
    schema = TableSchema.fit(frame, label=label)
    training = TableSource(frame, schema)
    return Case(
        name, title, training, TableSource(test, schema, [f"test-{i}" for i in range(len(test))]),
        frame[label].astype(str).to_numpy(), test[label].astype(str).to_numpy(), Scarf.of_table(training, rate=0.3),
        lambda: MLP(schema.width, (256, 256), 64), TrainConfig(epochs=epochs, batch_size=512), 1000, TABLE, note,
    )  # fmt: skip


# ------------------------------------------------------------------------ images


def mnist(folder: Path | None) -> Case:
    """Handwritten digits."""
    parts = [reference.mnist(split, folder) for split in ("train", "test")]
    note = "a small CNN on 10,000 seeded images of 60,000, 2,000 test images; shifts, noise and contrast as views"
    views = ShiftNoise(max_shift=3, std=0.1, contrast=0.3)
    return _images("mnist", "MNIST", parts, (10_000, 2_000), views, lambda: SmallCNN(1, (16, 32), 32), 20, note)


def cifar10(folder: Path | None) -> Case:
    """Small photographs, ten classes."""
    parts = [reference.cifar10(split, folder) for split in ("train", "test")]
    note = f"{SMALLER}, {FEWER[0]:,} seeded images of 50,000, {FEWER[1]:,} test images"
    return _images("cifar10", "CIFAR-10", parts, FEWER, ImageView(scale=(0.2, 1.0)), _cnn, 10, note)


def fairface(folder: Path | None) -> Case:
    """Faces of seven groups, made as small as CIFAR-10's pictures; they never leave this process."""
    parts = [_faces(folder, split) for split in ("train", "val")]
    note = f"{SMALLER}, {FEWER[0]:,} seeded images at 32 × 32, {FEWER[1]:,} of the validation split"
    case = _images("fairface", "FairFace", parts, FEWER, ImageView(scale=(0.4, 1.0), hue=0.05), _cnn, 10, note)
    return replace(case, groups=(case.labels, case.test_labels, parts[0].classes))


SMALLER, FEWER = "a CNN of three layers instead of a ResNet (no GPU)", (6_000, 1_000)


def _cnn() -> nn.Module:
    return SmallCNN(3, (16, 32, 64), 64)


def _images(name: str, title: str, parts: Any, sizes: tuple[int, int], views: Any, network: Any, epochs: int,
            note: str) -> Case:  # fmt: skip
    generator, sources, labels = np.random.default_rng(SPLIT), [], []
    for part, size, prefix in zip(parts, sizes, ("image", "test"), strict=True):
        chosen = torch.as_tensor(np.sort(generator.permutation(len(part.images))[:size]))
        x = part.images[chosen].float() / 255
        sources.append(ArraySource(x, ids=[f"{prefix}-{i}" for i in chosen.tolist()], kind="image"))
        labels.append(part.labels[chosen].numpy())
    kernel = NTK("sketch", sketch=4)
    return Case(name, title, *sources, *labels, views, network, TrainConfig(epochs=epochs, batch_size=256), 500, kernel,
                note)  # fmt: skip


def _faces(folder: Path | None, split: str) -> reference.LabelledImages:
    """Packed JPEGs of 64 × 64, made 32 × 32, with each face's group: fairface/fairface64_SPLIT_jpegpack.npz."""
    import io
    import itertools
    import os

    from PIL import Image

    place = folder or Path(os.environ["KREPES_DATA"])
    with np.load(place / "fairface" / f"fairface64_{split}_jpegpack.npz", allow_pickle=False) as pack:
        blob, starts = pack["blob"].tobytes(), pack["offsets"].tolist()
        labels, names = pack["race"].astype(np.int64), tuple(map(str, pack["race_names"]))
    opened = (Image.open(io.BytesIO(blob[a:b])).convert("RGB") for a, b in itertools.pairwise(starts))
    files = [picture.resize((32, 32), Image.Resampling.BOX) for picture in opened]
    images = torch.from_numpy(np.stack([np.asarray(f) for f in files]).transpose(0, 3, 1, 2).copy())
    return reference.LabelledImages(images, torch.from_numpy(labels), names)


CASES: dict[str, Callable[[Path | None], Case]] = {
    "adult": adult, "covtype": covtype, "higgs": higgs, "mnist": mnist, "cifar10": cifar10, "fairface": fairface,
}  # fmt: skip
