"""What a file leaves open is said or refused."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from krepes.encoders import Recipe, build, read_checkpoint
from krepes.encoders.loading import positional
from krepes.encoders.projector import infer
from krepes.encoders.recipe import Input
from krepes.encoders.sololearn import objective_of, read_args
from krepes.encoders.state import state_at
from krepes.errors import EncoderError
from tests.encoders.small import images, mlp, prefixed, projector, resnet, save

SMALL = {"name": "krepes:MLP", "args": {"n_in": 6, "hidden": [12], "n_out": 5}}
MEAN = {"mean": [0.5] * 3, "std": [0.2] * 3}


def lightly(tmp_path, **fields):
    content = prefixed(backbone=resnet(stem="cifar", stem_padding=1), projection_head=projector())
    save(tmp_path / "w.ckpt", {"state_dict": content})
    return build(Recipe(preset="lightly", checkpoint="w.ckpt", **fields), tmp_path)


def refused(path, **fields) -> str:
    with pytest.raises(EncoderError) as error:
        build(Recipe(checkpoint=path.name, **fields), path.parent)
    return str(error.value)


def test_a_size_alone_keeps_the_presets_mean_and_std(tmp_path):
    found = lightly(tmp_path, preprocess={"size": 32})
    assert found.recipe.preprocess is not None
    assert found.recipe.preprocess.mean == [0.485, 0.456, 0.406]
    assert any("from preset: an assumption" in r for r in found.account.remarks)


def test_null_takes_the_normalisation_out_and_the_account_says_so(tmp_path):
    found = lightly(tmp_path, preprocess={"size": 32, "mean": None})
    assert any(r.startswith("not normalised") for r in found.account.remarks)


def test_the_recipes_own_normalisation_is_named_as_its_own(tmp_path):
    assert any("from recipe" in r for r in lightly(tmp_path, preprocess=MEAN).account.remarks)


@pytest.mark.parametrize("shift", [-0.01, 0.01])
@pytest.mark.parametrize("grad", [False, True])
def test_images_outside_0_and_1_are_refused_also_with_gradients(shift, grad, tmp_path):
    module = lightly(tmp_path, preprocess=MEAN).module
    x = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]) + shift
    with torch.set_grad_enabled(grad), pytest.raises(EncoderError, match="the images lie between"):
        module(x)


def test_images_that_rounding_took_out_a_little_pass(tmp_path):
    lightly(tmp_path, preprocess=MEAN).module(images() * 1.0005)


def test_output_is_refused_where_the_file_holds_a_projector(tmp_path):
    with pytest.raises(EncoderError, match="space: output is that of a network without a projector"):
        lightly(tmp_path, space="output")


def test_encoder_and_head_of_two_networks_are_refused(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(backbone=resnet(), head_momentum=projector()))
    fields = {"encoder_prefix": "backbone.", "head_prefix": "head_momentum."}
    assert "are of two networks by their names" in refused(path, **fields)


def test_a_twin_that_is_the_branch_by_its_name_is_refused(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(net=mlp(0), net_ema=mlp(1)))
    fields = {"encoder_prefix": "net.", "branch": "teacher", "allow": ["net_ema.*"], "arch": SMALL}
    assert "by its name 'net_ema.' is the teacher" in refused(path, **fields)


def test_twins_in_two_containers_need_one_to_be_named(tmp_path):
    content = {"state_dict": mlp(0).state_dict(), "state_dict_ema": mlp(1).state_dict()}
    path = save(tmp_path / "w.pt", content)
    assert "in 'state_dict' and 'state_dict_ema'" in refused(path, preset="ad-hoc", arch=SMALL)
    found = build(Recipe(checkpoint="w.pt", container="state_dict", arch=SMALL), tmp_path)
    assert any("'state_dict_ema' holds another network" in r for r in found.account.remarks)


def test_one_more_key_does_not_hide_a_twin(tmp_path):
    content = prefixed(a=mlp(0), b=mlp(1)) | {"a.extra": torch.ones(1)}
    path = save(tmp_path / "w.pt", content)
    assert "two networks of the same shapes" in refused(path, encoder_prefix="a.", arch=SMALL, allow=["b.*", "a.extra"])


def test_what_follows_the_last_weight_is_said_to_be_unknown():
    assert "nothing after the last layer (the file does not say)" in infer(projector().state_dict(), "").words


def test_an_inferred_encoder_needs_its_layers(tmp_path):
    path = save(tmp_path / "w.pt", nn.Sequential(nn.Linear(3, 2)).state_dict())
    assert "needs arch.layers" in refused(path, arch="inferred")


def test_a_lone_weight_is_no_layer_norm_unless_said():
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).state_dict()
    with pytest.raises(EncoderError, match="a layer norm, or a batch norm"):
        infer(state, "head.")
    infer(state, "head.", layers=["linear", "layernorm"])


def test_numbered_layers_of_the_same_shapes_ask_for_names():
    network = nn.ModuleDict({"b": nn.Linear(2, 2), "a": nn.Linear(2, 2)})
    with pytest.raises(EncoderError, match="Give them names: rename"):
        positional(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict(), network)


def shards(folder, mapping):
    save_file({"a": torch.ones(1)}, folder / "1.safetensors")
    save_file({"a": torch.zeros(1), "b": torch.ones(1)}, folder / "2.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    shards(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    with pytest.raises(EncoderError, match=r"2\.safetensors holds 'a', and .* names 1\.safetensors"):
        read_checkpoint(tmp_path)


def test_a_single_file_goes_before_an_index(tmp_path):
    shards(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    save_file({"c": torch.ones(1)}, tmp_path / "model.safetensors")
    assert list(read_checkpoint(tmp_path).content) == ["c"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_numbers_of_another_kind_are_refused_by_name(dtype, tmp_path):
    state = mlp().state_dict()
    name = next(iter(state))
    path = save(tmp_path / "w.pt", state | {name: state[name].to(dtype)})
    assert f"'{name}' is {str(dtype).removeprefix('torch.')}" in refused(path, arch=SMALL)


def test_a_3_by_3_stem_says_that_no_pooling_follows(tmp_path):
    assert any("no max pooling after it (an assumption)" in r for r in lightly(tmp_path).account.remarks)


def test_a_header_whose_length_looks_like_a_web_page_is_read(tmp_path):
    path = tmp_path / "weights"
    entry = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = entry.ljust(0x3C + 0x100)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    assert path.read_bytes()[:1] == b"<"
    assert read_checkpoint(path).content["w"].shape == (1,)


def test_a_mapping_that_holds_itself_does_not_hang():
    content: dict = {"w": torch.ones(1)}
    for i in range(8):
        content[str(i)] = content
    assert list(state_at(content, None, "f")) == ["w"]


def test_endlessly_many_mappings_are_hostile():
    content: dict = {"w": torch.ones(1)}
    for _ in range(10):
        content = {str(i): content for i in range(5)}
    with pytest.raises(EncoderError, match="hostile"):
        state_at(content, None, "f")


@pytest.mark.parametrize("pattern", ["*.*", "*[!q]"])
def test_a_pattern_of_every_key_is_refused(pattern):
    with pytest.raises(ValidationError, match="would make any file fit"):
        Recipe(allow=[pattern])


@pytest.mark.parametrize("shape", [[2**14, 2**14], [0, 3]])
def test_a_samples_size_is_bounded(shape):
    with pytest.raises(ValidationError, match="positive sizes of at most"):
        Input(shape=shape)


def test_constants_that_are_no_numbers_are_refused(tmp_path):
    (tmp_path / "args.json").write_text('{"method": "simclr", "temperature": NaN}')
    with pytest.raises(EncoderError, match="holds NaN"):
        read_args(tmp_path / "w.ckpt")


def test_solo_learns_temperature_has_one_default():
    assert objective_of({"method": "simclr"}) == {"name": "simclr", "temperature": 0.2}


def test_an_unknown_data_set_is_said_to_be_normalised_by_assumption(tmp_path):
    content = {"state_dict": prefixed(backbone=resnet(), projector=projector())}
    (tmp_path / "args.json").write_text('{"dataset": "cells"}')
    save(tmp_path / "w.ckpt", content)
    found = build(Recipe(preset="solo-learn", checkpoint="w.ckpt"), tmp_path)
    assert any("data set cells" in r and "an assumption" in r for r in found.account.remarks)
