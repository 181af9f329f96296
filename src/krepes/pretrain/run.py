"""A whole training run into a folder."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from krepes.config import build_data, build_views
from krepes.config.reading import resolve
from krepes.data import Source, TableSchema, read_table
from krepes.errors import RunFolderError
from krepes.files import one_writer, remove_unfinished
from krepes.pretrain.checkpoint import load_checkpoint
from krepes.pretrain.config import PretrainConfig, build_network, build_objective
from krepes.pretrain.outputs import OUTPUTS, data_section, plain_objective, write_outputs
from krepes.pretrain.training import Trained, train, try_out
from krepes.progress import Progress

CHECKPOINT = "checkpoint.pt"


def pretrain(
    config: PretrainConfig,
    folder: Path,
    output: Path | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> tuple[Trained, Source, np.ndarray | None]:
    """Train as a configuration says; goes on with a run that was interrupted.

    Writes `encoder.safetensors`, `recipe.yaml`, `audit.yaml`, for a table `schema.json`, and `checkpoint.pt`; those of
    a finished run that are there stay as they are.

    Args:
        folder: where the configuration's relative paths start.
        output: default the configuration's `output`, which starts at the working directory, not at `folder`.
        overwrite: begin anew where another run or other files stand; they go once everything that is needed is there.

    Returns:
        what was trained, the samples, and their classes (n,) or None, which the training has not seen.

    Raises:
        ConfigError, DataError: a setting or the data are not usable.
        NonFiniteError: the loss is not finite.
        RunFolderError: the folder holds another run, or files of these names that are not this run's, or it cannot be
            written.
    """
    output = Path(config.output) if output is None else output
    objective = build_objective(config)
    source, labels, schema = _samples(config, folder)
    network, described = build_network(config.encoder, source, config.seed)
    views = build_views(config.views, source)
    try_out(network, source, views, config.device)
    identity = _identity(config, folder, described.model_dump(), objective, source)
    with one_writer(output):
        remove_unfinished(output)
        for unfinished in output.glob(f".{CHECKPOINT}.*.tmp"):
            unfinished.unlink(missing_ok=True)
        if overwrite:
            for name in (CHECKPOINT, *OUTPUTS):
                (output / name).unlink(missing_ok=True)
        else:
            refuse_others(output, identity, config.train.epochs)
        trained = train(
            network, source, views, objective, config.train, config.seed, config.device, progress, output / CHECKPOINT,
            identity,
        )  # fmt: skip
        write_outputs(config, described, objective, trained, source, schema, folder, output)
    return trained, source, labels


def refuse_others(output: Path, identity: dict[str, Any], epochs: int) -> None:
    """Raise RunFolderError where files stand that this run has not written: all others come after its last epoch."""
    found = [name for name in OUTPUTS if (output / name).exists()]
    checkpoint = output / CHECKPOINT
    if checkpoint.exists():
        if len(load_checkpoint(checkpoint, identity)["losses"]) >= epochs:
            return
        why = "beside a checkpoint of this run that is not finished, so that this run cannot have written them"
    else:
        why = f"without {CHECKPOINT}, so that it cannot be told whether this run wrote them"
    if found:
        raise RunFolderError(
            f"{output} holds {', '.join(found)} {why}. Choose another folder with --output, or replace them with "
            "--overwrite."
        )


def _samples(config: PretrainConfig, folder: Path) -> tuple[Source, np.ndarray | None, TableSchema | None]:
    """The samples, their classes, and a table's schema, which is fitted unless one is given."""
    data = config.data
    if data.table is None:
        return *build_data(data, folder), None
    if data.schema_file is not None:
        schema = TableSchema.load(resolve(data.schema_file, folder))
    else:
        path = resolve(data.table, folder)
        text = [data.id] if data.id else []
        frame = read_table(
            path, data.columns, data.skip_lines, data.missing, text, data.encoding, data.separator, data.on_error
        )
        frame = frame.head(data.rows) if data.rows else frame
        schema = TableSchema.fit(frame.drop(columns=text), label=data.label)
    # another run may stand in the output folder: its schema is not touched before that is known
    with tempfile.TemporaryDirectory() as scratch:
        schema.save(Path(scratch) / "schema.json")
        given = data.model_copy(update={"schema_file": str(Path(scratch) / "schema.json")})
        return *build_data(given, folder), schema


def _identity(config: PretrainConfig, folder: Path, network: dict, objective: Any, source: Source) -> dict[str, Any]:
    """What must be equal for a checkpoint to be gone on from."""
    return {
        "data": data_section(config, folder),
        "samples": source.fingerprint(),
        "encoder": network,
        "views": config.views.model_dump(mode="json", exclude_unset=True),
        "objective": plain_objective(objective),
        "train": config.train.model_dump(mode="json"),
        "seed": config.seed,
        "device": config.device,
    }
