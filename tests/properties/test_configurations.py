"""Every two values of the configuration's options, together in at least one whole audit by `krepes audit`.

A run takes about a second. By default a seeded part of the configurations runs; `KREPES_ALL_CONFIGURATIONS=1` runs all.
"""

import os
import random
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

import krepes
from krepes.cli import app
from krepes.data import TableSchema
from krepes.errors import KrepesError
from krepes.stored import StoredRun
from tests.properties.blocks import Blocks
from tests.properties.covering import covering, pairs_of

N, SHARE = 64, 8  # samples; configurations of the part that always runs
WIDTH = 2  # of the encoded table

OPTIONS = {
    "objective.name": ["barlow_twins", "vicreg", "simclr", "byol", "spectral_contrastive"],
    "landmarks.sampler": ["kmeans++", "leverage", "rpcholesky", "uniform"],
    "landmarks.space": ["kernel", "input"],
    "landmarks.m": [None, 13],
    "landmarks.rows": ["samples", "views"],
    "views": [{"name": "gaussian", "std": 0.2}, {"name": "scarf", "rate": 0.3}, {"name": "mixup"},
              {"pair": [{"name": "identity"}, {"name": "numeric_noise"}]},
              {"compose": [{"name": "feature_dropout"}, {"name": "gaussian"}]}],
    "kernel.variant": ["trace", "pseudo", "sketch"],
    "kernel.params": [None, "head", "last_block", ["*weight"]],
    "kernel.center": [True, False],
    "kernel.cosine": [True, False],
    "kernel.rescale": [None, "mean"],
    "kernel.project": [None, 16],
    "kernel.contractions": [True, False],
    "newton.ridge": ["coefficients", "rkhs"],
    "newton.damping": ["auto", 0.1],
    "newton.relative": [True, False],
    "newton.steps": [1, 2],
    "newton.line_search": [False, True],
    "newton.max_iter": [200, 2],
    "newton.curvature_samples": [None, 24],
    "dtype": ["float32", "float64"],
    "engine.store": ["float32", "float16", "bfloat16", "recompute"],
    "engine.precision": ["float32", "tf32", "bfloat16"],
    "engine.memory": [None, "8MiB"],
    "n_components": [None, 2],
    "data.label": [None, "job"],
    "audit.concepts": [{}, {"old": "age > 0", "rich": {"positive": "pay > 0.5", "negative": "pay < -0.5"}}],
    "audit.counterfactuals": [{}, {"few": 2, "young": "age < -1"}],
    "audit.automatic_concepts": [True, False],
    "audit.features": [None, [], ["age"]],
    "audit.refits": [0, 2],
    "audit.attribution": [0, 400],
    "audit.evaluate": [True, False],
    "trust.refits": [True, False],
    "report.explain": [2, ["row-0", "row-9"]],
    "report.top_k": [1, 50],
    "report.redact": [[], ["age"]],
    "report.thumbnails": [True, False],
}  # fmt: skip


def possible(said: dict) -> bool:
    """Whether these values go together; the refusals of the others are tests of their own, below."""
    return said.get("dtype") != "float64" or said.get("engine.precision", "float32") == "float32"


PLACES = covering(OPTIONS, possible)
CONFIGURATIONS = [{name: OPTIONS[name][i] for name, i in one.items()} for one in PLACES]
WHOLE = bool(os.environ.get("KREPES_ALL_CONFIGURATIONS"))
CHOSEN = CONFIGURATIONS if WHOLE else random.Random(0).sample(CONFIGURATIONS, SHARE)


def as_content(values: dict) -> dict:
    """The configuration file's content; None leaves a key out."""
    content = {
        "encoder": {"factory": "tests.properties.blocks:Blocks", "args": {"n_in": WIDTH}, "weights": "w.safetensors"},
        "data": {"table": "t.csv", "schema": "schema.json"},
        "audit": {"points": 30},
    }  # fmt: skip
    if values.get("kernel.variant") == "sketch":
        content["kernel"] = {"sketch": 2}
    for key, value in values.items():
        section, _, name = key.partition(".")
        if value is not None:
            content = content | {section: content.get(section, {}) | {name: value} if name else value}
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, its schema and an encoder's weights."""
    place = tmp_path_factory.mktemp("configurations")
    rng = np.random.default_rng(0)
    age, pay = rng.normal(size=(2, N))
    frame = pd.DataFrame({"age": age, "pay": pay + age, "job": rng.choice(["clerk", "pilot", "cook"], N)})
    frame.to_csv(place / "t.csv", index=False)
    schema = TableSchema.fit(frame[["age", "pay"]])
    schema.save(place / "schema.json")
    save_file(Blocks(WIDTH).state_dict(), place / "w.safetensors")
    return place


def audited(folder, name: str, content: dict):
    """The result of `krepes audit`, and the run folder."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return CliRunner().invoke(
        app, ["audit", str(folder / f"{name}.yaml"), "-o", str(folder / name), "-q"]
    ), folder / name


def test_every_pair_of_options_stands_in_a_configuration():
    found = {((a, one[a]), (b, one[b])) for one in PLACES for a, b in combinations(OPTIONS, 2)}
    assert found == pairs_of(OPTIONS, possible)
    assert len(found) == 4016
    assert all(map(possible, CONFIGURATIONS))


@pytest.mark.parametrize("values", CHOSEN, ids=[f"configuration-{CONFIGURATIONS.index(c)}" for c in CHOSEN])
def test_a_configuration_makes_a_whole_audit(folder, values):
    name = f"run-{CONFIGURATIONS.index(values)}"
    result, run = audited(folder, name, as_content(values))
    assert result.exception is None, f"{values}\n{result.output}\n{result.exception!r}"
    stored = StoredRun.open(run)
    assert stored.manifest["status"] == "complete"
    assert stored.problems == {}
    influence = pd.read_parquet(run / "influence.parquet")
    m = values["landmarks.m"] or 8
    assert len(influence) == N * min(values["report.top_k"], m)
    assert np.isfinite(influence[["influence", "contribution"]]).all(axis=None)
    assert np.isfinite(pd.read_parquet(run / "points.parquet")[["x", "y"]]).all(axis=None)
    assert "NaN" not in (run / "trust.json").read_text()
    if values["report.redact"]:
        assert not [c for c in pd.read_parquet(run / "explained.parquet").columns if c == "data.age"]
    f = krepes.load(run, Blocks(WIDTH).eval()).transform(torch.randn(3, WIDTH, dtype=torch.float32))
    assert f.shape == (3, values["n_components"] or 3)
    assert torch.isfinite(f).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float64", "engine.precision": "bfloat16"}, "needs dtype=torch.float32"),
        ({"dtype": "float64", "engine.precision": "tf32"}, "needs dtype=torch.float32"),
        ({"kernel.variant": "trace", "kernel.sketch": 4}, "expected a positive number with kernel 'sketch'"),
        ({"engine.memory": "1KiB"}, "the smallest budget that works is"),
        ({"landmarks.m": N + 1}, "only 64 samples"),
        ({"n_components": 60, "landmarks.m": 13}, "below the 60 dimensions"),
        ({"views": {"name": "simclr"}}, "are of images"),
        ({"views": {"name": "token_dropout", "rate": 0.1, "pad_id": 0}}, "are of tokens"),
        ({"objective.temperature": 0.5}, "unknown setting 'temperature'"),
        ({"newton.tol": None, "newton.damping": "best"}, "expected a positive number or 'auto'"),
        ({"data.label": "age"}, "labels never reach the encoder"),
        ({"audit.features": ["salary"]}, "salary"),
        ({"report.redact": ["salary"]}, "does not have"),
        ({"report.explain": ["row-99"]}, "row-99"),
        ({"audit.concepts": {"old": "age > 40"}}, "selects no sample"),
        ({"trust.fidelity": [0.1, 0.5]}, "not above"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused_in_words(folder, changes, message):
    plain = {"objective.name": "vicreg", "views": {"name": "gaussian"}, "audit.refits": 0, "audit.attribution": 0}
    result, _ = audited(folder, f"refused-{abs(hash(str(changes)))}", as_content({**plain, **changes}))
    assert isinstance(result.exception, SystemExit | KrepesError), result.exception
    assert message in " ".join(result.output.split())
