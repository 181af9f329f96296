"""Recipes as files: what is wrong in them is named with its place."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from krepes.encoders import Recipe
from krepes.errors import ConfigError

FULL = """\
checkpoint: last.ckpt
container: state_dict
encoder_prefix: backbone.
head_prefix: projector.
arch:
  name: krepes:ResNet18
  args: {stem: cifar, stem_padding: 2}
space: projection
objective: {name: barlow_twins, weight: 5e-3}
preprocess:
  size: 32
  mean: [0.5, 0.5, 0.5]
  std: [0.2, 0.2, 0.2]
branch: student
"""


def wrong(tmp_path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        Recipe.load(path)
    return str(error.value).replace(f"{tmp_path}/", "")


def test_a_recipe_is_read(tmp_path):
    (tmp_path / "r.yaml").write_text(FULL)
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert recipe.container == ["state_dict"]
    assert recipe.objective == {"name": "barlow_twins", "weight": 0.005}


def test_views_may_be_composed_and_objectives_need_a_name():
    assert Recipe(views={"compose": [{"name": "gaussian", "std": 0.1}]}).views
    with pytest.raises(ValidationError, match="expected a 'name'"):
        Recipe(objective={"compose": []})


def test_a_saved_recipe_reads_back_equal(tmp_path):
    (tmp_path / "r.yaml").write_text(FULL)
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert Recipe.load(recipe.save(tmp_path / "again.yaml")) == recipe


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("head_prefix", "head_prefx", "recipe.yaml:4:1: head_prefx: there is no such field"),
        ("size: 32", "size: none", "recipe.yaml:11:3: preprocess.size: "),
        ("  std: [0.2, 0.2, 0.2]\n", "", "recipe.yaml:10:1: preprocess: Value error, mean and std go together"),
        ("std: [0.2, 0.2, 0.2]", "std: [0.2, 0.2]", "recipe.yaml:10:1: preprocess: Value error, mean has 3 channels"),
        ("mean: [0.5, 0.5, 0.5]", "mean: [127, 127, 127]", "divide those of values up to 255 by 255"),
        ("[0.5, 0.5, 0.5]", "[0.5, x, 0.5]", "recipe.yaml:12:15: preprocess.mean.1: "),
        ("student", "pupil", "recipe.yaml:14:1: branch: "),
        ("space: projection", "space: projector", "recipe.yaml:8:1: space: "),
        ("name: barlow_twins, ", "", "recipe.yaml:9:1: objective: Value error, expected a 'name'"),
        ("space: projection", "branch: teacher", "recipe.yaml:14:1: 'branch' is given twice, first in line 8"),
        ("space: projection", "allow: ['*']", "would make any file fit"),
        ("space: projection", "space: [", "recipe.yaml:10:1: this is not valid YAML: expected ',' or ']'"),
        ("space: projection", "allow: [&a x, *a]", "recipe.yaml:8:15: aliases"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_column(old, new, message, tmp_path):
    assert old in FULL
    assert message in wrong(tmp_path, FULL.replace(old, new))


def test_all_mistakes_are_told_at_once(tmp_path):
    found = wrong(tmp_path, FULL.replace("student", "pupil").replace("space:", "room:"))
    assert "recipe.yaml:8:1" in found
    assert "recipe.yaml:14:1" in found


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text\n"])
def test_a_file_without_fields_is_refused(text, tmp_path):
    assert "expected a recipe's fields" in wrong(tmp_path, text)


def test_a_recipe_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        Recipe.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        Recipe.load(tmp_path / "binary.yaml")


def test_a_leading_byte_order_mark_is_nothing(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + FULL.encode())
    assert Recipe.load(tmp_path / "r.yaml").branch == "student"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    container=st.lists(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1), max_size=3),
    prefix=st.text(st.characters(blacklist_categories=("Cs", "Cc"))),
)
def test_any_names_survive_saving(container, prefix, tmp_path):
    recipe = Recipe(container=container, encoder_prefix=prefix, rename={prefix: "a"})
    found = Recipe.load(recipe.save(tmp_path / "r.yaml"))
    assert (found.container, found.encoder_prefix, found.rename) == (container, prefix, {prefix: "a"})
