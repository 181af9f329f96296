"""Mistakes of a configuration as a user reads them: what there is not, what was meant, and where it stands."""

import re

import pytest
from typer.testing import CliRunner

from krepes.cli import app
from krepes.config import Config, read_config
from krepes.encoders import Recipe
from krepes.errors import ConfigError

GOOD = "encoder: {recipe: r}\ndata:\n  array: x.npy\nviews: {name: gaussian}\nobjective: {name: vicreg}\n"


def said(folder, text: str = "", overrides=()) -> str:
    """What reading a configuration with these lines and options complains of, without the file's name."""
    (folder / "c.yaml").write_text(GOOD + text)
    with pytest.raises(ConfigError) as error:
        read_config(folder / "c.yaml", list(overrides))
    return str(error.value).partition("c.yaml:\n")[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("landmraks: {m: 3}", "6:1: unknown setting 'landmraks'; did you mean 'landmarks'?"),
        ("report:\n  top: 3", "7:3: report.top: unknown setting 'top'; did you mean 'top_k'?"),
        ("audit:\n  concepts:\n    old:\n      positve: a > 1\n",
         "9:7: audit.concepts.old.positve: unknown setting 'positve'; did you mean 'positive'?"),
        ("engine: {zzz: 1}", "6:10: engine.zzz: unknown setting 'zzz'; expected one of memory, precision, store"),
        ("newton:\n  tol: 0.1\n  dampnig: 1",
         "8:3: newton.dampnig: unknown setting 'dampnig'; did you mean 'damping'?"),
        ("kernel: {variant: trace, centre: true}",
         "6:26: kernel.centre: unknown setting 'centre'; did you mean 'center'?"),
        ("trust: {refit: false}", "6:9: trust.refit: unknown setting 'refit'; did you mean 'refits'?"),
    ],
)  # fmt: skip
def test_an_unknown_setting_is_named_with_the_nearest_one_and_its_place(text, message, tmp_path):
    assert said(tmp_path, text) == f"  {message}"


def test_a_column_of_data_is_told_by_the_key_that_a_file_uses(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD.replace("array: x.npy", "table: t.csv\n  schmea: s.json"))
    with pytest.raises(ConfigError, match=r"4:3: data\.schmea: unknown setting 'schmea'; did you mean 'schema'\?$"):
        read_config(tmp_path / "c.yaml")


def test_a_constant_that_an_objective_has_not_is_named_with_its_place(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD.replace("{name: vicreg}", "\n  name: simclr\n  temprature: 0.1"))
    with pytest.raises(ConfigError, match=r"7:3: objective\.temprature: unknown .*; did you mean 'temperature'"):
        read_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text(GOOD.replace("{name: vicreg}", "{name: simcl}"))
    with pytest.raises(ConfigError, match=r"5:13: objective 'simcl' is unknown; did you mean simclr\?"):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("newton: {steps: 1, tol: 5}", "newton: steps=1, max_iter=200, tol=5; expected"),
        ("kernel: {center: true, sketch: 4}", "6:24: kernel: sketch=4 with kernel 'trace'; expected"),
        ("newton: {damping: [1]}", "6:1: newton: {'damping': [1]}: "),
        (f"newton: {{damping: 1{'0' * 400}}}", "6:10: newton.damping is a whole number of 1329 bits; expected"),
        (f"newton:\n  tol: 0.1\n  steps: -0x{'f' * 5000}", "8:3: newton.steps is a whole number of 20000 bits"),
        ("newton: auto", "6:1: newton: expected settings (key: value) (found 'auto')"),
    ],
)
def test_a_value_that_the_method_refuses_is_named_with_its_place(text, message, tmp_path):
    assert message in said(tmp_path, text)


def test_a_huge_constant_of_an_objective_is_told_in_words(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD.replace("vicreg}", f"simclr, temperature: 1{'0' * 400}}}"))
    with pytest.raises(ConfigError, match=r"5:27: objective\.temperature is a whole number of 1329 bits; expected"):
        read_config(tmp_path / "c.yaml")


def test_two_mistakes_of_one_section_are_both_told(tmp_path):
    lines = said(tmp_path, "newton:\n  stepps: 1\n  dampnig: 1\n").splitlines()
    assert [line.split()[0] for line in lines] == ["7:3:", "8:3:"]


def test_views_settings_are_named_with_the_nearest_one_and_their_place(tmp_path):
    text = GOOD.replace("{name: gaussian}", "\n  compose:\n    - name: gaussian\n      sdt: 0.1")
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"7:7: views\.sdt is no setting of gaussian; did you mean std\? it has: std"):
        read_config(tmp_path / "c.yaml")


def test_a_misspelt_setting_that_is_needed_is_one_mistake(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD.replace("encoder:", "encodr:"))
    with pytest.raises(ConfigError, match=r"c\.yaml:\n  1:1: unknown setting 'encodr'; did you mean 'encoder'\?$"):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("landmark.m=60", "unknown setting 'landmark'; did you mean 'landmarks'?"),
        ("landmarks.mm=60", "landmarks.mm: unknown setting 'mm'; did you mean 'm'?"),
        ("landmarks={n: 6}", "landmarks.n: unknown setting 'n'; expected one of sampler, m, space, rows"),
        ("newton.dampnig=1", "newton.dampnig: unknown setting 'dampnig'; did you mean 'damping'?"),
        ("data.hugging_face.column=x", "data.hugging_face.path: Field required"),
    ],
)
def test_a_mistake_of_an_option_names_the_option(option, message, tmp_path):
    assert said(tmp_path, "", [option]) == f"  --set {option}: {message}"


def test_of_several_options_the_one_with_the_mistake_is_named(tmp_path):
    options = ["landmarks.m=3", "landmarks.spcae=input", "seed=1"]
    assert said(tmp_path, "", options).startswith("  --set landmarks.spcae=input: landmarks.spcae: unknown")


def test_a_mistake_of_the_file_is_told_by_its_line_beside_an_option(tmp_path):
    found = said(tmp_path, "newton:\n  dampnig: 1", ["newton.tol=0.1"])
    assert found == "  7:3: newton.dampnig: unknown setting 'dampnig'; did you mean 'damping'?"


def test_a_section_that_an_option_made_wrong_names_line_and_option(tmp_path):
    assert said(tmp_path, "", ["encoder.weights=w"]).startswith("  1:1 and --set encoder.weights=w: encoder: 'recipe'")


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("objective: vicreg", {"objective": {"name": "vicreg"}}),
        ("kernel: pseudo", {"kernel": {"variant": "pseudo"}}),
        ("landmarks: uniform", {"landmarks": {"sampler": "uniform"}}),
        ("landmarks: 60", {"landmarks": {"m": 60}}),
    ],
)
def test_a_name_or_number_alone_is_the_settings_that_it_stands_for(short, whole, tmp_path):
    text = GOOD.replace("objective: {name: vicreg}\n", "") + short
    (tmp_path / "c.yaml").write_text(text)
    found = read_config(tmp_path / "c.yaml")
    plain = {"encoder": {"recipe": "r"}, "data": {"array": "x.npy"}, "views": {"name": "gaussian"}}
    assert found == Config.model_validate(plain | whole)
    assert found.model_dump(mode="json") == Config.model_validate(plain | whole).model_dump(mode="json")


def test_a_setting_inside_a_name_alone_says_how_to_give_it(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD.replace("{name: vicreg}", "vicreg"))
    with pytest.raises(
        ConfigError, match=r"'objective' holds a value, not a section; give it whole, --set 'objective=\{"
    ):
        read_config(tmp_path / "c.yaml", ["objective.variance=1"])


@pytest.mark.parametrize("verb", ["inspect", "audit", "plan", "pretrain"])
def test_a_recipe_is_told_from_a_configuration(verb, tmp_path):
    path = Recipe(preset="lightly", checkpoint="w.pt", objective={"name": "vicreg"}).save(tmp_path / "recipe.yaml")
    result = CliRunner().invoke(app, [verb, str(path)])
    shown = re.sub(r"\s+", " ", result.output)
    assert result.exit_code == 1
    assert "recipe.yaml is a recipe (it says preset, checkpoint)" in shown
    assert "encoder: {recipe: recipe.yaml}" in shown
    assert "Field required" not in shown


def test_a_configuration_without_data_is_not_taken_for_a_recipe(tmp_path):
    (tmp_path / "c.yaml").write_text("encoder: {recipe: r}\npreset: lightly\n")
    with pytest.raises(ConfigError, match="data: Field required"):
        read_config(tmp_path / "c.yaml")
