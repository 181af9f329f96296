"""What a file holds, and which preset is proposed for it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from krepes.encoders import build, inspect_checkpoint
from krepes.encoders.inspection import tree
from krepes.errors import EncoderError
from tests.encoders.small import images, mlp, prefixed, projector, resnet, save


def lightly():
    return {"state_dict": prefixed(backbone=resnet(), projection_head__layers=projector())}


def lightly_byol():
    return {"state_dict": prefixed(
        backbone=resnet(0), projection_head__layers=projector(1), prediction_head__layers=projector(2, 8),
        teacher_backbone=resnet(3), teacher_projection_head__layers=projector(4),
    )}  # fmt: skip


def spt_byol():
    return {"state_dict": prefixed(
        backbone__student=resnet(0), backbone__teacher=resnet(1), projector__student=projector(2),
        projector__teacher=projector(3), predictor=projector(4, 8),
    )}  # fmt: skip


def fair():
    return {"epoch": 1, "model": prefixed(module__backbone=resnet(), module__projector=projector()), "optimizer": {}}


def vissl():
    model = {"trunk": prefixed(_feature_blocks=resnet()), "heads": {"0.clf.0.weight": torch.randn(8, 32)}}
    return {"classy_state_dict": {"base_model": {"model": model}}}


def bolts():
    return {"state_dict": prefixed(encoder=resnet(), projection__model=projector())}


def sthalles():
    network = resnet(n_out=32)
    network.fc = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    return {"state_dict": prefixed(backbone=network)}


def learner():
    return prefixed(
        net=resnet(0), online_encoder__net=resnet(0), online_encoder__projector=projector(1),
        online_predictor=projector(2, 8), target_encoder__net=resnet(3), target_encoder__projector=projector(4),
    )  # fmt: skip


def scarf():
    linear = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8))
    return prefixed(
        encoder=linear, pretraining_head=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8))
    )


EXPECTED = {
    lightly: ("lightly",), lightly_byol: ("lightly",), spt_byol: ("stable-pretraining",),
    fair: ("barlowtwins-fair", "vicreg-fair"), vissl: ("vissl",), bolts: ("bolts",), sthalles: ("sthalles-simclr",),
    learner: ("byol-pytorch",), scarf: ("scarf",),
}  # fmt: skip


@pytest.mark.parametrize("content", EXPECTED, ids=lambda f: f.__name__)
def test_the_preset_of_every_framework_is_proposed_or_the_choice_is_left_open(content, tmp_path):
    found = inspect_checkpoint(save(tmp_path / "w.pt", content()))
    names = EXPECTED[content]
    if len(names) == 1:
        assert found.proposal is not None
        assert found.proposal.preset == names[0]
    else:
        assert found.proposal is None
        assert " or ".join(names) in found.why[0]


@pytest.mark.parametrize("content", [lightly, lightly_byol, spt_byol, vissl, bolts, sthalles, learner],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_a_proposed_recipe_builds(content, tmp_path):
    proposal = inspect_checkpoint(save(tmp_path / "w.pt", content())).proposal
    assert proposal is not None
    found = build(proposal, tmp_path)
    assert found.account.complete
    assert found.space == "projection"


def solo():
    return {"state_dict": prefixed(backbone=resnet(stem="cifar", stem_padding=2), projector=projector())}


def test_args_json_beside_the_file_speaks_for_solo_learn(tmp_path):
    path = save(tmp_path / "w.ckpt", solo())
    names = inspect_checkpoint(path)
    assert names.proposal is None
    assert "solo-learn or stable-pretraining" in names.why[0]
    args = {"backbone": "resnet18", "method": "barlow_twins", "dataset": "cifar10", "scale_loss": 0.1}
    (tmp_path / "args.json").write_text(json.dumps(args))
    found = inspect_checkpoint(path).proposal
    assert found is not None
    assert found.preset == "solo-learn"
    assert found.objective == {"name": "barlow_twins", "weight": 5.1e-3, "scale": 0.1}


@pytest.mark.parametrize("key", ["encoder_state_dict", None])
def test_an_ad_hoc_file_gets_its_container_and_prefix_written_out(key, tmp_path):
    state = prefixed(module=resnet())
    path = save(tmp_path / "weights", state if key is None else {key: state, "epoch": 3})
    found = inspect_checkpoint(path)
    assert found.proposal is not None
    assert found.proposal.container == ([] if key is None else [key])
    assert found.proposal.encoder_prefix == "module."
    with torch.no_grad():
        torch.testing.assert_close(build(found.proposal, tmp_path).module(images()), resnet()(images()))


def test_a_network_that_is_not_recognised_leaves_its_architecture_open(tmp_path):
    found = inspect_checkpoint(save(tmp_path / "w.pt", mlp().state_dict()))
    assert any("say arch" in line for line in found.why)


def test_a_small_stem_leaves_its_padding_open(tmp_path):
    found = inspect_checkpoint(save(tmp_path / "w.pt", resnet(stem="cifar", stem_padding=1).state_dict()))
    assert any("padding the weights do not say" in line for line in found.why)


def test_two_state_dicts_are_not_chosen_between(tmp_path):
    found = inspect_checkpoint(save(tmp_path / "w.pt", {"a": mlp().state_dict(), "b": mlp(1).state_dict()}))
    assert found.proposal is None
    assert "state dicts are at a, b" in found.why[0]
    assert found.containers == (("a", 4), ("b", 4))


def test_a_file_without_tensors_is_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"holds no tensors \(dict\)"):
        inspect_checkpoint(save(tmp_path / "w.pt", {"epoch": 1}))


keys = st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map(".".join)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 4))
def test_the_trees_first_level_counts_every_number_once(sizes, depth):
    nodes = list(tree({k: torch.ones(n) for k, n in sizes.items()}, depth))
    top = [n for n in nodes if n.depth == 0]
    assert sum(n.numbers for n in top) == sum(sizes.values())
    assert sum(n.tensors for n in top) == len(sizes)
    assert max(n.depth for n in nodes) < depth


def test_the_tree_names_shapes_and_types(tmp_path):
    found = inspect_checkpoint(save(tmp_path / "w.pt", {"state_dict": prefixed(net=mlp()), "epoch": 1}))
    assert (found.container, found.format) == ("state_dict", "torch archive")
    first = found.tree[0]
    assert (first.prefix, first.tensors, first.numbers) == ("net.layers.", 4, 6 * 12 + 12 + 12 * 5 + 5)
    assert (first.dtypes, first.shapes) == ("float32", "0.weight 12×6, 0.bias 12 … (4)")
