"""Every way in which loading usually fails silently is loud here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import krepes
from krepes.encoders import Recipe, build
from krepes.encoders.loading import load_part
from krepes.encoders.recipe import Fingerprint
from krepes.encoders.state import divide, state_at
from krepes.errors import EncoderError
from tests.encoders.small import Cut, images, mlp, prefixed, projector, resnet, save

SMALL = {"name": "krepes:MLP", "args": {"n_in": 6, "hidden": [12], "n_out": 5}}


def refused(path, **fields) -> str:
    with pytest.raises(EncoderError) as error:
        build(Recipe(checkpoint=path.name, **fields), path.parent)
    return str(error.value)


def test_a_wrong_prefix_never_leaves_random_weights(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(backbone=mlp()))
    message = refused(path, arch=SMALL)
    assert "missing    4 tensors: layers.0.weight" in message
    assert "unexpected 4 tensors" in message
    assert "the file has these names under the prefix 'backbone.'; the recipe says ''" in message


def test_a_prefix_that_is_nowhere_is_refused(tmp_path):
    assert "no key under the encoder's prefix 'net.'; its keys start with backbone" in refused(
        save(tmp_path / "w.pt", prefixed(backbone=mlp())), encoder_prefix="net.", arch=SMALL
    )


def test_one_missing_tensor_is_enough(tmp_path):
    state = mlp().state_dict()
    del state["layers.2.bias"]
    assert "missing    1 tensors: layers.2.bias" in refused(save(tmp_path / "w.pt", state), arch=SMALL)


def test_names_that_lstrip_damaged_are_met_with_the_likely_ones(tmp_path):
    state = {k.lstrip("backbone."): v for k, v in prefixed(backbone=resnet()).items()}  # noqa: B005  as users do
    assert "v1.weight" in state
    message = refused(save(tmp_path / "w.pt", state), arch={"name": "krepes:ResNet18", "args": {"width": 4}})
    assert "'conv1.weight' is missing and 'v1.weight' has no place: the same tensor?" in message


def test_a_prefix_is_removed_and_not_its_letters(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(backbone=resnet()))
    found = build(Recipe(checkpoint=path.name, encoder_prefix="backbone."), tmp_path)
    assert found.account.complete
    with torch.no_grad():
        torch.testing.assert_close(found.module(images()), resnet()(images()))


def test_an_unexpected_tensor_is_refused_unless_a_pattern_allows_it(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(net=mlp(), classifier=nn.Linear(5, 2)))
    assert "unexpected 2 tensors (12 numbers): classifier.weight" in refused(path, encoder_prefix="net.", arch=SMALL)
    recipe = Recipe(checkpoint=path.name, encoder_prefix="net.", arch=SMALL, allow=["classifier.*"])
    account = build(recipe, tmp_path).account
    assert account.ignored == {"allowed by classifier.*": {"classifier.weight": 10, "classifier.bias": 2}}
    assert len(account.loaded) == 4
    assert sum(account.loaded.values()) == sum(p.numel() for p in mlp().parameters())


def test_a_pattern_allows_leaving_out_but_never_missing(tmp_path):
    state = mlp().state_dict()
    del state["layers.2.bias"]
    assert "missing" in refused(save(tmp_path / "w.pt", state), arch=SMALL, allow=["layers.*"])


def test_another_shape_is_refused_with_both(tmp_path):
    path = save(tmp_path / "w.pt", mlp(hidden=(11,)).state_dict())
    assert "layers.0.weight is (11, 6), the network has (12, 6)" in refused(path, arch=SMALL)


def test_counters_of_batches_may_be_missing_or_left_over(tmp_path):
    head = projector()
    state = {k: v for k, v in prefixed(e=mlp(n_out=32), h=head).items() if not k.endswith("num_batches_tracked")}
    path = save(tmp_path / "w.pt", state | {"e.num_batches_tracked": torch.tensor(1)})
    recipe = Recipe(
        checkpoint=path.name,
        encoder_prefix="e.",
        head_prefix="h.",
        arch={**SMALL, "args": {**SMALL["args"], "n_out": 32}},
    )
    found = build(recipe, tmp_path)
    with torch.no_grad():
        x = torch.randn(3, 6)
        torch.testing.assert_close(found.module(x), head(mlp(n_out=32)(x)))


def two_networks(tmp_path):
    return save(tmp_path / "w.pt", prefixed(online=mlp(0), target=mlp(1)))


def test_two_networks_of_the_same_shapes_are_never_chosen_between(tmp_path):
    message = refused(two_networks(tmp_path), encoder_prefix="online.", arch=SMALL, allow=["target.*"])
    assert "two networks of the same shapes and other values, 'online.' and 'target.'" in message


@pytest.mark.parametrize(("prefix", "branch", "seed"), [("online.", "student", 0), ("target.", "teacher", 1)])
def test_the_branch_that_the_recipe_says_is_loaded_and_noted(prefix, branch, seed, tmp_path):
    path = two_networks(tmp_path)
    recipe = Recipe(
        checkpoint=path.name, encoder_prefix=prefix, arch=SMALL, allow=["target.*", "online.*"], branch=branch
    )
    found = build(recipe, tmp_path)
    x = torch.randn(3, 6)
    torch.testing.assert_close(found.module(x), mlp(seed)(x))
    assert any(f"taken as the {branch}" in remark for remark in found.account.remarks)


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "lightly", "encoder_prefix": "backbone.", "branch": "teacher"},
        {"preset": "lightly", "encoder_prefix": "teacher_backbone.", "branch": "student"},
        {"encoder_prefix": "target.", "branch": "student", "arch": SMALL},
        {"encoder_prefix": "online.", "branch": "teacher", "arch": SMALL},
    ],
)
def test_a_branch_that_its_prefix_contradicts_is_refused(fields, tmp_path):
    content = prefixed(online=mlp(0), target=mlp(1), backbone=resnet(0), teacher_backbone=resnet(1))
    assert "is another branch's prefix" in refused(
        save(tmp_path / "w.pt", {"state_dict": content}), container="state_dict", **fields
    )


def test_copies_with_equal_values_are_noted(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(a=mlp(), b=mlp()))
    found = build(Recipe(checkpoint=path.name, encoder_prefix="a.", arch=SMALL, allow=["b.*"]), tmp_path)
    assert "'b.' holds the same values as 'a.'" in found.account.remarks


def test_a_container_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    path = save(tmp_path / "w.pt", {"model_state_dict": mlp().state_dict(), "epoch": 1})
    message = refused(path, container="state_dict", arch=SMALL)
    assert "has no 'state_dict' under its top; there: model_state_dict, epoch" in message
    assert "State dicts are at: model_state_dict" in message


def test_a_file_with_an_optimizer_beside_the_network_needs_its_container(tmp_path):
    content = {"net": mlp().state_dict(), "optimizer": {"state": {"m": torch.ones(2)}}}
    assert "say which is the network" in refused(save(tmp_path / "w.pt", content), arch=SMALL)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.ones(2)])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    assert "holds" in refused(save(tmp_path / "w.pt", content), arch=SMALL)


def test_a_projector_that_is_asked_for_and_not_there_is_refused(tmp_path):
    path = save(tmp_path / "w.pt", {"state_dict": prefixed(backbone=resnet())})
    message = refused(path, preset="lightly", space="projection")
    assert "no key under 'projection_head.'" in message
    assert "Say space: backbone" in message


def test_a_backbone_alone_is_labelled(tmp_path):
    path = save(tmp_path / "w.pt", {"state_dict": prefixed(backbone=resnet())})
    found = build(Recipe(preset="lightly", checkpoint=path.name), tmp_path)
    assert found.note.startswith("objective applied off its training space")


def test_a_projector_that_is_there_and_not_audited_is_accounted_for(tmp_path):
    path = save(tmp_path / "w.pt", {"state_dict": prefixed(backbone=resnet(), projection_head__layers=projector())})
    found = build(Recipe(preset="lightly", checkpoint=path.name, space="backbone"), tmp_path)
    assert len(found.account.ignored["the audited space is backbone"]) == len(projector().state_dict())
    assert "off its training space" in found.note


def test_a_projector_of_another_width_is_refused(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(e=mlp(n_out=5), h=projector(n_in=7)))
    message = refused(path, encoder_prefix="e.", head_prefix="h.", arch=SMALL)
    assert "cannot process a batch" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, tmp_path):
    state = mlp().state_dict()
    state["layers.0.weight"][1, 2] = value
    assert "'layers.0.weight' holds NaN or infinity" in refused(save(tmp_path / "w.pt", state), arch=SMALL)


def test_half_precision_is_read_and_noted(tmp_path):
    path = save(tmp_path / "w.pt", mlp().half().state_dict())
    found = build(Recipe(checkpoint=path.name, arch=SMALL), tmp_path)
    assert found.account.remarks == ("float16 read as torch.float32", "not normalised")
    assert next(found.module.parameters()).dtype == torch.float32


STEM = {"name": "krepes:ResNet18", "args": {"width": 4, "stem": "cifar", "stem_padding": 2}}


def test_another_stem_padding_has_the_same_shapes_and_fails_the_fingerprint(tmp_path):
    path = save(tmp_path / "w.pt", resnet(stem="cifar", stem_padding=2).state_dict())
    stated = build(Recipe(checkpoint=path.name, arch=STEM), tmp_path).fingerprint
    assert build(Recipe(checkpoint=path.name, arch=STEM, fingerprint=stated), tmp_path).account.complete
    other = {**STEM, "args": {**STEM["args"], "stem_padding": 1}}
    assert "Same shapes, another function" in refused(path, arch=other, fingerprint=stated)


def test_another_normalisation_fails_the_fingerprint(tmp_path):
    path = save(tmp_path / "w.pt", resnet().state_dict())
    mean = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    stated = build(Recipe(checkpoint=path.name, preprocess=mean), tmp_path).fingerprint
    other = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert "another function" in refused(path, preprocess=other, fingerprint=stated)


def test_another_activation_in_the_projector_fails_the_fingerprint(tmp_path):
    path = save(tmp_path / "w.pt", prefixed(e=mlp(n_out=32), h=projector()))
    parts = {"encoder_prefix": "e.", "head_prefix": "h.", "arch": {**SMALL, "args": {**SMALL["args"], "n_out": 32}}}
    stated = build(Recipe(checkpoint=path.name, **parts), tmp_path).fingerprint
    assert "another function" in refused(path, **parts, head={"activation": "gelu"}, fingerprint=stated)


def test_a_small_stem_of_unknown_origin_is_not_guessed(tmp_path):
    path = save(tmp_path / "w.pt", resnet(stem="cifar", stem_padding=2).state_dict())
    assert "whose padding the weights do not say" in refused(path)


def test_a_fingerprint_of_another_length_is_refused(tmp_path):
    path = save(tmp_path / "w.pt", mlp().state_dict())
    stated = Fingerprint(values=[1.0], size=1.0)
    assert "is not the one that the recipe describes" in refused(path, arch=SMALL, fingerprint=stated)


def test_another_file_under_the_same_name_is_refused(tmp_path):
    path = save(tmp_path / "w.pt", mlp().state_dict())
    assert "the recipe says 00000000" in refused(path, arch=SMALL, weights_sha256="0" * 64)


@pytest.mark.parametrize(
    ("scale", "message"), [(lambda x: x * 255, "values up to 255"), (lambda x: (x - 0.5) / 0.2, "normalised already")]
)
def test_images_that_are_prepared_otherwise_are_refused(scale, message, tmp_path):
    path = save(tmp_path / "w.pt", resnet().state_dict())
    mean = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    module = build(Recipe(checkpoint=path.name, preprocess=mean), tmp_path).module
    with torch.no_grad(), pytest.raises(EncoderError, match=message):
        module(scale(images()))


def test_a_normalisation_is_part_of_the_encoders_identity(tmp_path):
    path = save(tmp_path / "w.pt", resnet().state_dict())
    prints = {
        krepes.encoders.FrozenEncoder(build(Recipe(checkpoint=path.name, preprocess=p), tmp_path).module).fingerprint()
        for p in ({"mean": [m] * 3, "std": [0.2] * 3} for m in (0.4, 0.5))
    }
    assert len(prints) == 2


def test_images_with_other_channels_are_refused(tmp_path):
    path = save(tmp_path / "w.pt", resnet().state_dict())
    mean = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    module = build(Recipe(checkpoint=path.name, preprocess=mean), tmp_path).module
    with pytest.raises(EncoderError, match="have 1 channels"):
        module(images()[:, :1])


def test_outputs_of_a_network_that_was_cut_are_flattened(tmp_path):
    path = save(tmp_path / "w.pt", Cut().state_dict())
    found = build(Recipe(checkpoint=path.name, arch="tests.encoders.small:Cut"), tmp_path, trust_code=True)
    assert found.module(images()).shape == (3, 5)


def test_a_classifier_that_the_file_lacks_is_answered_with_the_way_out(tmp_path):
    path = save(tmp_path / "w.pt", resnet().state_dict())
    arch = {"name": "krepes:ResNet18", "args": {"width": 4, "n_out": 10}}
    assert "say arch.identity: [fc]" in refused(path, arch=arch)
    assert build(Recipe(checkpoint=path.name, arch={**arch, "identity": ["fc"]}), tmp_path).account.complete


def test_two_tensors_never_get_one_name(tmp_path):
    state = {"a": {"b": torch.ones(1)}, "a.b": torch.ones(2)}
    assert "two tensors of one name: 'a.b'" in refused(save(tmp_path / "w.pt", state))
    path = save(tmp_path / "v.pt", {"x.w": torch.ones(1), "y.w": torch.ones(1)})
    assert "rename gives two tensors" in refused(path, rename={"x": "y"})


def test_names_are_replaced_where_the_recipe_says_so(tmp_path):
    state = {k.replace("layers", "blocks"): v for k, v in mlp().state_dict().items()}
    path = save(tmp_path / "w.pt", state)
    found = build(Recipe(checkpoint=path.name, arch=SMALL, rename={"blocks": "layers"}), tmp_path)
    x = torch.randn(2, 6)
    torch.testing.assert_close(found.module(x), mlp()(x))


def test_the_built_encoder_is_frozen_in_eval_mode_and_goes_through_an_audit(tmp_path):
    path = save(tmp_path / "w.pt", mlp().state_dict())
    module = build(Recipe(checkpoint=path.name, arch=SMALL), tmp_path).module
    assert not any(m.training for m in module.modules())
    auditor = krepes.Auditor(module, "vicreg", landmarks=12).fit(
        torch.randn(40, 6), views=lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g)
    )
    assert len(auditor.explain(torch.randn(2, 6), top_k=3)) == 6


names = st.lists(st.sampled_from(["a", "b", "c", "net.a", "net.b", "head.a", "net.head.a"]), unique=True, min_size=1)


@settings(max_examples=60, deadline=None)
@given(names, st.sampled_from(["", "net."]), st.sampled_from([None, "head.", "net.head."]))
def test_every_key_belongs_to_exactly_one_part(keys, prefix, head):
    state = {k: torch.ones(i + 1) for i, k in enumerate(keys)}
    parts = divide(state, {"encoder": prefix, "head": head, "predictor": None})
    back = {prefix + n: t for n, t in parts.encoder.items()} | {(head or "") + n: t for n, t in parts.head.items()}
    assert {k: t.numel() for k, t in (back | parts.rest).items()} == {k: t.numel() for k, t in state.items()}
    assert len(parts.encoder) + len(parts.head) + len(parts.rest) == len(state)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(list(mlp().state_dict()))), st.sets(st.sampled_from(["x", "y.z"])))
def test_the_account_adds_up(dropped, added):
    state = {k: v for k, v in mlp().state_dict().items() if k not in dropped} | {k: torch.ones(3) for k in added}
    account = load_part(mlp(1), state, "", [], {})
    assert set(account.missing) == dropped
    assert set(account.unexpected) == added
    assert set(account.loaded) == set(state) - added
    assert account.complete == (not dropped and not added)


def test_nested_mappings_are_one_state_dict():
    content = {"trunk": {"a": torch.ones(1)}, "heads": {"0": {"w": torch.ones(2)}}, "epoch": 1}
    assert list(state_at(content, [], "x")) == ["trunk.a", "heads.0.w"]
