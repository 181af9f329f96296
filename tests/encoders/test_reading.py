"""Safe reading: tensors come out, code never runs, and a message says what the file is."""

import json
import os
import pickle
import struct
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from krepes.encoders import read_checkpoint
from krepes.encoders.pickles import imports_of
from krepes.encoders.reading import read_weights
from krepes.errors import EncoderError, KrepesWarning


class Runs:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


WRITERS = {
    "archive": lambda content, path: torch.save({"state_dict": {"w": torch.ones(2)}, "more": content}, path),
    "legacy": lambda content, path: torch.save({"w": content}, path, _use_new_zipfile_serialization=False),
    "plain": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "protocol 0": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ["weights.pt", "weights"])
def test_a_pickle_with_code_is_refused_and_named_and_does_not_run(kind, name, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / name
    WRITERS[kind](Runs(mark), path)
    with pytest.raises(EncoderError, match=r"would import (posix|nt)\.system"):
        read_checkpoint(path)
    assert not mark.exists()


def test_a_pickle_with_code_runs_only_where_it_is_allowed_and_says_so(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "weights.pt"
    WRITERS["archive"](Runs(mark), path)
    with pytest.warns(KrepesWarning, match="runs the code that it names"):
        content = read_checkpoint(path, allow_pickle=True).content
    assert mark.exists()
    assert content["state_dict"]["w"].tolist() == [1, 1]


def test_a_whole_module_is_refused_and_read_as_its_state_where_allowed(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 1), path)
    with pytest.raises(EncoderError, match=r"would import .*torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(path)
    with pytest.warns(KrepesWarning):
        assert set(read_checkpoint(path, allow_pickle=True).content) == {"weight", "bias"}


def test_what_a_pickle_imports_is_read_without_importing(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cno_such_module\nThing\n)R.")
    assert imports_of(path) == ["no_such_module.Thing"]
    assert "no_such_module" not in sys.modules


def test_an_omegaconf_of_lightning_gets_the_way_out(tmp_path, monkeypatch):
    module = types.ModuleType("omegaconf.dictconfig")
    config = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    module.DictConfig = config
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": config()}, path)
    with pytest.raises(EncoderError) as refusal:
        read_checkpoint(path)
    message = str(refusal.value)
    assert "Lightning stored as an OmegaConf" in message
    assert "omegaconf.dictconfig.DictConfig" in message
    steps = [line[4:] for line in message.splitlines() if line.startswith("    ")]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(steps))  # the lines that the message gives
    assert read_checkpoint(tmp_path / "last.weights.pt").content["state_dict"]["w"].tolist() == [1]


PICKLED = {
    "module": lambda net: net,
    "container": lambda net: {"state_dict": net.state_dict(), "more": net},
    "bare": lambda net: {**net.state_dict(), "more": net},
}


@pytest.mark.parametrize("kind", PICKLED)
def test_the_lines_that_are_given_save_a_pickled_module_and_a_mapping_alike(kind, tmp_path, monkeypatch):
    network = torch.nn.Linear(2, 1)
    torch.save(PICKLED[kind](network), tmp_path / "model.pt")
    with pytest.raises(EncoderError) as refusal:
        read_checkpoint(tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line[4:] for line in str(refusal.value).splitlines() if line.startswith("    ")))
    saved = torch.load(tmp_path / "model.weights.pt", weights_only=False)["state_dict"]
    assert torch.equal(saved["weight"], network.weight)


def test_weights_of_another_kind_are_named_and_sent_to_convert(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pt")
    for name in ("x.pt", "x.safetensors"):
        path = tmp_path / name
        path.write_bytes((tmp_path / "x.pt").read_bytes())
        with pytest.raises(EncoderError) as refusal:
            read_weights(path)
        message = str(refusal.value)
        assert f"{path} is a checkpoint as torch.save writes it; encoder.weights takes safetensors" in message
        assert f"krepes convert {path} --preset NAME --output FOLDER" in message
        assert "encoder: {recipe: FOLDER}" in message
        assert "safetensors.torch.save_file(network.state_dict()" in message


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_weights_are_safetensors_of_any_name(name, tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / name)
    assert read_weights(tmp_path / name)["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x93NUMPY", "npy array"), (b"", "is empty"), (b"\1\2\3", "no whole .safetensors"), (None, "cannot read the w")],
)
def test_weights_that_are_no_checkpoint_are_named(content, message, tmp_path):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EncoderError, match=message):
        read_weights(path)


def test_code_that_is_not_installed_is_named(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    path.write_bytes(b"cno_such_module\nThing\n)R.")
    with pytest.warns(KrepesWarning), pytest.raises(EncoderError, match="needs code that is not here"):
        read_checkpoint(path, allow_pickle=True)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["weights.pth", "checkpoint", "epoch=3.ckpt"])
def test_tensors_come_out_of_torch_files_of_any_name(legacy, name, tmp_path):
    torch.save({"model": {"w": torch.arange(3)}}, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert read_checkpoint(tmp_path / name).content["model"]["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_are_known_by_their_header_too(name, tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / name)
    found = read_checkpoint(tmp_path / name)
    assert (found.format, found.content["w"].tolist()) == ("safetensors", [1, 1])


def test_a_folder_of_shards_is_read_through_its_index(tmp_path):
    for i in range(2):
        save_file({f"w{i}": torch.full((1,), i)}, tmp_path / f"part-{i}.safetensors")
    index = {"weight_map": {f"w{i}": f"part-{i}.safetensors" for i in range(2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sorted(read_checkpoint(tmp_path).content) == ["w0", "w1"]


def test_an_index_that_leaves_its_folder_is_refused(tmp_path):
    index = {"weight_map": {"w": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EncoderError, match="outside its folder"):
        read_checkpoint(tmp_path)


def test_several_safetensors_without_an_index_are_not_chosen_among(tmp_path):
    for name in ("a", "b"):
        save_file({"w": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(EncoderError, match=r"several checkpoints: a\.safetensors, b\.safetensors"):
        read_checkpoint(tmp_path)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_is_cut_short_is_named(share, legacy, tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.randn(100)}, path, _use_new_zipfile_serialization=not legacy)
    cut(path, share)
    with pytest.raises(EncoderError, match=r"w\.pt .*(damaged|cut short)"):
        read_checkpoint(path)


def archive(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, storage: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w", compression) as z:
        z.writestr("x/data.pkl", data)
        z.writestr("x/byteorder", "little")
        z.writestr("x/data/0", storage)
        z.writestr("x/version", "3\n")
    return path


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = archive(tmp_path / "w.pt", b"}.", zipfile.ZIP_DEFLATED, bytes(50_000_000))
    with pytest.raises(EncoderError, match="claims to unpack to"):
        read_checkpoint(path)


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as z:
        data = z.read(next(n for n in z.namelist() if n.endswith("data.pkl")))
    large = b"\x8a\x06\x00\x00\x00\x00\x00\x10"  # 2**44 instead of 4
    claimed = data.replace(b"K\x04t", large + b"t").replace(b"K\x04\x85", large + b"\x85")
    assert claimed.count(large) == 2
    with pytest.raises(EncoderError, match="cannot be read"):
        read_checkpoint(archive(tmp_path / "huge.pt", claimed, storage=bytes(16)))


@pytest.mark.parametrize("length", [0, 7, 10**6, 2**63])
def test_safetensors_with_a_wrong_header_length_are_refused(length, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(2)}, path)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(EncoderError, match=r"no whole \.safetensors file"):
        read_checkpoint(path)


def test_safetensors_that_are_cut_short_are_refused(tmp_path):
    save_file({"w": torch.ones(100)}, tmp_path / "w.safetensors")
    cut(tmp_path / "w.safetensors", 0.8)
    with pytest.raises(EncoderError, match=r"no whole \.safetensors file"):
        read_checkpoint(tmp_path / "w.safetensors")


def empty(path):
    path.touch()


def page(path):
    path.write_text("<!DOCTYPE html><html>Quota exceeded</html>")


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def tar(path):
    with tarfile.open(path, "w") as t:
        t.add(__file__, "code.py")


def numbers(path):
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00")


def zip_of_text(path):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("readme.txt", "hello")


def loop(path):
    path.symlink_to(path.name)


def folder(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


def script(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(path))


STRANGERS = {
    empty: "is empty",
    page: "web page",
    pointer: "git lfs pull",
    tar: "tar archive",
    numbers: "npy array",
    zip_of_text: "expected what torch.save writes",
    loop: "cannot open",
    folder: "folder without .safetensors",
    pipe: "no regular file",
    script: "TorchScript",
}


@pytest.mark.parametrize("make", STRANGERS, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_of_other_kinds_are_told_apart(make, tmp_path):
    path = tmp_path / "weights.pt"
    make(path)
    with pytest.raises(EncoderError, match=STRANGERS[make]):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["absent.pt", "a\0b.pt"])
def test_a_file_that_is_not_there_is_an_error_in_words(name, tmp_path):
    with pytest.raises(EncoderError, match="cannot open the checkpoint"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_never_end_in_anything_but_an_encoder_error(seed, tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"\x80\x02" + bytes(torch.randint(0, 256, (200,), generator=torch.Generator().manual_seed(seed))))
    with pytest.raises(EncoderError):
        read_checkpoint(path)
