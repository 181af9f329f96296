"""What a configuration leaves out is taken from its encoder's recipe; and the verbs that read checkpoint files."""

import pytest
import yaml
from typer.testing import CliRunner

from krepes.cli import app
from krepes.config import Config, with_recipe
from krepes.encoders import Recipe
from krepes.errors import ConfigError, KrepesWarning
from tests.encoders.small import prefixed, projector, resnet, save

OBJECTIVE = {"name": "simclr", "temperature": 0.3}
PREPARED = {"size": 14, "crop": 0.875, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.2] * 3}
IMAGES = {"images": "photos"}


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe; settings about nothing else read the checkpoint, so there is none."""

    def write(**fields):
        told = {"objective": OBJECTIVE, "views": {"name": "gaussian", "std": 0.2}, "preprocess": PREPARED} | fields
        plain = {k: v for k, v in told.items() if v is not None}
        Recipe.model_validate({"checkpoint": "w.pt"} | plain).save(tmp_path / "recipe.yaml")

    write()
    return write


def settings(data=IMAGES, **more) -> Config:
    return Config.model_validate({"encoder": {"recipe": "recipe.yaml"}, "data": data} | more)


def test_objective_and_views_are_the_recipes(recipe, tmp_path):
    found = with_recipe(settings(), tmp_path)
    assert found.objective == OBJECTIVE
    assert found.views is not None
    assert found.views.model_dump() == {"name": "gaussian", "std": 0.2}


def test_images_are_resized_and_cropped_but_not_normalised_twice(recipe, tmp_path):
    prepared = with_recipe(settings(), tmp_path).data.preprocess
    assert prepared is not None
    assert (prepared.size, prepared.crop, prepared.interpolation) == (16, 14, "bicubic")
    assert (prepared.mean, prepared.std) == (None, None)


@pytest.mark.parametrize("data", [{"packed": "p.npz"}, {"array": "a.npy", "layout": "NHWC"}])
def test_packed_images_and_arrays_of_images_are_prepared_alike(data, recipe, tmp_path):
    prepared = with_recipe(settings(data), tmp_path).data.preprocess
    assert prepared is not None
    assert prepared.size == 16


TOKENS = {"tokenizer": "words", "length": 3}


@pytest.mark.parametrize(
    ("more", "decoded"), [({}, True), ({"preprocess": None}, False), ({"hugging_face": TOKENS}, False)]
)
def test_a_datasets_images_are_prepared_unless_it_says_that_they_are_none(more, decoded, recipe, tmp_path):
    hub = {"path": "photos", "column": "x", **more.get("hugging_face", {})}
    prepared = with_recipe(settings({**more, "hugging_face": hub}), tmp_path).data.preprocess
    assert (prepared is not None) == decoded


@pytest.mark.parametrize("data", [{"array": "a.npy"}, {"table": "t.csv", "schema": "s.yaml"}])
def test_what_is_not_decoded_is_not_prepared(data, recipe, tmp_path):
    assert with_recipe(settings(data), tmp_path).data.preprocess is None


def test_the_configurations_own_settings_win(recipe, tmp_path):
    own = {"objective": {"name": "vicreg"}, "views": {"name": "gaussian", "std": 0.5}}
    with pytest.warns(KrepesWarning) as said:
        found = with_recipe(settings({**IMAGES, "preprocess": {"exif": True}}, **own), tmp_path)
    assert [str(w.message).split()[0] for w in said] == ["objective", "views"]
    assert found.objective == {"name": "vicreg"}
    assert found.views is not None
    assert found.views.model_dump()["std"] == 0.5
    assert found.data.preprocess is not None
    assert (found.data.preprocess.exif, found.data.preprocess.size, found.data.preprocess.crop) == (True, 16, 14)


@pytest.mark.parametrize(("own", "message"), [({"size": 20}, "was trained with"), ({"mean": [0.1] * 3}, "twice")])
def test_preprocessing_that_contradicts_the_recipes_is_refused(own, message, recipe, tmp_path):
    with pytest.raises(ConfigError, match=message):
        with_recipe(settings({**IMAGES, "preprocess": own}), tmp_path)


def test_nothing_else_of_the_configuration_changes(recipe, tmp_path):
    given = settings({**IMAGES, "label": "folder"}, landmarks={"m": 7}, seed=3)
    found = with_recipe(given, tmp_path)
    changed = {"objective": None, "views": None, "data": None}
    assert found.model_copy(update=changed) == given.model_copy(update=changed)
    assert found.data.model_copy(update={"preprocess": None}) == given.data


def test_without_a_recipe_the_configuration_says_it_all(tmp_path):
    encoder = {"factory": "krepes.encoders:MLP", "weights": "w"}
    own = {"objective": {"name": "vicreg"}, "views": {"name": "gaussian"}}
    given = Config.model_validate({"encoder": encoder, "data": {"array": "a.npy"}} | own)
    assert with_recipe(given, tmp_path) == given


@pytest.mark.parametrize(("name", "other"), [("objective", {}), ("views", {})])
def test_what_is_in_neither_is_named(name, other, recipe, tmp_path):
    recipe(**{name: None})
    with pytest.raises(ConfigError, match=f"{name} is missing, such as .* neither the configuration nor a recipe"):
        with_recipe(settings(**other), tmp_path)


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*recipe\.yaml"):
        with_recipe(settings(), tmp_path)


def test_views_that_do_not_exist_name_the_recipe(recipe, tmp_path):
    recipe(views={"name": "gausian"})
    with pytest.raises(ConfigError, match=r"recipe\.yaml:\n  views\.name 'gausian' .*did you mean gaussian"):
        with_recipe(settings(), tmp_path)


def test_an_objective_that_does_not_exist_names_the_recipe(recipe, tmp_path):
    recipe(objective={"name": "simsiam"})
    with pytest.raises(ConfigError, match=r"recipe\.yaml: objective"):
        with_recipe(settings(), tmp_path)


def test_a_preset_of_the_recipe_gives_the_constants(recipe, tmp_path):
    recipe(preset="lightly", objective={"name": "barlow_twins"}, preprocess=None)
    found = with_recipe(settings(), tmp_path)
    assert found.objective == {"name": "barlow_twins", "weight": 5e-3, "eps": 1e-5}
    assert found.data.preprocess is not None
    assert (found.data.preprocess.size, found.data.preprocess.crop) == (256, 224)


def command(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def lightly(tmp_path):
    parts = {"backbone": resnet(), "projection_head__layers": projector()}
    return save(tmp_path / "last.ckpt", {"state_dict": prefixed(**parts)})


def test_convert_names_a_field_that_a_recipe_has_not_with_the_nearest_one(lightly, tmp_path):
    result = command("convert", lightly, "--preset", "lightly", "--set", "brnch=teacher", "-o", tmp_path / "c")
    assert result.exit_code == 1
    assert "unknown setting 'brnch'; did you mean 'branch'?" in result.output


def test_inspect_tells_a_checkpoint_from_a_configuration(lightly):
    result = command("inspect", lightly)
    assert result.exit_code == 0, result.output
    assert "preset: lightly" in result.output
    assert "projection_head.layers." in result.output


def test_inspect_shows_as_many_rows_as_it_is_asked_for(lightly):
    assert "… and" in command("inspect", lightly, "--rows", 2).output
    assert "… and" not in command("inspect", lightly, "--rows", 100).output


@pytest.mark.parametrize(("given", "mean"), [("{size: 32}", [0.485, 0.456, 0.406]), ("{size: 32, mean: null}", None)])
def test_another_size_keeps_the_presets_normalisation_unless_it_is_taken_out(given, mean, lightly, tmp_path):
    result = command("convert", lightly, "--preset", "lightly", "--set", f"preprocess={given}", "-o", tmp_path / "c")
    assert result.exit_code == 0, result.output
    prepared = Recipe.load(tmp_path / "c" / "recipe.yaml").preprocess
    assert prepared is not None
    assert (prepared.size, prepared.mean) == (32, mean)


@pytest.fixture
def bert(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra krepes[hub] is not installed")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=9, max_position_embeddings=8, pad_token_id=0, **sizes)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_inspect_proposes_transformers_for_a_hugging_face_folder(bert):
    result = command("inspect", bert)
    assert "name: transformers:bert" in result.output
    assert "a Hugging Face folder" in result.output


def test_inspect_does_not_take_another_config_for_hugging_faces(bert):
    (bert / "config.json").write_text('{"hidden": 8}')
    assert "a Hugging Face folder" not in command("inspect", bert).output


def test_the_account_holds_no_tensor_that_is_not_in_the_folder(bert, tmp_path):
    result = command("convert", bert, "--set", "arch=transformers:bert", "-o", tmp_path / "c")
    assert result.exit_code == 0, result.output
    assert "ignored" not in result.output


@pytest.mark.parametrize(
    ("space", "audited", "labelled"), [("backbone", "backbone", True), ("output", "network", False)]
)
def test_the_space_of_a_transformer_is_the_one_that_is_said(space, audited, labelled, bert, tmp_path):
    fields = ("--set", "arch=transformers:bert", "--set", "objective={name: simclr}", "--set", f"space={space}")
    result = command("convert", bert, *fields, "-o", tmp_path / "c")
    assert result.exit_code == 0, result.output
    assert f"audited    the {audited}'s output" in result.output
    assert ("objective applied off its training space" in result.output) == labelled
    assert Recipe.load(tmp_path / "c" / "recipe.yaml").space == space


def test_a_projection_that_a_transformer_has_not_is_refused(bert, tmp_path):
    result = command("convert", bert, "--set", "arch=transformers:bert", "--set", "space=projection", "-o", tmp_path)
    assert result.exit_code == 1
    assert "space: projection needs a projector" in " ".join(result.output.split())


def test_inspect_names_a_file_that_is_not_there(tmp_path):
    result = command("inspect", tmp_path / "none.ckpt")
    assert result.exit_code == 1
    assert "cannot open the checkpoint" in result.output


def test_a_converted_checkpoint_is_a_configurations_encoder(lightly, tmp_path):
    made = command("convert", lightly, "--preset", "lightly", "--set", "objective={name: vicreg}", "-o", tmp_path / "c")
    assert made.exit_code == 0, made.output
    config = {"encoder": {"recipe": "c"}, "data": {"array": "a.npy"}, "views": {"name": "gaussian"}}
    found = with_recipe(Config.model_validate(config), tmp_path)
    assert found.objective is not None
    assert found.objective["invariance"] == 25.0


def test_audit_names_what_neither_file_says(lightly, tmp_path):
    assert command("convert", lightly, "--preset", "lightly", "-o", tmp_path / "c").exit_code == 0
    config = {"encoder": {"recipe": "c"}, "data": {"array": "a.npy"}, "views": {"name": "gaussian"}}
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(config))
    for verb in ("audit", "inspect"):
        result = command(verb, tmp_path / "audit.yaml")
        assert result.exit_code == 1
        assert "objective is missing" in result.output
