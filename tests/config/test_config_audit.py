"""What a recipe may say beside a configuration, and mistakes of a configuration by line and column."""

import pytest

from krepes.config import Config, ViewsConfig, read_config, with_recipe
from krepes.encoders import Recipe
from krepes.errors import ConfigError, KrepesWarning
from krepes.pretrain import read_pretrain_config

MOMENTS = {"mean": [0.5] * 3, "std": [0.2] * 3}
PREPARED = {"size": 14, "crop": 0.875, "interpolation": "bicubic"}


def settings(folder, preprocess=None, recipe=None, views=None) -> Config:
    views = views or {"name": "gaussian"}
    Recipe(checkpoint="w.pt", objective={"name": "vicreg"}, views=views, preprocess=recipe).save(folder / "recipe.yaml")
    content = {"encoder": {"recipe": "recipe.yaml"}, "data": {"images": "photos", "preprocess": preprocess}}
    return Config.model_validate(content)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_images_that_data_and_encoder_would_both_normalise_are_refused(name, tmp_path):
    given = settings(tmp_path, {name: MOMENTS[name]}, PREPARED | MOMENTS)
    with pytest.raises(ConfigError, match=rf"data\.preprocess\.{name}=.*recipe\.yaml normalises .* twice\. Leave"):
        with_recipe(given, tmp_path)


def test_data_normalise_where_the_recipes_encoder_does_not(tmp_path):
    found = with_recipe(settings(tmp_path, MOMENTS, PREPARED), tmp_path).data.preprocess
    assert found is not None
    assert found.mean == MOMENTS["mean"]


@pytest.mark.parametrize(
    ("given", "expected"), [({"size": 20}, 16), ({"crop": 16}, 14), ({"interpolation": "bilinear"}, "'bicubic'")]
)
def test_another_size_crop_or_interpolation_than_the_recipes_is_refused(given, expected, tmp_path):
    (name,) = given
    with pytest.raises(ConfigError, match=rf"data\.preprocess\.{name}=.*was trained with {name} {expected}"):
        with_recipe(settings(tmp_path, given, PREPARED), tmp_path)


def test_another_side_than_that_of_a_recipe_without_a_crop_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.preprocess\.crop=20, but .* crop 14"):
        with_recipe(settings(tmp_path, {"size": 24, "crop": 20}, {"size": 14}), tmp_path)
    found = with_recipe(settings(tmp_path, {"size": 24, "crop": 14}, {"size": 14}), tmp_path).data.preprocess
    assert found is not None
    assert (found.size, found.crop) == (24, 14)


def test_what_data_leave_open_is_the_recipes(tmp_path):
    given = {"mode": "L", "crop": [14, 14]}
    found = with_recipe(settings(tmp_path, given, PREPARED | MOMENTS), tmp_path).data.preprocess
    assert found is not None
    assert (found.mode, found.size, found.crop, found.interpolation) == ("L", 16, [14, 14], "bicubic")


HOSTILE = {"name": "os:system", "args": {"command": "true"}}


@pytest.mark.parametrize(
    "views",
    [HOSTILE, {"compose": [{"name": "gaussian"}, HOSTILE]}, {"pair": [{"compose": [HOSTILE]}, {"name": "gaussian"}]}],
)
def test_an_import_path_in_a_recipes_views_is_refused(views, tmp_path):
    with pytest.raises(ConfigError, match=r"recipe\.yaml: views\.name 'os:system' is an import path.*your own config"):
        with_recipe(settings(tmp_path, views=views), tmp_path)


def test_an_import_path_in_the_users_own_views_is_taken(tmp_path):
    own = ViewsConfig.model_validate({"name": "my.views:Mine"})
    with pytest.warns(KrepesWarning, match="trained with .*os:system"):
        found = with_recipe(settings(tmp_path, views=HOSTILE).model_copy(update={"views": own}), tmp_path)
    assert found.views is not None
    assert found.views.name == "my.views:Mine"


GOOD = "encoder: {recipe: r}\ndata:\n  array: x.npy\nviews: {name: gaussian}\nobjective: {name: vicreg}\n"


@pytest.mark.parametrize("read", [read_config, read_pretrain_config])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  array: a\n  array: b\n", r"c\.yaml:3:3: 'array' is given twice, first in line 2"),
        ("data: &d {array: a}\ntrain: *d\n", r"c\.yaml:2:8: aliases \(\*d\) are not used here"),
        ("data:\n  array: [1\n", r"c\.yaml:3:1: this is not valid YAML"),
        ("- 1\n", r"c\.yaml holds list"),
    ],
)
def test_a_file_that_is_no_plain_configuration_is_named_with_its_line(read, text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "c.yaml")


def test_a_wrong_value_is_named_with_line_and_column(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD.replace("array: x.npy", "array: x.npy\n  rows: none"))
    with pytest.raises(ConfigError, match=r"c\.yaml:\n  4:3: data\.rows: .*\(found 'none'\)"):
        read_config(tmp_path / "c.yaml")


def test_a_wrong_override_is_named_without_a_line_of_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"c\.yaml:\n  --set landmarks\.m=many: landmarks\.m: "):
        read_config(tmp_path / "c.yaml", ["landmarks.m=many"])
    with pytest.raises(ConfigError, match=r"expected key=value, such as landmarks\.m=500"):
        read_config(tmp_path / "c.yaml", ["landmarks.m"])


def test_a_configuration_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*c\.yaml"):
        read_config(tmp_path / "c.yaml")
