"""Hugging Face transformers through the whole audit, built small and without any download."""

import json

import pytest
import torch

import krepes
from krepes.encoders import Recipe, build, convert
from krepes.encoders.transformers_models import transformer
from krepes.errors import ConfigError, EncoderError

transformers = pytest.importorskip("transformers", reason="the extra krepes[hub] is not installed")

TEXT = {
    "model_type": "bert", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 16, "pad_token_id": 0,
}  # fmt: skip
PIXELS = {
    "model_type": "vit", "image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip


def text(seed: int = 0, **options):
    torch.manual_seed(seed)
    return transformer("bert", TEXT, **options)


def vision(seed: int = 0, **options):
    torch.manual_seed(seed)
    return transformer("vit", PIXELS, **options)


def sentences(n: int = 60) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (n, 7), generator=g)
    lengths = torch.randint(3, 8, (n, 1), generator=g)
    return ids * (torch.arange(7) < lengths)


def other_words(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    replaced = (torch.rand(batch.shape, generator=generator) < 0.2) & (batch != 0)
    return torch.where(replaced, torch.randint(1, 50, batch.shape, generator=generator), batch)


def noise(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return batch + 0.1 * torch.randn(batch.shape, generator=generator)


def test_a_text_transformer_goes_through_the_whole_audit():
    samples = sentences()
    auditor = krepes.Auditor(text(), krepes.VICReg(), landmarks=40, n_components=4)
    auditor.fit(samples, views=other_words)
    assert not auditor.kernel_plan_["way"].eq("generic").any()
    assert auditor.explain(samples[:3], top_k=5)["contribution"].notna().all()
    assert auditor.attribute(samples[:2]).shape == (2, 60)
    assert auditor.trust_.sentence


def test_all_parameters_of_a_text_transformer_are_seen_by_the_kernel():
    encoder = krepes.encoders.FrozenEncoder(text())
    from krepes.kernel.plan import make

    pieces, lost = make(encoder, sentences(3), 2, None)
    assert not lost
    assert {n for p in pieces for n in p.names} == set(encoder.param_names)


def test_a_vision_transformer_goes_through_the_whole_audit():
    samples = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    auditor = krepes.Auditor(vision(), krepes.BarlowTwins(), landmarks=12, n_components=4)
    auditor.fit(samples, views=noise)
    assert not auditor.kernel_plan_["way"].eq("generic").any()
    assert auditor.explain(samples[:3], top_k=5)["contribution"].notna().all()
    assert auditor.attribute(samples[:2]).shape == (2, 60)
    assert auditor.trust_.sentence


def test_padding_changes_nothing():
    ids = sentences(4)
    longer = torch.cat([ids, torch.zeros(4, 3, dtype=ids.dtype)], 1)
    encoder = text()
    with torch.no_grad():
        torch.testing.assert_close(encoder(ids), encoder(longer))


def test_without_a_pad_id_all_tokens_count():
    ids = sentences(4)
    with torch.no_grad():
        assert not torch.allclose(text()(ids), text(pad_id=None)(ids))


@pytest.mark.parametrize("pool", ["mean", "cls", "pooler"])
def test_pools_of_tokens_are_those_of_the_library(pool):
    torch.manual_seed(0)
    fields = {k: v for k, v in TEXT.items() if k != "model_type"}
    model = transformers.BertModel(transformers.BertConfig(**fields)).eval()
    encoder = text(pool=pool)
    encoder.model.load_state_dict(model.state_dict(), strict=pool == "pooler")
    ids = sentences(5)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=(ids != 0).long())
        hidden = out.last_hidden_state
        rows = torch.stack([h[i != 0].mean(0) for h, i in zip(hidden, ids, strict=True)])
        expected = {"mean": rows, "cls": hidden[:, 0], "pooler": out.pooler_output}[pool]
        torch.testing.assert_close(encoder(ids), expected)


@pytest.mark.parametrize("pool", ["mean", "cls", "pooler"])
def test_pools_of_pixels_are_those_of_the_library(pool):
    encoder, x = vision(pool=pool), torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        out = encoder.model(pixel_values=x)
        hidden = out.last_hidden_state
        expected = {"mean": hidden[:, 1:].mean(1), "cls": hidden[:, 0], "pooler": out.pooler_output}[pool]
        torch.testing.assert_close(encoder(x), expected)


def test_a_pooler_that_is_not_used_does_not_enter_the_kernel():
    assert not [n for n, _ in text().named_parameters() if "pooler" in n]


def test_attention_is_made_of_plain_calls():
    assert text().model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["someone/no-such-model", "/no/such/folder"])
def test_a_name_that_is_not_here_is_not_downloaded(name):
    with pytest.raises(ConfigError, match="krepes downloads nothing"):
        transformer(name)


def test_a_pool_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="'max' is unknown; expected one of mean, cls, pooler"):
        text(pool="max")


def saved(folder, config, seed=0):
    fields = {k: v for k, v in config.items() if k != "model_type"}
    torch.manual_seed(seed)
    kind = config["model_type"]
    model = {"bert": transformers.BertModel, "vit": transformers.ViTModel}[kind]
    settings = {"bert": transformers.BertConfig, "vit": transformers.ViTConfig}[kind](**fields)
    network = model(settings).eval()
    network.save_pretrained(folder)
    return network


SAMPLES = {"bert": sentences(4), "vit": torch.rand(4, 3, 16, 16)}


@pytest.mark.parametrize("config", [TEXT, PIXELS], ids=["text", "vision"])
def test_a_local_folder_is_loaded_strictly_with_an_account(config, tmp_path):
    network = saved(tmp_path / "model", config)
    found = build(Recipe(checkpoint="model", arch={"name": "transformers:model", "args": {"pool": "cls"}}), tmp_path)
    samples = SAMPLES[config["model_type"]]
    mask = {"attention_mask": (samples != 0).long()} if config is TEXT else {}
    with torch.no_grad():
        expected = network(samples, **mask).last_hidden_state[:, 0]
        torch.testing.assert_close(found.module(samples), expected, atol=1e-5, rtol=1e-4)
    assert found.account.complete
    assert list(found.account.ignored) == ["pooling is cls"]
    assert found.fingerprint is not None


@pytest.mark.parametrize("config", [TEXT, PIXELS], ids=["text", "vision"])
def test_a_converted_transformer_stands_alone(config, tmp_path):
    saved(tmp_path / "model", config)
    recipe = Recipe(checkpoint="model", arch="transformers:model", objective={"name": "simclr"})
    done = convert(recipe, tmp_path, tmp_path / "out")
    (tmp_path / "model").rename(tmp_path / "gone")
    again = build(Recipe.load(tmp_path / "out" / "recipe.yaml"), tmp_path / "out")
    samples = SAMPLES[config["model_type"]]
    with torch.no_grad():
        torch.testing.assert_close(again.module(samples), done.loaded.module(samples))


def test_a_folder_with_other_weights_than_its_config_is_refused(tmp_path):
    saved(tmp_path / "model", TEXT)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(EncoderError, match=r"do not fit; nothing is loaded half(.|\n)*missing    16 tensors"):
        build(Recipe(checkpoint="model", arch="transformers:model"), tmp_path)


def test_a_folder_with_a_pickle_alone_is_refused(tmp_path):
    network = saved(tmp_path / "model", TEXT)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"never a \.bin, which is a pickle"):
        build(Recipe(checkpoint="model", arch="transformers:model"), tmp_path)


def test_heads_of_pretraining_must_be_allowed(tmp_path):
    from safetensors.torch import load_file, save_file

    saved(tmp_path / "model", TEXT)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"cls.predictions.bias": torch.zeros(50)}, path, {"format": "pt"})
    recipe = Recipe(checkpoint="model", arch="transformers:model")
    with pytest.raises(EncoderError, match=r"unexpected 1 tensors .*cls\.predictions\.bias"):
        build(recipe, tmp_path)
    assert build(recipe.model_copy(update={"allow": ["cls.*"]}), tmp_path).account.complete


def test_a_plain_state_dict_is_loaded_with_a_config_in_the_recipe(tmp_path):
    encoder = text()
    torch.save({"model": encoder.model.state_dict()}, tmp_path / "w.pt")
    arch = {"name": "transformers:bert", "args": {"config": TEXT}}
    found = build(Recipe(checkpoint="w.pt", container="model", arch=arch), tmp_path)
    ids = sentences(4)
    with torch.no_grad():
        torch.testing.assert_close(found.module(ids), encoder(ids))
