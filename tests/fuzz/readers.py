"""The readers of files that may be a stranger's, each with valid files that krepes wrote itself to start from."""

import io
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

import krepes
from krepes import gate
from krepes.audit.findings import AuditPlan
from krepes.config import read_config
from krepes.data import ArraySource, TableSchema
from krepes.data.arrays import load_array
from krepes.data.readers import read_table
from krepes.encoders import MLP
from krepes.encoders.reading import read_checkpoint
from krepes.encoders.recipe import Recipe
from krepes.errors import KrepesError, RunFolderError
from krepes.files import sha256_file
from krepes.run import run_audit
from krepes.stored import StoredRun

KNOWN = 'age,job,"the note"\n31,clerk,"a ""quoted"" word"\n?,pilot,\n40,"two\nlines",3e4\n'


@dataclass(frozen=True)
class Reader:
    """What reads a file, and files that it reads.

    Attributes:
        read: a folder of its own and the bytes ↦ nothing; KrepesError refuses the bytes, anything else is a bug.
        seeds: valid files.
        dictionary: words of the format, for a fuzzer.
    """

    read: Callable[[Path, bytes], object]
    seeds: Callable[[], list[bytes]]
    dictionary: tuple[str, ...] = ()


def refused(reader: Reader, folder: Path, content: bytes) -> str | None:
    """The message that refuses the bytes; None where they are read. Whatever is no KrepesError goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.read(folder, content)
        except KrepesError as error:
            return str(error)
    return None


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ------------------------------------------------------------- text files


def recipe(folder: Path, content: bytes) -> None:
    read = Recipe.load(put(folder / "recipe.yaml", content))
    assert Recipe.load(read.save(folder / "again.yaml")) == read


def recipes() -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "recipe.yaml"
        found = []
        for fields in (
            {"preset": "lightly", "checkpoint": "last.ckpt", "space": "projection"},
            {
                "container": "state_dict.model", "arch": {"name": "krepes:ResNet18", "identity": ["fc"]},
                "head": "inferred", "objective": {"name": "vicreg", "std_weight": 25.0},
                "views": {"compose": [{"name": "gaussian", "std": 0.1}]},
                "preprocess": {"size": 32, "mean": [0.5], "std": [0.25], "crop": 0.875}, "allow": ["fc.*"],
                "rename": {"a.": "b."}, "input": {"shape": [3, 32, 32]}, "weights_sha256": "0" * 64,
                "fingerprint": {"values": [0.25, -1e-3], "size": 2.0}, "remarks": ["of 2026"],
            },
        ):  # fmt: skip
            found.append(Recipe.model_validate(fields).save(path).read_bytes())
    return found


def configuration(folder: Path, content: bytes) -> None:
    read_config(put(folder / "audit.yaml", content))


def configurations() -> list[bytes]:
    return [
        b"encoder: {factory: 'krepes.encoders:MLP', args: {n_in: 4, n_out: 3}, weights: w.safetensors}\n"
        b"data: {array: x.npy, rows: 80}\nviews: {name: gaussian, std: 1e-1}\nobjective: {name: byol}\n"
        b"landmarks: {sampler: uniform, m: 9}\nnewton: {damping: 0.1}\nengine: {memory: 1GiB}\n",
        b"title: t\nencoder:\n  recipe: encoder\ndata:\n  table: t.csv\n  schema: s.json\n  missing: ['?']\n"
        b"audit:\n  concepts:\n    old: age > 40\n    a: {positive: b == 1}\n  counterfactuals: {few: 3}\n"
        b"report: {explain: [a, b], redact: [sex]}\ndtype: float64\n",
    ]


def schema(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        TableSchema.load(put(folder / f"schema{suffix}", content))

    return read


@cache
def schemas(suffix: str) -> list[bytes]:
    frame = pd.DataFrame({"age": [1.0, 2.0, None], "job": pd.Categorical(["a", "b", "a"]), "ok": [True, False, True]})
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"schema{suffix}"
        TableSchema.fit(frame).save(path)
        return [path.read_bytes()]


# ------------------------------------------------------------ tables, arrays


def table(folder: Path, content: bytes) -> None:
    """The first two bytes choose how it is read."""
    how, content = content[:2].ljust(2, b"\0"), content[2:]
    read_table(
        put(folder / "t.csv", content),
        columns=("a", "b", "c") if how[0] & 1 else None,
        skip_lines=how[0] >> 1 & 1,
        text=("job",) if how[0] & 4 else (),
        on_error="skip" if how[0] & 8 else "raise",
        encoding=("utf-8", "latin-1", "utf-16", "cp1252")[how[1] & 3],
        separator=(",", ";", "\t", "|")[how[1] >> 2 & 3],
    )


def tables() -> list[bytes]:
    return [
        b"\0\0" + KNOWN.encode(),
        b"\x08\0" + KNOWN.encode() + b"1,2\n",
        b"\x02\x05" + KNOWN.replace(",", ";").encode("latin-1"),
        b"\x04\x02" + KNOWN.encode("utf-16"),
    ]


def array(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        source = load_array(put(folder / name, content), member="x" if name.endswith("npz") else None)
        source.batch([0, len(source) - 1])

    return read


def npz() -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        save(buffer := io.BytesIO(), x=np.arange(12, dtype=np.float32).reshape(4, 3), y=np.ones(2))
        found.append(buffer.getvalue())
    return found


def npy() -> list[bytes]:
    found = []
    for values in (np.eye(3, dtype=">f8"), np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))):
        np.save(buffer := io.BytesIO(), values)
        found.append(buffer.getvalue())
    return found


def idx() -> list[bytes]:
    return [b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(6), b"\0\0\x0d\x01\0\0\0\x01" + b"\x3f\x80\0\0"]


def checkpoint(folder: Path, content: bytes) -> None:
    read_checkpoint(put(folder / "last.ckpt", content))


def checkpoints() -> list[bytes]:
    state = {"state_dict": {"a.weight": torch.ones(2, 2)}, "epoch": 3}
    torch.save(state, new := io.BytesIO())
    torch.save(state, old := io.BytesIO(), _use_new_zipfile_serialization=False)
    return [new.getvalue(), old.getvalue(), run_files()["model.safetensors"]]


# ----------------------------------------------------------------- run folder


def network() -> MLP:
    torch.manual_seed(0)
    return MLP(4, (8,), 3).eval()


@cache
def run_files() -> dict[str, bytes]:
    """A small complete run, file by file."""
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    frame = pd.DataFrame({"age": np.arange(80.0), "job": ["a", "b"] * 40})
    settings = {"landmarks": 10, "newton": krepes.Newton(damping=0.1), "trust": krepes.Trust(refits=False)}
    plan = AuditPlan(automatic_concepts=False, points=30, refits=0, attribution=0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        auditor = krepes.Auditor(network(), "barlow_twins", **settings)
        source = ArraySource(x, [f"s{i}" for i in range(80)], frame)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_audit(
                auditor, source, lambda b, g: b + 0.2 * torch.randn(b.shape, generator=g), folder, {},
                Console(quiet=True), title="t", command="c", explain=1, plan=plan,
            )  # fmt: skip
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


KEPT = ("trust.json", "points.parquet", "feature_gap.parquet", "pictures.parquet")


@cache
def manifest() -> dict:
    """Of the run with the files of `KEPT` alone, so that checksums take no time."""
    found = json.loads(run_files()["manifest.json"])
    return found | {"outputs": {name: found["outputs"][name] for name in KEPT if name in found["outputs"]}}


def in_a_run(name: str, look: Callable[[Path], object], dictionary: tuple[str, ...] = ()) -> Reader:
    """A reader of a run folder in which one file holds the bytes and, unless it is the manifest, its checksum fits."""

    def read(folder: Path, content: bytes) -> None:
        place = folder / f"run-{name}"
        if not place.exists():
            place.mkdir()
            for other in ("model.safetensors", *manifest()["outputs"]):
                put(place / other, run_files()[other])
        path = put(place / name, content)
        if name != "manifest.json":
            fitting = json.loads(json.dumps(manifest()))
            sums = fitting["sha256"] if name in fitting["sha256"] else fitting["outputs"]
            sums[name] = sha256_file(path)
            put(place / "manifest.json", json.dumps(fitting).encode())
        look(place)

    def seeds() -> list[bytes]:
        return [json.dumps(manifest()).encode() if name == "manifest.json" else run_files()[name]]

    return Reader(read, seeds, dictionary)


def pieces(*names: str) -> Callable[[Path], None]:
    """What report and app read of the manifest and these files; what is damaged becomes a sentence of `problems`."""

    def look(place: Path) -> None:
        run = StoredRun.open(place)
        _ = run.redacted, run.thumbnails, run.section("config"), run.problems
        if "trust.json" in names:
            _ = run.trust
        if "points.parquet" in names:
            _ = run.columns, run.positions(["s0", "s7"]), run.cells([0, 7]), run.table("points.parquet", ("id",))
        if "feature_gap.parquet" in names:
            run.table("feature_gap.parquet", expected=False)
        if "model.safetensors" in names:
            run.tensor("dA")
        if run.problems:
            raise RunFolderError("; ".join(run.problems.values()))

    return look


def each_way(*looks: Callable[[Path], object]) -> Callable[[Path], None]:
    """All of them, whatever the others refuse."""

    def look(place: Path) -> None:
        errors = []
        for one in looks:
            try:
                one(place)
            except KrepesError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    return look


def loaded(place: Path) -> None:
    krepes.load(place, encoder=network())


def checked(place: Path) -> None:
    gate.check(place, max_gap={"job": 0.5})


TAGS = ("!!int ", "!!float ", "!!timestamp ", "!!bool ", "0x", "1:60", "2001-01-01", "&a ", "*a", "<<: ")
JSON = ("NaN", "null", "1e999", "[[", "-1", "\\ud800")
READERS = {
    "recipe": Reader(recipe, recipes, TAGS),
    "configuration": Reader(configuration, configurations, TAGS),
    "schema-json": Reader(schema(".json"), lambda: schemas(".json"), JSON),
    "schema-yaml": Reader(schema(".yaml"), lambda: schemas(".yaml"), TAGS),
    "csv": Reader(table, tables, ('"', '""', "\r\n", "\r", "\ufeff", "\t")),
    "idx": Reader(array("x.idx"), idx),
    "npy": Reader(array("x.npy"), npy, ("'descr':", "'fortran_order':", "'shape':", "'|O'", "(")),
    "npz": Reader(array("x.npz"), npz, ("PK",)),
    "checkpoint": Reader(checkpoint, checkpoints, ("PK", "__metadata__", "dtype")),
    "manifest": in_a_run("manifest.json", each_way(pieces(), checked), JSON),
    "load": in_a_run("manifest.json", loaded, JSON),
    "trust": in_a_run("trust.json", each_way(pieces("trust.json"), checked), JSON),
    "points": in_a_run("points.parquet", pieces("points.parquet")),
    "gaps": in_a_run("feature_gap.parquet", each_way(pieces("feature_gap.parquet"), checked)),
    "model": in_a_run("model.safetensors", each_way(pieces("model.safetensors"), loaded), ("F64", "I64", "BF16")),
}  # fmt: skip
