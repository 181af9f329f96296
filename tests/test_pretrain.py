"""The small trainer."""

import copy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from krepes import objectives
from krepes.cli.audits import audit as audit_verb
from krepes.cli.pretrain import pretrain as pretrain_verb
from krepes.config import build_encoder, build_source, read_config
from krepes.data import ArraySource, GaussianNoise
from krepes.demo import VIEWS, digits
from krepes.encoders import MLP, SmallCNN
from krepes.encoders.building import build
from krepes.encoders.recipe import Recipe
from krepes.errors import ConfigError, DataError, EncoderError, KrepesWarning, NonFiniteError, RunFolderError
from krepes.files import sha256_file
from krepes.pretrain import TrainConfig, pretrain, probe, read_pretrain_config, train
from krepes.pretrain.outputs import data_section
from krepes.pretrain.training import _batches, _factor


def table(folder: Path, n: int = 200) -> Path:
    """Two numbers that go together, a category that follows them, and a label."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal(n)
    frame = pd.DataFrame({
        "key": [f"k{i}" for i in range(n)],
        "a": hidden + 0.1 * rng.standard_normal(n),
        "b": hidden + 0.1 * rng.standard_normal(n),
        "c": np.where(hidden + 0.3 * rng.standard_normal(n) > 0, "high", "low"),
        "label": np.where(hidden > 0, "yes", "no"),
    })  # fmt: skip
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def config_file(folder: Path, **changes) -> Path:
    content = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"hidden": [16], "n_out": 8}},
        "data": {"table": "table.csv", "label": "label", "id": "key"},
        "views": {"name": "scarf", "rate": 0.3},
        "objective": {"name": "vicreg"},
        "train": {"epochs": 2, "batch_size": 64, "lr": 0.01},
        **changes,
    }
    path = folder / "pretrain.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
    return path


def run_in(folder: Path, output: str = "out", **changes):
    table(folder)
    return pretrain(read_pretrain_config(config_file(folder, **changes)), folder, folder / output)


def noisy(n: int = 192, dim: int = 6) -> ArraySource:
    generator = torch.Generator().manual_seed(0)
    return ArraySource(torch.randn(n, 2, generator=generator) @ torch.randn(2, dim, generator=generator))


def mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(6, [16], 8)


@pytest.mark.parametrize("name", sorted(objectives.BY_NAME))
def test_every_objective_lowers_its_loss(name):
    settings = TrainConfig(epochs=8, batch_size=64, lr=0.01)
    trained = train(mlp(), noisy(), GaussianNoise(0.3), objectives.by_name(name), settings)
    assert len(trained.losses) == 8
    assert trained.losses[-1] < trained.losses[0]


def test_two_epochs_on_digits_lower_the_loss():
    images, _ = digits()
    torch.manual_seed(0)
    network = SmallCNN(1, (8, 16), 8)
    trained = train(
        network, ArraySource(images[:512]), VIEWS, objectives.BarlowTwins(), TrainConfig(epochs=2, batch_size=64)
    )
    assert trained.losses[1] < trained.losses[0]
    assert not trained.network.training


def test_what_is_minimised_is_the_objectives_own_loss():
    class Counting(objectives.VICReg):
        calls = 0

        def loss(self, z_a, z_b):
            Counting.calls += 1
            return super().loss(z_a, z_b)

    train(mlp(), noisy(), GaussianNoise(0.3), Counting(), TrainConfig(epochs=2, batch_size=64))
    assert Counting.calls == 6


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    settings = TrainConfig(epochs=1, batch_size=64)
    weights = [
        train(mlp(), noisy(), GaussianNoise(0.3), objectives.VICReg(), settings, seed).network.state_dict()
        for seed in (1, 1, 2)
    ]
    first = next(iter(weights[0]))
    assert torch.equal(weights[0][first], weights[1][first])
    assert not torch.equal(weights[0][first], weights[2][first])


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(MLP(6, [4], 4), noisy(), GaussianNoise(0.3), objectives.BYOL(), TrainConfig(epochs=1))
    torch.manual_seed(5)
    assert torch.equal(before, torch.get_rng_state())


class Stopping:
    """Views that are interrupted at a given call."""

    def __init__(self, at: int):
        self.left, self.inner = at, GaussianNoise(0.3)

    def __call__(self, batch, generator):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.inner(batch, generator)


def dropping() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 8))


@pytest.mark.parametrize("name", sorted(objectives.BY_NAME))
def test_an_interrupted_run_that_goes_on_ends_with_the_same_bits(name, tmp_path):
    settings = TrainConfig(epochs=4, batch_size=64, schedule="cosine", warmup=0.2)
    objective, path = objectives.by_name(name), tmp_path / "checkpoint.pt"
    whole = train(dropping(), noisy(), GaussianNoise(0.3), objective, settings, 3)
    with pytest.raises(KeyboardInterrupt):
        train(dropping(), noisy(), Stopping(15), objective, settings, 3, checkpoint=path)
    resumed = train(dropping(), noisy(), GaussianNoise(0.3), objective, settings, 3, checkpoint=path)
    assert resumed.losses == whole.losses
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key


KILLED = """
import os, sys
from pathlib import Path
import torch
from krepes.pretrain import pretrain, read_pretrain_config

folder, save, calls = Path(sys.argv[1]), torch.save, []

def half(content, path):
    save(content, path)
    calls.append(path)
    if len(calls) == 3:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), 9)

torch.save = half
pretrain(read_pretrain_config(folder / "pretrain.yaml"), folder, folder / "killed")
"""


def test_a_process_killed_while_it_writes_and_started_again_ends_with_the_same_bits(tmp_path):
    table(tmp_path)
    path = config_file(tmp_path, train={"epochs": 5, "batch_size": 64, "lr": 0.01})
    whole, _, _ = pretrain(read_pretrain_config(path), tmp_path, tmp_path / "whole")
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "encoder.safetensors").exists()
    assert len(torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["content"]["losses"]) == 2
    resumed, _, _ = pretrain(read_pretrain_config(path), tmp_path, tmp_path / "killed")
    assert resumed.losses == whole.losses
    one, other = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not list((tmp_path / "killed").glob(".*.tmp"))


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path):
    run_in(tmp_path)
    before = {p.name: sha256_file(p) for p in (tmp_path / "out").iterdir()}
    with pytest.raises(RunFolderError, match=r"seed: 0 there, 7 now.*\n.*--overwrite"):
        run_in(tmp_path, seed=7)
    with pytest.raises(RunFolderError, match="samples: "):
        run_in(tmp_path, data={"table": "table.csv", "label": "label", "id": "key", "rows": 100})
    assert {p.name: sha256_file(p) for p in (tmp_path / "out").iterdir()} == before


def test_overwrite_begins_anew(tmp_path):
    run_in(tmp_path)
    config = read_pretrain_config(config_file(tmp_path, seed=7))
    pretrain(config, tmp_path, tmp_path / "out", overwrite=True)
    assert yaml.safe_load((tmp_path / "out" / "audit.yaml").read_text())["seed"] == 7


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04broken"])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"checkpoint\.pt is no checkpoint.*--overwrite"):
        train(mlp(), noisy(), GaussianNoise(), objectives.VICReg(), checkpoint=tmp_path / "checkpoint.pt")


def test_a_pickle_with_code_in_it_is_never_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"content": Hostile(), "identity": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunFolderError, match="no checkpoint"):
        train(mlp(), noisy(), GaussianNoise(), objectives.VICReg(), checkpoint=tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    path, calls = tmp_path / "checkpoint.pt", []

    def views(batch, generator):
        calls.append(1)
        return batch * (float("inf") if len(calls) > 8 else 1) + 0.1 * torch.randn(batch.shape, generator=generator)

    with pytest.raises(
        NonFiniteError, match=r"(?s)loss is nan in epoch 2, step 2 .*epoch 1, .*checkpoint\.pt.*train\.lr"
    ):
        train(mlp(), noisy(), views, objectives.VICReg(), TrainConfig(epochs=3, batch_size=64), checkpoint=path)
    kept = torch.load(path, weights_only=True)["content"]
    assert len(kept["losses"]) == 1
    assert all(torch.isfinite(value).all() for value in kept["network"].values())


def test_samples_that_are_not_finite_are_named():
    x = torch.randn(64, 6)
    x[17, 2] = float("nan")
    source = ArraySource(x, ids=[f"sample-{i}" for i in range(64)])
    with pytest.raises(NonFiniteError, match="sample-17"):
        train(mlp(), source, GaussianNoise(), objectives.VICReg())


def test_embeddings_that_collapse_are_noticed():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.constant = nn.Parameter(torch.tensor(1e-6)), nn.Parameter(torch.ones(8))

        def forward(self, x):
            return self.constant + self.scale * x.sum(1, keepdim=True)

    with pytest.warns(KrepesWarning, match="collapsed after epoch 1") as caught:
        trained = train(Flat(), noisy(), GaussianNoise(), objectives.BYOL(), TrainConfig(epochs=3, lr=1e-9))
    assert len([w for w in caught if w.category is KrepesWarning]) == 1
    assert max(trained.spread) < 0.01


def test_byols_gradient_does_not_reach_the_target():
    network = mlp()
    seen = []
    network.register_forward_hook(lambda _module, _args, out: seen.append(out.requires_grad))
    train(network, noisy(64), GaussianNoise(), objectives.BYOL(), TrainConfig(epochs=1, batch_size=64))
    # the copy has the hook, too: one look at the width, two targets, two predictions, one look at the spread
    assert seen == [False, False, False, True, True, False]


def test_a_network_of_another_input_or_output_is_refused():
    with pytest.raises(EncoderError, match=r"does not take samples of shape \(6,\)"):
        train(MLP(5, [4], 4), noisy(), GaussianNoise(), objectives.VICReg())
    with pytest.raises(EncoderError, match=r"\(2, 6, 1\); expected \(B, d\)"):
        train(nn.Unflatten(1, (6, 1)), noisy(), GaussianNoise(), objectives.VICReg())


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="device='nowhere'"):
        train(mlp(), noisy(), GaussianNoise(), objectives.VICReg(), device="nowhere")


def test_only_a_small_last_batch_is_left_out():
    sizes = [[len(b) for b in _batches(torch.arange(n), TrainConfig(batch_size=10))] for n in (25, 24, 7, 10)]
    assert sizes == [[10, 10, 5], [10, 10], [7], [10]]


def test_the_learning_rate_rises_and_falls_as_said():
    factor = _factor(TrainConfig(schedule="cosine", warmup=0.2), 100)
    assert [factor(0), factor(19), factor(20)] == [0.05, 1.0, 1.0]
    assert factor(60) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0)
    assert _factor(TrainConfig(), 100)(99) == 1.0


def test_the_label_and_the_ids_never_reach_the_encoder(tmp_path):
    _, source, labels = run_in(tmp_path)
    assert list(source.schema.slices) == ["a", "b", "c"]  # pyright: ignore
    assert set(labels) == {"yes", "no"}


def test_the_written_recipe_loads_the_very_network(tmp_path):
    trained, source, _ = run_in(tmp_path)
    loaded = build(Recipe.load(tmp_path / "out" / "recipe.yaml"), tmp_path / "out")
    x = source.batch(range(5))
    assert torch.equal(loaded.module(x), trained.network(x))


def verb(function, *arguments: str):
    app = typer.Typer()
    app.command()(function)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_an_audit_runs_on_what_was_written(name, tmp_path):
    table(tmp_path)
    result = verb(pretrain_verb, config_file(tmp_path), "--objective", name, "-o", tmp_path / "out", "--probe")
    assert result.exit_code == 0, result.output
    assert "linear probe on the embedding" in result.stdout
    quick = ["landmarks.m=16", "audit.points=40", "audit.attribution=0", "audit.automatic_concepts=false"]
    flags = [part for setting in quick for part in ("--set", setting)]
    result = verb(audit_verb, tmp_path / "out" / "audit.yaml", "--quiet", *flags)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "audit" / "report.html").exists()


def test_an_audit_configuration_of_images_is_written_with_everything_filled_in(tmp_path):
    images, labels = digits()
    np.save(tmp_path / "x.npy", images[:128].numpy())
    np.save(tmp_path / "y.npy", np.array(labels[:128]))
    path = config_file(
        tmp_path, encoder=None, data={"array": "x.npy", "labels": "y.npy"}, views={"name": "shift", "std": 0.1},
        objective={"name": "simclr"},
    )  # fmt: skip
    pretrain(read_pretrain_config(path), tmp_path, tmp_path / "out")
    written = read_config(tmp_path / "out" / "audit.yaml")
    assert written.encoder.args == {"in_channels": 1, "n_out": 32}
    assert written.data.array == str((tmp_path / "x.npy").resolve())
    assert written.objective == {"name": "simclr", "temperature": 0.5, "batch_size": 64}


def test_a_finished_run_is_not_repeated(tmp_path):
    first, _, _ = run_in(tmp_path)
    (tmp_path / "out" / "encoder.safetensors").unlink()
    again, _, _ = run_in(tmp_path)
    assert again.losses == first.losses
    assert (tmp_path / "out" / "encoder.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train": {"epoch": 2}}, "train.epoch"),
        ({"train": {"epochs": 0}}, "train.epochs"),
        ({"train": {"lr": float("nan")}}, "train.lr"),
        ({"views": {"name": "scarfs"}}, "views"),
        ({"colour": 1}, "colour"),
        ({"data": None}, "data"),
        ({"objective": {"name": "simsiam"}}, "objective 'simsiam' is unknown"),
        ({"objective": "simsiam"}, "objective 'simsiam' is unknown"),
        ({"objective": {"name": "vicreg", "tau": 1}}, r"13:3: objective\.tau: unknown setting 'tau'"),
        ({"objective": {"name": "vicreg", "eps": -1}}, "12:3: objective: vicreg: eps=-1; expected a positive number"),
    ],
)
def test_a_wrong_setting_is_named(changes, named, tmp_path):
    with pytest.raises(ConfigError, match=rf"pretrain\.yaml:\n.*{named}"):
        read_pretrain_config(config_file(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective": {"name": "simclr", "batch_size": 32}}, r"objective\.batch_size=32 and train\.batch_size=64"),
        ({"encoder": {"factory": "krepes.encoders:MPL"}}, "MPL"),
        ({"encoder": {"factory": "krepes.encoders:MLP", "args": {"hiden": [2]}}}, "hiden"),
        ({"encoder": {"factory": "fractions:Fraction"}}, "expected an nn.Module"),
    ],
)
def test_a_setting_that_does_not_apply_is_named(changes, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        run_in(tmp_path, **changes)


def test_an_objective_alone_is_its_name(tmp_path):
    """As in an audit's file."""
    assert read_pretrain_config(config_file(tmp_path, objective="vicreg")).objective == {"name": "vicreg"}


@pytest.mark.parametrize(
    ("own", "flag", "read"),
    [
        ({"name": "vicreg", "variance": 3.0}, "simclr", {"name": "simclr"}),
        ({"name": "vicreg", "variance": 3.0}, "vicreg", {"name": "vicreg", "variance": 3.0}),
        ("vicreg", "byol", {"name": "byol"}),
        ({"name": "vicregg", "variance": 3.0}, "vicreg", {"name": "vicreg"}),
        (None, "vicreg", {"name": "vicreg"}),
    ],
)
def test_another_objective_takes_the_place_of_the_files(own, flag, read, tmp_path):
    assert read_pretrain_config(config_file(tmp_path, objective=own), [], flag).objective == read


def test_overrides_apply_to_another_objective(tmp_path):
    path = config_file(tmp_path, objective={"name": "simclr", "temperature": 0.2})
    read = read_pretrain_config(path, ["objective.variance=3.0"], "vicreg")
    assert read.objective == {"name": "vicreg", "variance": 3.0}
    with pytest.raises(ConfigError, match="unknown setting 'tau'"):
        read_pretrain_config(path, ["objective.tau=3"], "vicreg")
    named = config_file(tmp_path, objective="vicreg")
    assert read_pretrain_config(named, ["objective.variance=3.0"]).objective == {"name": "vicreg", "variance": 3.0}


def test_another_objective_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ConfigError, match="objective 'vicregg' is unknown"):
        read_pretrain_config(config_file(tmp_path), [], "vicregg")
    result = verb(pretrain_verb, config_file(tmp_path), "--objective", "vicregg", "-o", tmp_path / "out")
    assert (result.exit_code, "'vicregg' is unknown" in result.output) == (1, True)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n"])
def test_a_file_that_is_no_configuration_is_named(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        read_pretrain_config(tmp_path / "c.yaml")


def test_a_probe_without_labels_is_refused_in_words(tmp_path):
    np.save(tmp_path / "x.npy", noisy().batch(range(64)).numpy())
    path = config_file(tmp_path, data={"array": "x.npy"}, views={"name": "gaussian"})
    result = verb(pretrain_verb, path, "-o", tmp_path / "out", "--probe")
    assert result.exit_code == 1
    assert "--probe needs labels" in result.stderr


def test_a_probe_of_one_class_is_refused():
    with pytest.raises(DataError, match="two classes"):
        probe(mlp().eval(), noisy(), np.array(["a"] * 192, dtype=object))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("name", ["encoder.safetensors", "recipe.yaml", "audit.yaml", "schema.json", "checkpoint.pt"])
def test_a_file_of_a_user_is_not_replaced(name, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(RunFolderError, match=rf"{name.replace('.', chr(92) + '.')}.*--overwrite"):
        run_in(tmp_path)
    assert contents(tmp_path / "out") == {name: b"mine"}


@pytest.mark.parametrize("name", ["encoder.safetensors", "recipe.yaml", "audit.yaml", "schema.json"])
def test_a_file_beside_the_checkpoint_of_an_unfinished_run_is_not_replaced(name, tmp_path):
    run_in(tmp_path)
    checkpoint = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    checkpoint["content"]["losses"].pop()
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    torch.save(checkpoint, tmp_path / "out" / "checkpoint.pt")
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(RunFolderError, match=r"not finished.*--overwrite"):
        run_in(tmp_path)
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_a_finished_run_is_not_rewritten(tmp_path):
    run_in(tmp_path)
    audit = tmp_path / "out" / "audit.yaml"
    audit.write_text(audit.read_text() + "# my remark\n")
    before = contents(tmp_path / "out")
    run_in(tmp_path)
    assert contents(tmp_path / "out") == before


def test_weights_of_another_network_in_a_finished_run_are_refused(tmp_path):
    run_in(tmp_path)
    (tmp_path / "out" / "encoder.safetensors").write_bytes(b"other")
    with pytest.raises(RunFolderError, match=r"encoder\.safetensors is not what this run wrote"):
        run_in(tmp_path)
    assert (tmp_path / "out" / "encoder.safetensors").read_bytes() == b"other"


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"table": "nowhere.csv"}},
        {"encoder": {"factory": "krepes.encoders:Nothing"}},
        {"encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 99, "hidden": [4], "n_out": 4}}},
        {"views": {"name": "simclr"}},
        {"device": "nowhere"},
    ],
)
def test_a_run_stays_where_the_one_that_should_replace_it_cannot_be(changes, tmp_path):
    run_in(tmp_path)
    before = contents(tmp_path / "out")
    config = read_pretrain_config(config_file(tmp_path, **changes))
    with pytest.raises((ConfigError, DataError, EncoderError)):
        pretrain(config, tmp_path, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before


def test_another_setting_is_named_by_its_key_alone(tmp_path):
    run_in(tmp_path)
    with pytest.raises(RunFolderError) as caught:
        run_in(tmp_path, train={"epochs": 3, "batch_size": 64, "lr": 0.01})
    assert "\n  train.epochs: 2 there, 3 now\n" in str(caught.value)
    assert "batch_size" not in str(caught.value)


def test_a_word_that_is_also_a_folders_name_stays_a_word(tmp_path):
    (tmp_path / "NHWC").mkdir()
    given = {"array": "x.npy", "layout": "NHWC", "preprocess": {}}
    (tmp_path / "x.npy").touch()
    config = read_pretrain_config(config_file(tmp_path, data=given))
    assert data_section(config, tmp_path) == given | {"array": str((tmp_path / "x.npy").resolve())}


NORMALISED = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def pictures(folder: Path, views: dict, **preprocess):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "x.npy", pixels)
    data = {"array": "x.npy", "layout": "NHWC", "preprocess": {**NORMALISED, **preprocess}}
    path = config_file(
        folder, encoder=None, data=data, views=views, objective={"name": "vicreg"},
        train={"epochs": 1, "batch_size": 16},
    )  # fmt: skip
    return pretrain(read_pretrain_config(path), folder, folder / "out")


@pytest.mark.parametrize("views", [{"name": "shift", "std": 0.1}, {"name": "simclr", "small": True}])
def test_the_recipe_and_the_audit_normalise_once_each(views, tmp_path):
    trained, source, _ = pictures(tmp_path, views)
    recipe = Recipe.load(tmp_path / "out" / "recipe.yaml")
    loaded = build(recipe, tmp_path / "out")  # checks the fingerprint
    plain = torch.from_numpy(np.load(tmp_path / "x.npy")[:4]).permute(0, 3, 1, 2) / 255
    expected = trained.network(source.batch(range(4)))
    assert torch.allclose(loaded.module(plain), expected, atol=1e-5)
    written = read_config(tmp_path / "out" / "audit.yaml")
    network = build_encoder(written.encoder, tmp_path / "out")
    assert torch.equal(network(build_source(written.data, tmp_path / "out").batch(range(4))), expected)


def test_the_recipe_states_views_of_images_alone_where_it_normalises(tmp_path):
    pictures(tmp_path, {"name": "shift", "std": 0.1})
    recipe = Recipe.load(tmp_path / "out" / "recipe.yaml")
    assert recipe.views is None
    assert any("of normalised images" in remark for remark in recipe.remarks)


def test_views_of_images_in_the_recipe_leave_the_normalisation_to_the_encoder(tmp_path):
    pictures(tmp_path, {"pair": [{"name": "image", **copy.deepcopy(NORMALISED)}, {"name": "simclr", "small": True}]})
    views = Recipe.load(tmp_path / "out" / "recipe.yaml").views
    assert views is not None
    assert [view["name"] for view in views["pair"]] == ["image", "simclr"]
    assert all("mean" not in view and "std" not in view for view in views["pair"])


def test_the_recipe_states_size_and_crop(tmp_path):
    pictures(tmp_path, {"name": "simclr", "small": True}, size=16, crop=14, interpolation="bicubic")
    found = Recipe.load(tmp_path / "out" / "recipe.yaml").preprocess
    assert found is not None
    assert (found.size, found.crop, found.interpolation) == (14, 0.875, "bicubic")


def test_the_report_of_a_recipes_encoder_says_its_space_and_account(tmp_path):
    run_in(tmp_path)
    written = yaml.safe_load((tmp_path / "out" / "audit.yaml").read_text())
    written |= {"encoder": {"recipe": "recipe.yaml"}, "audit": {"points": 40, "attribution": 0, "refits": 0}}
    (tmp_path / "out" / "own.yaml").write_text(yaml.safe_dump(written))
    result = verb(audit_verb, tmp_path / "out" / "own.yaml", "--quiet", "--set", "landmarks.m=16")
    assert result.exit_code == 0, result.output
    report = (tmp_path / "out" / "audit" / "report.html").read_text()
    assert "Audited: the encoder&#39;s output" in report
    assert '<th scope="row">loaded</th><td>4 tensors' in report
    assert '<th scope="row">inside the encoder</th><td>none</td>' in report
