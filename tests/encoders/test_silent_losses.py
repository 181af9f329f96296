"""A loss of another scale, with other constants or of other views: stated by the recipe, or said."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import krepes
from krepes import objectives
from krepes.config import Config, build_views, with_recipe
from krepes.data import TableSchema, TableSource
from krepes.data.stream import make_views
from krepes.encoders import Recipe
from krepes.encoders.presets import completed
from krepes.errors import KrepesWarning
from krepes.solver import Newton
from tests.encoders.small import mlp


def correlated() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z, a, b = torch.randn(3, 256, 64, generator=g, dtype=torch.float64)
    return 0.8 * (z + 0.3 * a), 0.8 * (z + 0.3 * b)


def one_direction(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The original SimCLR's: rows of a against b and the rest of a, mean over N."""
    a, b = F.normalize(a), F.normalize(b)
    own = (a @ a.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(torch.cat([a @ b.T / temperature, own], 1), torch.arange(len(a)))


def barlow(a: Tensor, b: Tensor, weight: float, unbiased: bool = False) -> Tensor:
    a, b = a - a.mean(0), b - b.mean(0)
    root = (lambda z: z.std(0) + 1e-5) if unbiased else (lambda z: (z.square().mean(0) + 1e-5).sqrt())
    C = (a / root(a)).T @ (b / root(b)) / len(a)
    on = C.diagonal()
    return (on - 1).square().sum() + weight * (C.square().sum() - on.square().sum())


def vicreg(a: Tensor, b: Tensor, halved: bool) -> Tensor:
    total = 25 * (a - b).square().mean()
    for z in (a, b):
        hinge = F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        C = torch.cov(z.T)
        total = total + 25 * hinge * (0.5 if halved else 1) + (C.square().sum() - C.diagonal().square().sum()) / 64
    return total


def simclr(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    return (one_direction(a, b, temperature) + one_direction(b, a, temperature)) / 2


# preset, objective, the framework's own formula
SAME = [
    ("lightly", "simclr", lambda a, b: simclr(a, b, 0.5)),
    ("solo-learn", "simclr", lambda a, b: simclr(a, b, 0.2)),
    ("stable-pretraining", "simclr", lambda a, b: simclr(a, b, 0.5)),
    ("sthalles-simclr", "simclr", lambda a, b: simclr(a, b, 0.07)),
    ("lightly", "barlow_twins", lambda a, b: barlow(a, b, 5e-3)),
    ("barlowtwins-fair", "barlow_twins", lambda a, b: barlow(a, b, 5.1e-3)),
    ("solo-learn", "barlow_twins", lambda a, b: 0.024 * barlow(a, b, 5.1e-3)),
    ("vissl", "barlow_twins", lambda a, b: 0.024 * barlow(a, b, 5.1e-3)),
    ("lightly", "vicreg", lambda a, b: vicreg(a, b, True)),
    ("vicreg-fair", "vicreg", lambda a, b: vicreg(a, b, True)),
    ("stable-pretraining", "vicreg", lambda a, b: vicreg(a, b, True)),
    ("solo-learn", "vicreg", lambda a, b: vicreg(a, b, False)),
    ("stable-pretraining", "byol", lambda a, b: (2 - 2 * F.cosine_similarity(a, b)).mean()),
]


def stated(preset: str, name: str) -> objectives.Objective:
    constants = dict(completed(Recipe(preset=preset, objective={"name": name})).objective or {})
    return objectives.by_name(constants.pop("name"), **constants)


@pytest.mark.parametrize(("preset", "name", "formula"), SAME, ids=lambda v: v if isinstance(v, str) else "")
def test_a_presets_objective_is_the_frameworks_own_formula(preset, name, formula):
    torch.testing.assert_close(stated(preset, name).loss(*correlated()), formula(*correlated()), rtol=1e-9, atol=0)


# preset, objective, the framework's formula, krepes' value ↦ the framework's, what the account says
FACTORS = [
    ("lightly", "byol", lambda a, b: -F.cosine_similarity(a, b).mean(), lambda v: v / 2 - 1, "its BYOL loss is −cos"),
    ("solo-learn", "byol", lambda a, b: 2 * (2 - 2 * F.cosine_similarity(a, b)).mean(), lambda v: 2 * v,
     "its BYOL loss is the sum of both directions"),
]  # fmt: skip


@pytest.mark.parametrize(("preset", "name", "formula", "scaled", "said"), FACTORS)
def test_a_loss_that_differs_by_a_factor_says_so(preset, name, formula, scaled, said):
    torch.testing.assert_close(scaled(stated(preset, name).loss(*correlated())), formula(*correlated()))
    remarks = completed(Recipe(preset=preset, objective={"name": name})).remarks
    assert any(said in remark for remark in remarks)


def test_the_original_simclr_is_twice_the_mean_of_its_directions():
    a, b = correlated()
    twice = one_direction(a, b, 0.5) + one_direction(b, a, 0.5)
    torch.testing.assert_close(2 * objectives.by_name("simclr", temperature=0.5).loss(a, b), twice)


def test_a_barlow_twins_that_krepes_cannot_state_is_named_with_its_size():
    own = stated("stable-pretraining", "barlow_twins").loss(*correlated())
    theirs = barlow(*correlated(), 5.1e-3, unbiased=True)
    assert 1.001 < theirs / own < 1.1
    assert any("unbiased deviation" in r for r in completed(Recipe(preset="stable-pretraining")).remarks)


def test_a_factor_of_the_loss_moves_no_explanation():
    network, X, tight = mlp(), torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), Newton(tol=1e-10)
    tables = [
        krepes.Auditor(network, objectives.BarlowTwins(scale=scale), landmarks=20, newton=tight, dtype=torch.float64)
        .fit(X, views=lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g))
        .explain(X[:3], top_k=5)
        for scale in (1.0, 0.024)
    ]
    assert list(tables[0].columns) == list(tables[1].columns)
    for column in tables[0].select_dtypes("number"):
        np.testing.assert_allclose(tables[0][column], tables[1][column], rtol=1e-6, atol=1e-9, err_msg=column)


FRAME = pd.DataFrame({f"c{i}": np.random.default_rng(i).normal(size=400) for i in range(5)})


def audited(folder, **settings) -> Config:
    data = {"table": "t.csv", "schema": "s.json"}
    return Config.model_validate({"encoder": {"recipe": "recipe.yaml"}, "data": data, **settings})


def test_pytorch_scarfs_views_corrupt_forty_percent_of_one_view(tmp_path):
    Recipe(preset="scarf", checkpoint="w.pt", objective={"name": "simclr"}).save(tmp_path / "recipe.yaml")
    settings = with_recipe(audited(tmp_path), tmp_path)
    assert settings.views is not None
    assert (settings.objective or {})["temperature"] == 1.0
    source = TableSource(FRAME, TableSchema.fit(FRAME))
    a, b = make_views(source, build_views(settings.views, source), range(400), 0)
    assert torch.equal(a, source.batch(range(400)))
    assert abs(float((a != b).double().mean()) - 0.4) < 0.04


@pytest.mark.parametrize(("told", "own", "said"), [
    ({"objective": {"name": "simclr", "temperature": 0.1}}, {"objective": {"name": "simclr"}}, "'temperature': 0.1"),
    ({"views": {"name": "scarf", "rate": 0.4}}, {"views": {"name": "scarf", "rate": 0.6}}, "'rate': 0.4"),
    ({"views": {"name": "scarf", "rate": 0.6, "both": False}}, {"views": {"name": "scarf", "rate": 0.6}}, "both"),
])  # fmt: skip
def test_constants_that_differ_from_the_recipes_are_said(told, own, said, tmp_path):
    known = {"objective": {"name": "simclr", "temperature": 0.1}, "views": {"name": "gaussian"}} | told
    Recipe(checkpoint="w.pt", **known).save(tmp_path / "recipe.yaml")
    with pytest.warns(KrepesWarning, match="says that the encoder was trained with") as warned:
        with_recipe(audited(tmp_path, **own), tmp_path)
    assert len(warned) == 1
    assert said in str(warned[0].message).partition("trained with")[2]


def test_constants_that_are_the_recipes_by_default_are_no_difference(tmp_path):
    Recipe(checkpoint="w.pt", objective={"name": "simclr"}, views={"name": "gaussian"}).save(tmp_path / "recipe.yaml")
    own = {"objective": {"name": "simclr", "temperature": 0.5}, "views": {"name": "gaussian", "std": 0.1}}
    assert with_recipe(audited(tmp_path, **own), tmp_path).objective == own["objective"]
