"""What fails silently elsewhere (docs/checkpoints.md): here it is loud, or the same number comes out."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from krepes.cli import app
from krepes.config import EncoderConfig, build_encoder
from krepes.encoders import FrozenEncoder, Recipe, build, convert
from krepes.encoders.loading import Account, refuse_incomplete
from krepes.encoders.sololearn import recipe_fields
from krepes.errors import EncoderError, KrepesWarning
from tests.encoders.small import D, images, mlp, prefixed, projector, resnet, save
from tests.encoders.test_inspection import bolts, fair, learner, lightly, lightly_byol, spt_byol, sthalles, vissl

SMALL = {"name": "krepes:MLP", "args": {"n_in": 6, "hidden": [12], "n_out": 5}}
NETWORK = {"name": "krepes:ResNet18", "args": {"width": 4}}


def dropped(state):
    return {k: v for k, v in state.items() if k != "layer3.0.conv1.weight"}


def stripped(state):
    return {f"backbone.{k}".lstrip("backbone."): v for k, v in state.items()}  # noqa: B005  as users do


def parallel(state):
    return {f"module.{k}": v for k, v in state.items()}


def compiled(state):
    return {f"_orig_mod.{k}": v for k, v in state.items()}


def reshaped(state):
    return {k.replace(".conv1.", ".conv_1."): v for k, v in state.items()}


CHANGES = {
    dropped: "missing    1 tensors: layer3.0.conv1.weight", stripped: "'v1.weight' has no place: the same tensor?",
    parallel: "under the prefix 'module.'; the recipe says ''", compiled: "under the prefix '_orig_mod.'",
    reshaped: "missing    8 tensors",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_what_strict_false_takes_without_a_word_is_refused(change, tmp_path):
    state, x = change(resnet().state_dict()), images()
    other = resnet(9)
    other.load_state_dict(state, strict=False)
    assert not torch.allclose(other(x), resnet()(x))  # the failure is real: an audit of random weights
    path = save(tmp_path / "w.pt", state)
    with pytest.raises(EncoderError, match="nothing is loaded half") as refused:
        build(Recipe(checkpoint=path.name, arch=NETWORK), tmp_path)
    assert CHANGES[change] in str(refused.value)


FILES = {lightly: "lightly", lightly_byol: "lightly", spt_byol: "stable-pretraining", fair: "vicreg-fair",
         vissl: "vissl", bolts: "bolts", sthalles: "sthalles-simclr", learner: "byol-pytorch"}  # fmt: skip


def tensors(content) -> list[Tensor]:
    if isinstance(content, dict):
        return [t for value in content.values() for t in tensors(value)]
    return [content] if isinstance(content, Tensor) else []


@pytest.mark.parametrize("content", FILES, ids=lambda f: f.__name__)
def test_every_parameter_of_a_built_encoder_stands_in_the_file(content, tmp_path):
    held = content()
    found = build(Recipe(preset=FILES[content], checkpoint=save(tmp_path / "w", held).name), tmp_path)
    known = tensors(held)
    for name, own in found.module.state_dict().items():
        counter = name.endswith("num_batches_tracked")
        assert counter or any(own.shape == t.shape and torch.equal(own, t) for t in known), name
    assert re.match(r"loaded     \d+ tensors", next(found.account.lines()))
    assert "missing    0 tensors" in list(found.account.lines())


def test_weights_beside_a_factory_are_loaded_strictly_too(tmp_path):
    state = mlp().state_dict()
    del state["layers.2.bias"]
    save_file(state, tmp_path / "w.safetensors")
    config = EncoderConfig(factory="krepes.encoders:MLP", args=SMALL["args"], weights="w.safetensors")
    with pytest.raises(EncoderError, match=r"missing    1 tensors: layers\.2\.bias"):
        build_encoder(config, tmp_path)


def of_a_factory(state, folder) -> str:
    save_file(state, folder / "w.safetensors")
    config = EncoderConfig(factory="krepes.encoders:MLP", args=SMALL["args"], weights="w.safetensors")
    with pytest.raises(EncoderError) as refusal:
        build_encoder(config, folder)
    return str(refusal.value)


def test_a_conversions_weights_beside_a_factory_are_sent_to_their_recipe(tmp_path):
    save(tmp_path / "w.pt", prefixed(e=mlp(), h=projector(n_in=5)))
    recipe = Recipe(checkpoint="w.pt", encoder_prefix="e.", head_prefix="h.", arch=SMALL)
    done = convert(recipe, tmp_path, tmp_path / "out")
    message = of_a_factory(load_file(done.folder / "encoder.safetensors"), tmp_path)
    assert f"the weights in {tmp_path / 'w.safetensors'} and krepes.encoders:MLP do not fit" in message
    assert "names under the prefix 'encoder.'; the factory's network has them without it" in message
    assert "say encoder: {recipe: FOLDER}, the folder with its recipe.yaml, instead of factory" in message
    assert "in the recipe" not in message
    assert "the recipe says" not in message


def test_a_factory_whose_own_modules_are_named_like_a_conversions_is_sent_to_no_recipe():
    shape = ("head.weight", (3, 5), (4, 5))
    for account in (Account({"encoder.weight": 20}, mismatched=(shape,)), Account(mismatched=(shape,)),
                    Account({"encoder.weight": 20}, unexpected={"head.bias": 3})):  # fmt: skip
        with pytest.raises(EncoderError, match=r"correct encoder\.factory or encoder\.args"):
            refuse_incomplete(account, "the weights in w and mine:Network", "")


@pytest.mark.parametrize("names", [("net.", "online_predictor."), ("fc.", "layers.0.")])
def test_weights_that_do_not_fit_a_factory_speak_of_it_and_of_no_recipe(names, tmp_path):
    state = {f"{names[0]}{k}": v for k, v in mlp().state_dict().items()}
    message = of_a_factory(state | {f"{names[1]}weight": torch.ones(1)}, tmp_path)
    assert "correct encoder.factory or encoder.args" in message
    assert not re.search("recipe|arch|_prefix|allow:", message)


def test_a_classifier_that_a_factorys_weights_lack_is_the_factorys_to_leave_out():
    account = Account(loaded={"conv.weight": 1}, missing=("fc.weight", "fc.bias"))
    with pytest.raises(EncoderError, match=r"without the classifier 'fc': let the factory put a torch\.nn\.Identity"):
        refuse_incomplete(account, "the weights in w and torchvision.models:resnet18", "")


def test_a_refused_conversion_prints_what_is_loaded_missing_and_unexpected(tmp_path):
    state = prefixed(backbone=resnet(), projection_head__layers=projector(), decoder=nn.Linear(2, 2))
    del state["backbone.conv1.weight"]
    path = save(tmp_path / "w.ckpt", {"state_dict": state})
    arch = "arch={name: 'krepes:ResNet18', args: {width: 4}}"
    result = CliRunner().invoke(app, ["convert", str(path), "--preset", "lightly", "--set", arch, "-o", str(tmp_path)])
    assert result.exit_code == 1
    for line in (r"loaded     128 tensors", r"missing    1 tensors: backbone\.conv1\.weight",
                 r"unexpected 2 tensors \(6 numbers\): decoder\.weight, decoder\.bias"):  # fmt: skip
        assert re.search(line, result.output)


def momentum():
    return {"state_dict": prefixed(
        backbone=resnet(0), projection_head=projector(1),
        backbone_momentum=resnet(2), projection_head_momentum=projector(3),
    )}  # fmt: skip


def solo():
    parts = {"backbone": resnet(0), "projector": projector(1), "predictor": projector(2, 8)}
    return {"state_dict": prefixed(**parts, momentum_backbone=resnet(3), momentum_projector=projector(4))}


def bolts_byol():
    return {"state_dict": prefixed(
        online_network__encoder=resnet(0), online_network__projector=projector(1), predictor=projector(2, 8),
        target_network__encoder=resnet(3), target_network__projector=projector(4),
    )}  # fmt: skip


# framework's file, preset, whom the framework itself evaluates, its seed
EVALUATED = [
    (lightly_byol, "lightly", "student", 0), (solo, "solo-learn", "student", 0), (bolts_byol, "bolts", "student", 0),
    (learner, "byol-pytorch", "student", 0), (spt_byol, "stable-pretraining", "teacher", 1),
]  # fmt: skip


@pytest.mark.parametrize(("content", "name", "branch", "seed"), EVALUATED, ids=lambda v: getattr(v, "__name__", str(v)))
def test_the_branch_that_a_framework_evaluates_is_taken_and_named(content, name, branch, seed, tmp_path):
    path = save(tmp_path / "w.ckpt", content())
    found = build(Recipe(preset=name, checkpoint=path.name), tmp_path)
    assert torch.equal(found.module.encoder.conv1.weight, resnet(seed).conv1.weight)
    assert any(f"taken as the {branch}" in remark for remark in found.account.remarks)
    other = {"student": "teacher", "teacher": "student"}[branch]
    swapped = build(Recipe(preset=name, checkpoint=path.name, branch=other), tmp_path)
    assert not torch.equal(swapped.module.encoder.conv1.weight, found.module.encoder.conv1.weight)
    assert any(f"taken as the {other}" in remark for remark in swapped.account.remarks)


def test_a_momentum_encoder_that_no_framework_evaluates_makes_the_branch_a_question(tmp_path):
    path = save(tmp_path / "w.ckpt", momentum())
    with pytest.raises(EncoderError, match="student and teacher"):
        build(Recipe(preset="lightly", checkpoint=path.name), tmp_path)
    found = build(Recipe(preset="lightly", checkpoint=path.name, branch="teacher"), tmp_path)
    assert torch.equal(found.module.encoder.conv1.weight, resnet(2).conv1.weight)


def test_a_projector_inside_of_fc_is_never_taken_for_the_backbone(tmp_path):
    path = save(tmp_path / "w.pt", sthalles()["state_dict"])
    with pytest.raises(EncoderError, match=r"unexpected 4 tensors .*backbone\.fc\.0\.weight"):
        build(Recipe(checkpoint=path.name, encoder_prefix="backbone."), tmp_path)


def test_a_lone_last_layer_is_asked_whether_it_is_the_projector(tmp_path):
    network = resnet(n_out=8)
    path = save(tmp_path / "w.pt", prefixed(backbone=network))
    whole = build(Recipe(checkpoint=path.name, encoder_prefix="backbone."), tmp_path)
    assert any("head_prefix: backbone.fc." in r and "allow: ['backbone.fc.*']" in r for r in whole.account.remarks)
    split = build(Recipe(checkpoint=path.name, encoder_prefix="backbone.", head_prefix="backbone.fc."), tmp_path)
    assert (split.space, split.note) == ("projection", "")
    cut = build(Recipe(checkpoint=path.name, encoder_prefix="backbone.", allow=["backbone.fc.*"]), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(split.module(images()), network(images()))
        assert cut.module(images()).shape == (3, D)
    for found in (split, cut):
        assert not any("its last layer fc" in remark for remark in found.account.remarks)


@pytest.mark.parametrize(("preset", "padding"), [("lightly", 1), ("solo-learn", 2)])
def test_the_padding_that_a_framework_gives_its_small_stem_is_named(preset, padding, tmp_path):
    head = {"lightly": "projection_head", "solo-learn": "projector"}[preset]
    content = prefixed(backbone=resnet(stem="cifar", stem_padding=padding), **{head: projector()})
    path = save(tmp_path / "w.ckpt", {"state_dict": content})
    found = build(Recipe(preset=preset, checkpoint=path.name), tmp_path)
    assert found.module.encoder.conv1.padding == (padding, padding)
    assert any(f"3 × 3 stem with padding {padding}" in remark for remark in found.account.remarks)


@pytest.mark.parametrize(("args", "expected"), [
    ({"backbone": {"name": "vit_tiny", "kwargs": {"patch_size": 4, "img_size": 32}}}, "timm:vit_tiny_patch16_224"),
    ({"encoder": "vit_small"}, "timm:vit_small_patch16_224"), ({"backbone": "convnext_tiny"}, "timm:convnext_tiny"),
])  # fmt: skip
def test_solo_learns_names_of_transformers_are_timms(args, expected):
    found = recipe_fields(args)
    assert found["arch"]["name"] == expected
    assert found["arch"]["args"]["num_classes"] == 0
    assert any(expected.removeprefix("timm:") in remark for remark in found["remarks"])


class Asserts(nn.Module):
    """A network for one size of images, which it asserts as timm's and torchvision's transformers do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 16:
            raise AssertionError(f"Wrong image height! Expected 16 but got {x.shape[2]}")
        return self.conv(x).flatten(1)


def test_a_size_that_a_network_asserts_is_an_error_in_words(tmp_path):
    path = save(tmp_path / "w.pt", Asserts().state_dict())
    parts = {"checkpoint": path.name, "arch": f"{__name__}:Asserts"}
    recipe = Recipe(**parts)
    with pytest.warns(KrepesWarning, match=r"no fingerprint .* Expected 16 but got 64. Say the shape of a sample"):
        build(recipe, tmp_path, trust_code=True)
    with pytest.warns(KrepesWarning), pytest.raises(EncoderError, match=r"Expected 16 but got 64. Say the shape"):
        convert(recipe, tmp_path, tmp_path / "c", trust_code=True)
    done = convert(Recipe(**parts, input={"shape": [3, 16, 16]}), tmp_path, tmp_path / "c", trust_code=True)
    with pytest.raises(EncoderError, match=r"cannot process a batch of shape \(3, 3, 32, 32\).* Expected 16"):
        FrozenEncoder(done.loaded.module).check(images())


def test_an_audit_of_a_backbone_tells_its_space_its_account_and_its_transform(tmp_path):
    state = prefixed(backbone=resnet(), online_classifier=nn.Linear(D, 10))
    path = save(tmp_path / "last.ckpt", {"state_dict": state})
    fields = ("--set", "preprocess={size: 32}", "--set", "objective={name: vicreg}")
    made = CliRunner().invoke(app, ["convert", str(path), "--preset", "lightly", *fields, "-o", str(tmp_path / "c")])
    assert made.exit_code == 0, made.output
    told = Recipe.load(tmp_path / "c" / "recipe.yaml").preprocess
    assert told is not None
    assert (told.size, told.crop, told.interpolation, told.mean, told.std) == (
        32, 0.875, "bilinear", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )  # fmt: skip
    (tmp_path / "photos").mkdir()
    for i in range(24):
        colours = np.random.default_rng(i).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((40, 40)).save(tmp_path / "photos" / f"{i}.png")
    config = {
        "encoder": {"recipe": "c"}, "data": {"images": "photos"}, "views": {"name": "image"},
        "kernel": {"variant": "sketch", "sketch": 1}, "landmarks": {"m": 8}, "n_components": 3,
        "audit": {"refits": 0, "points": 20, "attribution": 0, "automatic_concepts": False},
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "audit.yaml").write_text(json.dumps(config))
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "audit.yaml")])
    assert result.exit_code == 0, result.output
    label = "objective applied off its training space"
    assert label in " ".join(result.output.split())
    page = (tmp_path / "run" / "report.html").read_text()
    said = ("Normalise(mean=[0.485", "samples prepared by", "data:image/png;base64,", label)
    assert [s for s in said if s not in page] == []
    assert label in (tmp_path / "run" / "card.md").read_text()
