"""`krepes.load` of a run in which one value of the manifest, or one tensor of the model, is another one."""

import json
import random

import pytest
import torch
from safetensors.torch import load, save

from tests.fuzz.readers import READERS, manifest, refused, run_files

ODD = [None, True, -1, 1e308, "", "other", [], [1], {}, {"a": 1}, [[]], 10**30]
DEEP = b"[" * 100_000


def inside(value, at=()):
    """Places of the manifest, two levels deep."""
    for key in value:
        yield (*at, key)
        if isinstance(value[key], dict) and not at:
            yield from inside(value[key], (key,))


@pytest.mark.parametrize("at", list(inside(manifest())), ids=".".join)
def test_a_manifest_with_another_value_is_loaded_or_refused_in_words(at, tmp_path):
    for odd in random.Random(str(at)).sample(ODD, 2):
        changed = json.loads(json.dumps(manifest()))
        section = changed if len(at) == 1 else changed[at[0]]
        section[at[-1]] = odd
        for reader in ("manifest", "load"):
            refused(READERS[reader], tmp_path, json.dumps(changed).encode())


@pytest.mark.parametrize("reader", ["manifest", "load", "trust"])
def test_a_file_that_is_nested_too_deeply_is_refused_in_words(reader, tmp_path):
    assert refused(READERS[reader], tmp_path, DEEP)


@pytest.mark.parametrize("name", sorted(load(run_files()["model.safetensors"])))
def test_a_model_with_another_tensor_is_loaded_or_refused_in_words(name, tmp_path):
    tensors = load(run_files()["model.safetensors"])
    own = tensors[name]
    for odd in (torch.zeros(()), torch.zeros(0), own[:1], own.flatten(), torch.full_like(own, float("nan")), own.int()):
        refused(READERS["model"], tmp_path, save({**tensors, name: odd.contiguous()}))
    del tensors[name]
    refused(READERS["model"], tmp_path, save(tensors))
