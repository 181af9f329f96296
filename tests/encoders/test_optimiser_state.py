"""Checkpoints as training leaves them: an optimiser's state, whose keys are numbers, lies beside the network."""

import pytest
import torch
from torch import nn

from krepes.encoders import Recipe, build, convert, inspect_checkpoint
from krepes.encoders.state import containers, state_at
from krepes.errors import EncoderError
from tests.encoders.small import mlp, prefixed, projector, resnet, save
from tests.encoders.test_loading import SMALL, refused


def optimiser(network: nn.Module, kind: type = torch.optim.Adam) -> dict:
    """The state dict of an optimiser after one step."""
    stepped = kind(network.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    stepped.step()
    return stepped.state_dict()


def trained(key: str = "opt", kind: type = torch.optim.Adam) -> dict:
    network = mlp()
    return {"epoch": 3, "model": network.state_dict(), key: optimiser(mlp(), kind)}


def test_an_optimisers_state_is_keyed_by_numbers():
    assert set(trained()["opt"]["state"]) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("key", ["opt", "optimizer"])
def test_a_network_beside_an_optimiser_is_converted(key, kind, tmp_path):
    save(tmp_path / "ck.pt", trained(key, kind))
    done = convert(Recipe(checkpoint="ck.pt", container="model", arch=SMALL), tmp_path, tmp_path / "out")
    x = torch.rand(3, 6)
    assert torch.equal(build(done.recipe, tmp_path / "out").module(x), mlp()(x))


def test_fairs_layout_with_its_optimiser_is_converted(tmp_path):
    parts = {"module__backbone": resnet(), "module__projector": projector()}
    save(tmp_path / "w.pth", {"epoch": 1, "model": prefixed(**parts), "optimizer": optimiser(nn.ModuleDict(parts))})
    recipe = Recipe(preset="barlowtwins-fair", checkpoint="w.pth", objective={"name": "barlow_twins"})
    done = convert(recipe, tmp_path, tmp_path / "out")
    assert done.loaded.account.complete
    assert build(done.recipe, tmp_path / "out").space == "projection"


def test_a_network_beside_an_optimiser_is_the_one_that_is_proposed(tmp_path):
    found = inspect_checkpoint(save(tmp_path / "ck.pt", trained()))
    assert found.containers == (("model", 4),)
    assert found.proposal is not None
    assert found.proposal.container == ["model"]


def test_an_optimisers_tensors_do_not_crowd_out_the_networks_in_an_error(tmp_path):
    content = {"opt": optimiser(mlp(hidden=(4,) * 8)), "model": mlp().state_dict()}
    message = refused(save(tmp_path / "ck.pt", content), container="state_dict", arch=SMALL)
    assert message.endswith("State dicts are at: model")


def test_an_optimiser_of_any_name_makes_the_container_a_question(tmp_path):
    assert "say which is the network" in refused(save(tmp_path / "ck.pt", trained()), arch=SMALL)


def test_an_optimiser_alone_is_no_network(tmp_path):
    with pytest.raises(EncoderError, match="no tensors but an optimiser's"):
        inspect_checkpoint(save(tmp_path / "ck.pt", {"opt": trained()["opt"]}))


def test_an_optimiser_beside_tensors_or_under_a_container_is_passed_over():
    network = mlp().state_dict()
    assert list(state_at({**network, "opt": trained()["opt"]}, None, "f")) == list(network)
    within = state_at({"last": trained()}, ["last"], "f")
    assert list(within) == [f"model.{name}" for name in network]


def test_a_network_beside_an_optimisers_entries_keeps_its_tensors():
    network = mlp().state_dict()
    content = {"model": network, **trained()["opt"]}
    assert [path for path, _ in containers(content)] == [("model",)]
    assert list(state_at(content, ["model"], "f")) == list(network)


def test_an_optimisers_own_file_or_container_holds_no_state_dict(tmp_path):
    content = trained()["opt"]
    assert containers(content) == []
    with pytest.raises(EncoderError, match="no tensors but an optimiser's"):
        inspect_checkpoint(save(tmp_path / "opt.pt", content))
    with pytest.raises(EncoderError, match=r"f holds no tensors but an optimiser's at opt$"):
        state_at({"opt": content}, ["opt"], "f")


@pytest.mark.parametrize("key", [1, None, (1, 2), 1.5, True])
def test_a_container_under_a_key_that_is_no_text_is_taken_by_its_text(key, tmp_path):
    save(tmp_path / "w.pt", {"members": {"a": mlp(1).state_dict(), key: mlp().state_dict()}})
    recipe = Recipe(checkpoint="w.pt", container=["members", str(key)], arch=SMALL, branch="student")
    found = build(recipe, tmp_path)
    x = torch.rand(3, 6)
    assert torch.equal(found.module(x), mlp()(x))
    assert any("'members.a' holds another network" in r for r in found.account.remarks)


def test_a_twin_under_a_number_makes_the_container_a_question_whose_answers_work(tmp_path):
    path = save(tmp_path / "w.pt", {"model": mlp(1).state_dict(), "averages": {0: mlp().state_dict()}})
    assert "Say which: container: model or container: averages.0" in refused(path, preset="ad-hoc", arch=SMALL)
    found = build(Recipe(checkpoint="w.pt", container="averages.0", arch=SMALL), tmp_path)
    x = torch.rand(3, 6)
    assert torch.equal(found.module(x), mlp()(x))


def test_every_container_that_is_named_can_be_taken():
    content = {"models": {0: {"w": torch.zeros(1)}, ("a", 1): {"w": torch.ones(1)}}, 7: {"w": torch.ones(2)}}
    paths = [path for path, _ in containers(content)]
    assert paths == [("models", "0"), ("models", "('a', 1)"), ("7",)]
    assert [state_at(content, path, "f")["w"].tolist() for path in paths] == [[0], [1], [1, 1]]


def test_two_keys_of_one_text_are_not_chosen_between():
    content = {"0": {"w": torch.zeros(1)}, 0: {"w": torch.ones(1)}}
    with pytest.raises(EncoderError, match="f has several keys '0' under its top: '0', 0"):
        state_at(content, ["0"], "f")
