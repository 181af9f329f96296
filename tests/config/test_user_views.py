"""Views at an import path of the user's: how they are called, and errors of their code in words."""

import importlib
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from krepes.cli import app
from krepes.config import ViewsConfig, build_views
from krepes.data import ArraySource, GaussianNoise
from krepes.data.views import Pair
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError
from krepes.report.views import image_views

SOURCE = ArraySource(torch.zeros(5, 8))
CODE = """
from krepes.data import GaussianNoise

class Adds:
    def __init__(self, by=1.0):
        self.by = by
    def __call__(self, batch, generator):
        return batch + self.by
    def __repr__(self):
        return f"Adds({self.by})"

class Two:
    def __init__(self):
        self.pair = Adds(1), breaks
    def __call__(self, batch, generator):
        raise NotImplementedError

class OneArgument:
    def __call__(self, batch):
        return batch

def factory(by=1.0):
    return Adds(by)

def noise(std):
    return GaussianNoise(std)

def breaks(batch, generator):
    return {}["no such view"]

def lacks(batch, generator):
    raise MemoryError

def fails():
    raise RuntimeError("no licence")

from dataclasses import dataclass
from krepes.data.views import ImageView

@dataclass(frozen=True)
class Darker(ImageView):
    by: float = 0.5

class Images:
    def __init__(self):
        self.pair = Darker(mean=(0.4,), std=(0.2,)), breaks
    def __call__(self, batch, generator):
        raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def code(tmp_path, monkeypatch):
    (tmp_path / "code_of_mine.py").write_text(CODE)
    (tmp_path / "broken_code_of_mine.py").write_text("x = 1\nraise RuntimeError('no device')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("code_of_mine", None)


def build(name, **args):
    return build_views(ViewsConfig(name=f"code_of_mine:{name}", **args), SOURCE)


def test_a_factory_without_args_is_told_from_a_view():
    with pytest.raises(ConfigError, match=r"code_of_mine:factory takes \(by=1\.0\), which does not fit .*`args: \{\}`"):
        build("factory")
    assert build("factory", args={})(torch.zeros(2), torch.Generator()).tolist() == [1, 1]


def test_a_view_that_takes_something_else_is_refused():
    with pytest.raises(
        ConfigError, match=r"OneArgument: what it makes takes \(batch\), .*\(batch, generator\) -> batch"
    ):
        build("OneArgument")


def test_args_for_what_makes_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"__doc__ is a \w+; `args` are for a class or a factory"):
        build("__doc__", args={})


def test_code_that_raises_is_named_with_the_error_and_its_line():
    with pytest.raises(ConfigError, match=r"fails with \{\} raises RuntimeError: no licence \(.*code_of_mine\.py:35\)"):
        build("fails", args={})
    with pytest.raises(ConfigError, match=r"importing broken_code_of_mine fails with RuntimeError: no device \(.*:2\)"):
        build_views(ViewsConfig(name="broken_code_of_mine:Any"), SOURCE)
    with pytest.raises(
        DataError, match=r"mine:breaks, called with a batch of shape \(2, 8\), raises KeyError: .*:29\)"
    ):
        build("breaks")(torch.zeros(2, 8), torch.Generator())


def test_a_lack_of_memory_in_a_view_stays_one():
    with pytest.raises(MemoryError):
        build("lacks")(torch.zeros(2), torch.Generator())


def test_views_of_ones_own_keep_their_repr_and_their_pair():
    assert repr(build("Adds", args={"by": 2})) == "Adds(2)"
    assert build("noise", args={"std": 0.3}) == GaussianNoise(0.3)
    two = build("Two")
    assert isinstance(two, Pair)
    assert repr(two.pair[0]) == "Adds(1)"
    with pytest.raises(DataError, match="KeyError"):
        two.pair[1](torch.zeros(2), torch.Generator())


@pytest.mark.parametrize(
    ("name", "args"), [("Darker", {"mean": [0.4], "std": [0.2]}), ("Images", {}), ("Images", None)]
)
def test_a_class_derived_from_an_image_view_still_tells_its_normalisation(name, args):
    view = image_views(build(name, args=args))
    assert view is not None
    assert (tuple(view.mean), tuple(view.std)) == ((0.4,), (0.2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nNone.x", r"importing raising_1 fails with AttributeError: 'NoneType' .* \(.*raising_1\.py:2\)$"),
        ("\n\nint('a')", r"importing raising_1 fails with ValueError: invalid .* \(.*raising_1\.py:3\)$"),
        ("import json\njson.loads('')", r"fails with JSONDecodeError: .* \(.*raising_1\.py:2\)$"),
        ("import not_installed_1", r"fails with ModuleNotFoundError: No module .* \(.*raising_1\.py:1\)$"),
        ("x = = 1", r"fails with SyntaxError: .*raising_1\.py, line 1\)$"),
        ("x = 1", r"has no attribute 'Any'. Expected an import path"),
        (
            "def __getattr__(name):\n    return name.foo",
            r"importing Any fails with AttributeError: .*raising_1\.py:2\)$",
        ),
    ],
)
def test_what_a_module_raises_while_it_is_imported_is_told_with_its_line(text, message, tmp_path):
    (tmp_path / "raising_1.py").write_text(text)
    sys.modules.pop("raising_1", None)
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=message):
        build_views(ViewsConfig(name="raising_1:Any"), SOURCE)
    sys.modules.pop("raising_1", None)


@pytest.mark.parametrize("name", ["no_such_module_1:Any", "code_of_mine.inner:Any"])
def test_a_module_that_is_not_there_is_an_import_path_to_correct(name):
    with pytest.raises(ConfigError, match=r"No module named .*\. Expected an import path"):
        build_views(ViewsConfig(name=name), SOURCE)


@pytest.mark.parametrize(
    ("verb", "key", "value", "message"),
    [
        ("inspect", "views", {"name": "code_of_mine:factory"}, "code_of_mine:factory takes (by=1.0)"),
        ("plan", "views", {"name": "code_of_mine:factory"}, "code_of_mine:factory takes (by=1.0)"),
        ("audit", "views", {"name": "code_of_mine:factory"}, "code_of_mine:factory takes (by=1.0)"),
        ("audit", "views", {"name": "code_of_mine:breaks"}, "code_of_mine:breaks, called with a batch"),
        ("audit", "encoder", {"factory": "code_of_mine:fails", "weights": "w.safetensors"},
         "encoder.factory code_of_mine:fails with {}: RuntimeError: no licence"),
    ],
)  # fmt: skip
def test_a_verb_says_it_in_words(verb, key, value, message, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((30, 4), np.float32))
    save_file(MLP(4, [6], 3).state_dict(), tmp_path / "w.safetensors")
    encoder = {"factory": "krepes.encoders:MLP", "args": {"n_in": 4, "hidden": [6], "n_out": 3}}
    content = {
        "encoder": encoder | {"weights": "w.safetensors"}, "data": {"array": "x.npy"}, "objective": "vicreg",
        "views": {"name": "gaussian"}, "output": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content | {key: value}))
    result = CliRunner().invoke(app, [verb, str(tmp_path / "c.yaml")])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_views_that_cannot_be_called_are_named_with_their_line(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((30, 4), np.float32))
    save_file(MLP(4, [6], 3).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "c.yaml").write_text(
        "encoder: {factory: 'krepes.encoders:MLP', args: {n_in: 4, hidden: [6], n_out: 3}, weights: w.safetensors}\n"
        "data: {array: x.npy}\nobjective: vicreg\nviews:\n  name: code_of_mine:factory\n"
    )
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "c.yaml")])
    assert "c.yaml:5:3: views.name code_of_mine:factory takes" in " ".join(result.output.split())
