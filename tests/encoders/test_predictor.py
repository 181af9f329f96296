"""BYOL's predictor is accounted for as the projector is, whether it is audited or not."""

import pytest
import torch

from krepes.encoders import Recipe, build
from krepes.errors import EncoderError
from tests.encoders.small import images, mlp, prefixed, projector, resnet, save

SMALL = {"name": "krepes:MLP", "args": {"n_in": 6, "hidden": [12], "n_out": 5}}
PARTS = {"encoder_prefix": "net.", "head_prefix": "projector.", "arch": SMALL}


@pytest.fixture
def byol(tmp_path):
    """Encoder 6 → 5, projector 5 → 8, predictor 8 → 8, classifier 5 → 3."""
    parts = {"net": mlp(), "projector": projector(1, 5), "predictor": projector(2, 8, (16, 8)),
             "classifier": torch.nn.Linear(5, 3)}  # fmt: skip
    return save(tmp_path / "w.pt", prefixed(**parts))


def refused(path, **fields) -> str:
    with pytest.raises(EncoderError) as error:
        build(Recipe(checkpoint=path.name, **PARTS | fields), path.parent)
    return str(error.value)


def test_a_predictor_that_no_one_names_is_unexpected_and_its_prefix_proposed(byol):
    message = refused(byol, allow=["classifier.*"])
    assert "unexpected 9 tensors" in message
    assert "predictor.0.weight" in message
    assert "say predictor_prefix: predictor. or allow: ['predictor.*']" in message


def test_a_predictor_that_is_allowed_to_be_left_out_is_in_the_account_by_its_pattern(byol, tmp_path):
    allow = ["classifier.*", "predictor.*"]
    account = build(Recipe(checkpoint=byol.name, **PARTS, allow=allow), tmp_path).account
    assert set(account.ignored) == {"allowed by classifier.*", "allowed by predictor.*"}
    assert len(account.ignored["allowed by predictor.*"]) == 9
    assert any("allowed by predictor.*: predictor.0.weight" in line for line in account.lines())


@pytest.mark.parametrize(("space", "read"), [(None, False), ("prediction", True)])
def test_a_predictor_that_is_named_is_read_or_ignored_by_the_space(space, read, byol, tmp_path):
    recipe = Recipe(checkpoint=byol.name, **PARTS, predictor_prefix="predictor.", space=space, allow=["classifier.*"])
    found = build(recipe, tmp_path)
    keys = {k for k in torch.load(byol) if k.startswith("predictor.") and "num_batches" not in k}
    assert (keys <= set(found.account.loaded)) == read
    assert (keys <= set(found.account.ignored.get("the audited space is projection", {}))) != read
    x = torch.randn(3, 6)
    expected = projector(1, 5)(mlp()(x))
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), projector(2, 8, (16, 8))(expected) if read else expected)


def test_a_predictors_prefix_that_no_key_has_is_refused_even_where_its_keys_are_allowed(byol):
    message = refused(byol, predictor_prefix="online_predictor.", allow=["classifier.*", "predictor.*"])
    assert "no key under the predictor's prefix 'online_predictor.'" in message


def test_one_prefix_for_two_parts_is_refused(byol):
    message = refused(byol, predictor_prefix="projector.", allow=["classifier.*", "predictor.*"])
    assert "head_prefix is the same, and each key has one part" in message


def test_other_keys_do_not_pass_as_the_predictor(byol, tmp_path):
    state = torch.load(byol)
    path = save(tmp_path / "v.pt", {k.replace("classifier.", "classifier.0."): v for k, v in state.items()})
    message = refused(path, predictor_prefix="classifier.", allow=["predictor.*"])
    assert "takes 5 numbers, the projector under 'projector.' gives 8: it is no predictor of it" in message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"predictor_prefix": "target_predictor."}, "are of two networks by their names"),
        ({"predictor_prefix": "target_predictor.", "branch": "student"}, "is another branch's prefix"),
        ({"encoder_prefix": "target.", "predictor_prefix": "predictor."}, "are of two networks by their names"),
    ],
)
def test_a_predictor_of_the_other_branch_is_refused(fields, said, tmp_path):
    parts = {"net": mlp(), "target": mlp(3), "projector": projector(1, 5), "predictor": projector(2, 8),
             "target_predictor": projector(4, 8)}  # fmt: skip
    path = save(tmp_path / "w.pt", prefixed(**parts))
    assert said in refused(path, head_prefix=None, allow=["*projector.*", "target*", "predictor.*"], **fields)


@pytest.mark.parametrize("preset", ["solo-learn", "lightly"])
def test_a_frameworks_predictor_is_in_the_account_and_a_prefix_that_it_has_not_is_refused(preset, tmp_path):
    head, predictor = {"solo-learn": ("projector", "predictor"), "lightly": ("projection_head", "prediction_head")}[
        preset
    ]
    state = prefixed(backbone=resnet(), **{head: projector(), predictor: projector(2, 8)})
    path = save(tmp_path / "w.ckpt", {"state_dict": state})
    found = build(Recipe(preset=preset, checkpoint=path.name), tmp_path)
    ignored = found.account.ignored["the audited space is projection"]
    assert {k.split(".")[0] for k in ignored} == {predictor}
    with torch.no_grad():
        assert found.module(images()).shape == (3, 8)
    with pytest.raises(EncoderError, match=r"no key under the predictor's prefix 'predict\.'"):
        build(Recipe(preset=preset, checkpoint=path.name, predictor_prefix="predict."), tmp_path)
