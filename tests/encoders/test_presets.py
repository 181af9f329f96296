"""Every framework's file gives the function that the framework computes."""

import itertools
import json

import pytest
import torch
from torch import nn

from krepes import objectives
from krepes.encoders import PRESETS, Recipe, build
from krepes.encoders.presets import completed
from krepes.errors import ConfigError, EncoderError
from tests.encoders.small import images, mlp, normalised, prefixed, projector, resnet, save

CIFAR = {"stem": "cifar", "stem_padding": 1}
SOLO_CIFAR = {"stem": "cifar", "stem_padding": 2}


def loaded(path, preset, **fields):
    return build(Recipe(preset=preset, checkpoint=path.name, **fields), path.parent)


def same(loaded, network, x=None, scale=normalised):
    x = images() if x is None else x
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), network(scale(x)))


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_constants_are_those_of_an_objective(name):
    for objective, constants in PRESETS[name].objectives.items():
        objectives.by_name(objective, **constants)


def test_lightly_simclr(tmp_path):
    backbone, head = resnet(), projector()
    state = prefixed(backbone=backbone, projection_head__layers=head, online_classifier=nn.Linear(32, 10))
    found = loaded(save(tmp_path / "last.ckpt", {"state_dict": state, "epoch": 3}), "lightly")
    same(found, nn.Sequential(backbone, head))
    assert found.space == "projection"
    assert found.note == ""
    assert "allowed by online_classifier.*" in found.account.ignored


def byol_of_lightly(tmp_path):
    parts = {
        "backbone": resnet(0), "projection_head__layers": projector(1), "prediction_head__layers": projector(2, 8),
        "teacher_backbone": resnet(3), "teacher_projection_head__layers": projector(4),
    }  # fmt: skip
    return save(tmp_path / "byol.ckpt", {"state_dict": prefixed(**parts)}), parts


def test_lightly_byol_gives_the_student_as_lightly_evaluates_it_and_says_so(tmp_path):
    path, parts = byol_of_lightly(tmp_path)
    found = loaded(path, "lightly")
    same(found, nn.Sequential(parts["backbone"], parts["projection_head__layers"]))
    assert any("taken as the student" in remark for remark in found.account.remarks)


def test_lightly_byol_gives_the_teacher_where_the_recipe_says_so(tmp_path):
    path, parts = byol_of_lightly(tmp_path)
    found = loaded(path, "lightly", branch="teacher")
    same(found, nn.Sequential(parts["teacher_backbone"], parts["teacher_projection_head__layers"]))


def test_the_predictors_output_is_audited_where_the_recipe_says_so(tmp_path):
    path, parts = byol_of_lightly(tmp_path)
    found = loaded(path, "lightly", space="prediction")
    same(found, nn.Sequential(parts["backbone"], parts["projection_head__layers"], parts["prediction_head__layers"]))


def test_lightlys_examples_with_positional_names_are_mapped_in_order_and_flattened(tmp_path):
    backbone = resnet()
    cut = nn.Sequential(*list(backbone.children())[:-1])
    assert cut(images()).shape[2:] == (1, 1)
    state = {"state_dict": prefixed(backbone=cut, projection_head__layers=projector())}
    found = loaded(save(tmp_path / "a.ckpt", state), "lightly")
    same(found, nn.Sequential(cut, nn.Flatten(), projector()))
    assert any("0 → conv1" in remark for remark in found.account.remarks)


def test_a_small_stem_of_lightly_is_padded_by_one(tmp_path):
    backbone = resnet(**CIFAR)
    state = {"state_dict": prefixed(backbone=backbone, projection_head__layers=projector())}
    same(loaded(save(tmp_path / "a.ckpt", state), "lightly"), nn.Sequential(backbone, projector()))


SOLO_ARGS = {
    "old": {"encoder": "resnet18", "cifar": True, "method": "barlow_twins", "lamb": 0.0051, "scale_loss": 0.1,
            "dataset": "cifar10"},
    "flat": {"backbone": "resnet18", "method": "barlow_twins", "lamb": 0.0051, "scale_loss": 0.1, "dataset": "cifar10"},
    "nested": {"backbone": {"name": "resnet18", "kwargs": {}}, "method": "barlow_twins", "data": {"dataset": "cifar10"},
               "method_kwargs": {"lamb": 0.0051, "scale_loss": 0.1}},
}  # fmt: skip


def solo(tmp_path, args=None, key="backbone", **more):
    parts = {key: resnet(width=64, **SOLO_CIFAR), "projector": projector(1, 512), "classifier": nn.Linear(512, 10)}
    path = save(tmp_path / "solo.ckpt", {"state_dict": prefixed(**(parts | more))})
    if args is not None:
        (tmp_path / "args.json").write_text(json.dumps(args))
    return path, nn.Sequential(parts[key], parts["projector"])


@pytest.mark.parametrize("kind", SOLO_ARGS)
def test_solo_learns_args_are_a_free_recipe(kind, tmp_path):
    path, network = solo(tmp_path, SOLO_ARGS[kind], "encoder" if kind == "old" else "backbone")
    found = loaded(path, "solo-learn")
    same(found, network, scale=lambda x: normalised(x, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)))
    assert found.recipe.objective == {"name": "barlow_twins", "weight": 0.0051, "scale": 0.1}
    assert found.recipe.preprocess is not None
    assert found.recipe.preprocess.size == 32


@pytest.mark.parametrize(
    ("method", "stated", "expected"),
    [
        ("vicreg", {"sim_loss_weight": 10}, {"invariance": 10.0, "halve_hinge": False}),
        ("simclr", {"temperature": 0.2}, {"temperature": 0.2}),
        ("barlow_twins", {}, {"weight": 5.1e-3, "scale": 0.024}),
        ("byol", {}, {}),
    ],
)
def test_solo_learns_constants_are_those_of_its_code(method, stated, expected, tmp_path):
    path, _ = solo(tmp_path, {"backbone": "resnet18", "method": method, "dataset": "cifar10", "method_kwargs": stated})
    objective = loaded(path, "solo-learn").recipe.objective or {}
    assert objective.pop("name") == method
    assert expected.items() <= objective.items()
    objectives.by_name(method, **objective)


def test_a_recipe_that_contradicts_args_json_is_refused(tmp_path):
    path, _ = solo(tmp_path, SOLO_ARGS["flat"])
    with pytest.raises(ConfigError, match=r"args\.json beside it says barlow_twins"):
        loaded(path, "solo-learn", objective={"name": "vicreg"})


def test_args_json_that_is_damaged_is_an_error(tmp_path):
    path, _ = solo(tmp_path)
    (tmp_path / "args.json").write_text("{")
    with pytest.raises(EncoderError, match=r"args\.json is not valid JSON"):
        loaded(path, "solo-learn")


def test_solo_learn_without_args_still_pads_its_small_stem_by_two(tmp_path):
    path, network = solo(tmp_path)
    same(loaded(path, "solo-learn"), network)


def test_solo_learns_momentum_copy_makes_the_branch_a_question(tmp_path):
    path, network = solo(tmp_path, momentum_backbone=resnet(7, width=64, **SOLO_CIFAR))
    with pytest.raises(EncoderError, match="student and teacher"):
        loaded(path, "solo-learn")
    same(loaded(path, "solo-learn", branch="student"), network)


def test_stable_pretraining_byol_gives_the_teacher_that_it_evaluates(tmp_path):
    parts = {
        "backbone__student": resnet(0), "backbone__teacher": resnet(1), "projector__student": projector(2),
        "projector__teacher": projector(3), "predictor": projector(4, 8), "callbacks_modules__probe": nn.Linear(32, 10),
    }  # fmt: skip
    path = save(tmp_path / "a.ckpt", {"state_dict": prefixed(**parts)})
    same(loaded(path, "stable-pretraining"), nn.Sequential(parts["backbone__teacher"], parts["projector__teacher"]))
    student = loaded(path, "stable-pretraining", branch="student")
    same(student, nn.Sequential(parts["backbone__student"], parts["projector__student"]))


def test_stable_pretraining_without_a_teacher(tmp_path):
    parts = {"backbone": resnet(), "projector": projector()}
    path = save(tmp_path / "a.ckpt", {"state_dict": prefixed(**parts)})
    same(loaded(path, "stable-pretraining"), nn.Sequential(*parts.values()))


def test_stable_pretraining_as_an_exported_folder(tmp_path):
    from safetensors.torch import save_file

    parts = {"backbone": resnet(), "projector": projector()}
    (tmp_path / "export").mkdir()
    save_file(dict(prefixed(**parts)), tmp_path / "export" / "model.safetensors")
    same(loaded(tmp_path / "export", "stable-pretraining"), nn.Sequential(*parts.values()))


@pytest.mark.parametrize("preset", ["barlowtwins-fair", "vicreg-fair"])
def test_fairs_full_checkpoints(preset, tmp_path):
    parts = {"module__backbone": resnet(), "module__projector": projector(bias=False)}
    if preset == "barlowtwins-fair":
        parts["module__bn"] = nn.BatchNorm1d(8, affine=False)
    path = save(tmp_path / "checkpoint.pth", {"epoch": 1, "model": prefixed(**parts), "optimizer": {"state": {}}})
    found = loaded(path, preset)
    same(found, nn.Sequential(parts["module__backbone"], parts["module__projector"]))
    assert found.note == ""


@pytest.mark.parametrize("preset", ["barlowtwins-fair", "vicreg-fair"])
def test_fairs_hub_files_have_no_projector_and_the_audit_is_labelled(preset, tmp_path):
    found = loaded(save(tmp_path / "resnet50.pth", resnet().state_dict()), preset)
    same(found, resnet())
    assert found.space == "backbone"
    assert "objective applied off its training space" in found.note


def test_vissl(tmp_path):
    model = {"trunk": prefixed(_feature_blocks=resnet()), "heads": {"0.clf.0.weight": torch.randn(8, 32)}}
    content = {"classy_state_dict": {"base_model": {"model": model}}, "phase": 1}
    found = loaded(save(tmp_path / "a.torch", content), "vissl")
    head = nn.Linear(32, 8, bias=False)
    head.weight.data.copy_(model["heads"]["0.clf.0.weight"])
    same(found, nn.Sequential(resnet(), head))


def test_vissls_two_heads_need_their_layers_said(tmp_path):
    first, second = nn.Linear(32, 32), nn.Linear(32, 8)
    heads = prefixed(**{"0__clf__0": first, "1__clf__0": second})
    model = {"trunk": prefixed(_feature_blocks=resnet()), "heads": heads}
    path = save(tmp_path / "a.torch", {"classy_state_dict": {"base_model": {"model": model}}})
    with pytest.raises(EncoderError, match="not numbered"):
        loaded(path, "vissl")
    found = loaded(path, "vissl", head={"layers": ["linear", "relu", "linear"]})
    same(found, nn.Sequential(resnet(), first, nn.ReLU(), second))


def test_bolts_simclr_with_its_unused_classifier(tmp_path):
    parts = {"encoder": resnet(), "projection__model": projector()}
    state = prefixed(**parts) | {"encoder.fc.weight": torch.zeros(10, 32), "encoder.fc.bias": torch.zeros(10)}
    found = loaded(save(tmp_path / "a.ckpt", {"state_dict": state}), "bolts")
    same(found, nn.Sequential(*parts.values()))
    assert sum(map(len, found.account.ignored.values())) == 2


@pytest.mark.parametrize("predictor", ["predictor", "online_network__predictor"])
def test_bolts_byol(predictor, tmp_path):
    parts = {
        "online_network__encoder": resnet(0), "online_network__projector__model": projector(1),
        f"{predictor}__model": projector(2, 8), "target_network__encoder": resnet(3),
        "target_network__projector__model": projector(4),
    }  # fmt: skip
    path = save(tmp_path / "a.ckpt", {"state_dict": prefixed(**parts)})
    student = nn.Sequential(parts["online_network__encoder"], parts["online_network__projector__model"])
    teacher = nn.Sequential(parts["target_network__encoder"], parts["target_network__projector__model"])
    same(loaded(path, "bolts"), student)
    same(loaded(path, "bolts", branch="teacher"), teacher)


def sthalles(tmp_path):
    backbone = resnet(n_out=32)
    backbone.fc = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    content = {"epoch": 9, "arch": "resnet18", "state_dict": prefixed(backbone=backbone), "optimizer": {}}
    return save(tmp_path / "checkpoint_0009.pth.tar", content), backbone.eval()


def test_sthalles_projector_is_split_off_fc(tmp_path):
    path, backbone = sthalles(tmp_path)
    found = loaded(path, "sthalles-simclr")
    same(found, backbone, scale=lambda x: x)
    assert found.space == "projection"


def test_sthalles_backbone_alone_is_the_network_before_fc(tmp_path):
    path, backbone = sthalles(tmp_path)
    backbone.fc = nn.Identity()
    found = loaded(path, "sthalles-simclr", space="backbone")
    same(found, backbone, scale=lambda x: x)
    assert "off its training space" in found.note


def learner(tmp_path, other=False):
    parts = {
        "net": resnet(5 if other else 0),
        "online_encoder__net": resnet(0), "online_encoder__projector": projector(1),
        "online_predictor": projector(2, 8),
        "target_encoder__net": resnet(3), "target_encoder__projector": projector(4),
    }  # fmt: skip
    return save(tmp_path / "learner.pt", prefixed(**parts)), parts


def test_byol_pytorchs_doubled_keys_are_checked_to_be_equal(tmp_path):
    path, parts = learner(tmp_path)
    found = loaded(path, "byol-pytorch")
    same(found, nn.Sequential(parts["online_encoder__net"], parts["online_encoder__projector"]))
    assert "'net.' holds the encoder once more, checked to be equal" in found.account.remarks


def test_byol_pytorchs_doubled_keys_that_differ_are_refused(tmp_path):
    path, _ = learner(tmp_path, other=True)
    with pytest.raises(EncoderError, match=r"'net\.' must hold the encoder .* differ"):
        loaded(path, "byol-pytorch")


def test_byol_pytorchs_teacher(tmp_path):
    path, parts = learner(tmp_path)
    found = loaded(path, "byol-pytorch", branch="teacher")
    same(found, nn.Sequential(parts["target_encoder__net"], parts["target_encoder__projector"]))


def scarf_mlp(seed, *widths):
    torch.manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1])).eval()


def test_scarf_networks_are_read_off_their_shapes_and_the_inverted_mask_is_turned(tmp_path):
    parts = {"encoder": scarf_mlp(0, 7, 16, 16), "pretraining_head": scarf_mlp(1, 16, 16, 16)}
    layers = ["linear", "relu", "dropout", "linear"]
    path = save(tmp_path / "scarf.pt", prefixed(**parts))
    found = loaded(path, "scarf", arch={"name": "inferred", "layers": layers})
    same(found, nn.Sequential(*parts.values()), torch.randn(4, 7), lambda x: x)
    assert found.recipe.views == {"name": "scarf", "rate": 0.4, "both": False}
    assert any("mask is inverted" in remark for remark in found.account.remarks)


@pytest.mark.parametrize("key", ["encoder_state_dict", "model_state_dict", None])
def test_ad_hoc_files_without_an_extension(key, tmp_path):
    network = mlp()
    state = network.state_dict()
    path = save(tmp_path / "weights", state if key is None else {key: state, "epoch": 1})
    recipe = Recipe(
        checkpoint=path.name,
        container=key,
        arch={"name": "krepes:MLP", "args": {"n_in": 6, "hidden": [12], "n_out": 5}},
    )
    same(build(recipe, tmp_path), network, torch.randn(4, 6), lambda x: x)


def test_data_parallel_is_a_prefix_like_another(tmp_path):
    path = save(tmp_path / "w.pth", prefixed(module=resnet()))
    same(build(Recipe(checkpoint=path.name, encoder_prefix="module."), tmp_path), resnet(), scale=lambda x: x)


def test_a_file_of_another_framework_is_refused_with_what_its_keys_start_with(tmp_path):
    path = save(tmp_path / "w.ckpt", {"state_dict": prefixed(trunk=resnet())})
    with pytest.raises(EncoderError, match=r"not laid out as lightly.*keys start with trunk"):
        loaded(path, "lightly")


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="'lightning' is unknown; expected one of lightly"):
        completed(Recipe(preset="lightning"))


def test_an_objective_without_known_constants_must_state_them():
    with pytest.raises(ConfigError, match="knows the constants of vicreg, not of simclr"):
        completed(Recipe(preset="vicreg-fair", objective={"name": "simclr"}))
    stated = {"name": "simclr", "temperature": 0.3}
    assert completed(Recipe(preset="vicreg-fair", objective=stated)).objective == stated


def test_constants_of_the_recipe_go_before_those_of_the_preset():
    found = completed(Recipe(preset="solo-learn", objective={"name": "barlow_twins", "scale": 0.1})).objective
    assert found == {"name": "barlow_twins", "scale": 0.1, "weight": 5.1e-3}
