"""Machines: this one, data sheets and files; and `krepes plan`."""

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from krepes.cli import app
from krepes.cost import KINDS, Machine, machine_named
from krepes.cost.counts import OPERATIONS
from krepes.encoders import MLP
from krepes.errors import ConfigError

HERE = Machine("here", dict.fromkeys(KINDS, 1e9), 2**33, source="measured")


def written(tmp_path, **content):
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_data_sheets_machine_keeps_what_only_a_cpu_does():
    found = machine_named("H100", HERE)
    assert found.memory == 80 * 2**30
    assert all(found.rates[kind] > HERE.rates[kind] for kind in OPERATIONS)
    assert all(found.rates[kind] == HERE.rates[kind] for kind in ("samples", "pairs", "disk"))
    assert "not measured" in found.source


def test_a_file_says_what_it_knows_and_names_the_rest(tmp_path):
    path = written(tmp_path, name="node", like="h200", rates={"pairs": 5e3}, memory="64GiB", bandwidth=2.5e10)
    found = machine_named(path, HERE)
    assert (found.name, found.memory, found.bandwidth, found.rates["pairs"]) == ("node", 2**36, 2.5e10, 5e3)
    assert found.rates["network"] == machine_named("h200", HERE).rates["network"]
    assert "H200 SXM data sheet" in found.source


@pytest.mark.parametrize(
    ("content", "message"),
    [({"name": "n", "rates": {"flops": 1.0}}, "rates.flops: expected positive numbers of samples"),
     ({"name": "n", "rates": {"network": -1.0}}, "rates.network"),
     ({"name": "n", "rates": {"network": float("inf")}}, "rates.network"),
     ({"name": "n", "speed": 3}, "speed"),
     ({"name": "n", "memory": "lots"}, "no amount of memory"),
     ({"name": "n", "like": "abacus"}, "like: 'abacus' is unknown; expected one of here")],
)  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        machine_named(written(tmp_path, **content), HERE)


def test_an_unknown_machine_names_those_that_are_known():
    with pytest.raises(ConfigError, match="here, a100, h100, h200, or a YAML file"):
        machine_named("tpu", HERE)


# ------------------------------------------------------------------ krepes plan


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    np.save(folder / "samples.npy", torch.randn(3000, 6, generator=torch.Generator().manual_seed(0)).numpy())
    torch.manual_seed(0)
    save_file(MLP(6, (16,), 4).state_dict(), folder / "weights.safetensors")
    settings = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 6, "hidden": [16], "n_out": 4},
                    "weights": "weights.safetensors"},
        "data": {"array": "samples.npy"}, "views": {"name": "gaussian", "std": 0.3},
        "objective": {"name": "simclr", "batch_size": 512}, "landmarks": {"m": 40}, "output": "run",
    }  # fmt: skip
    (folder / "audit.yaml").write_text(yaml.safe_dump(settings))
    return folder / "audit.yaml"


def planned(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_plan_prints_every_stage_and_runs_nothing(config):
    result = planned(config, "-m", "here", "-m", "h100", "-w", 1, "-w", 8)
    assert result.exit_code == 0, result.output
    for word in ("landmarks", "nystrom", "views", "newton", "scores", "refits", "attribution", "trust", "together",
                 "h100 × 8", "memory of each worker", "network, 8 workers: 160 numbers", "not counted"):  # fmt: skip
        assert word in result.output, result.output
    assert not (config.parent / "run").exists()


def test_plan_of_another_number_of_samples_as_json(config):
    result = planned(config, "--json", "--samples", 10**9, "-w", 4, "-m", "h200")
    (found,) = json.loads(result.output)
    assert (found["samples"], found["workers"], found["machine"]) == (10**9, 4, "h200")
    assert found["seconds"] == pytest.approx(sum(s["seconds"] for s in found["stages"]))
    views = next(s for s in found["stages"] if s["stage"] == "views")
    assert views["counts"]["pairs"] == 10**9
    assert found["disk_bytes"] > 10**9 * 40 * 4 * 2


def test_plan_refuses_an_unknown_machine(config):
    result = planned(config, "-m", "abacus")
    assert result.exit_code == 1
    assert "machine 'abacus' is unknown" in result.output
