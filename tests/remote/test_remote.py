"""Files and folders at URLs."""

import errno
from pathlib import Path

import fsspec
import pytest

from krepes.errors import DataError, RunFolderError
from krepes.remote import fetched, is_url, local_run, without_secrets


def put(name: str, content: bytes) -> None:
    fs, path = fsspec.url_to_fs(name)
    fs.pipe_file(path, content)


def test_urls_are_told_from_paths():
    assert all(is_url(u) for u in ("s3://bucket/run", "https://host/a.csv", "memory://a", "gcs+x://b"))
    assert not any(is_url(u) for u in ("runs/a", "/tmp/a", "C:\\data", "C:/data", "a:b", "://x", ""))


def test_a_file_is_fetched_once_and_again_when_it_changed(store):
    put("objects://bucket/data/table.csv", b"a,b\n1,2\n")
    first = fetched("objects://bucket/data/table.csv")
    assert (first.name, first.read_bytes()) == ("table.csv", b"a,b\n1,2\n")
    assert fetched("objects://bucket/data/table.csv") == first
    assert len(store.gets) == 1
    put("objects://bucket/data/table.csv", b"a,b\n3,4\n")
    assert fetched("objects://bucket/data/table.csv").read_bytes() == b"a,b\n3,4\n"
    assert len(store.gets) == 2


def test_a_folder_is_mirrored_with_its_names(store):
    for name in ("a.png", "sub/b.png"):
        put(f"objects://bucket/images/{name}", name.encode())
    folder = fetched("objects://bucket/images/")
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {"a.png", "sub/b.png"}
    put("objects://bucket/images/c.png", b"c")
    fsspec.filesystem("objects").rm_file("/bucket/images/a.png")
    store.gets.clear()
    folder = fetched("objects://bucket/images")
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {"sub/b.png", "c.png"}
    assert store.gets == ["/bucket/images/c.png"]


def test_what_is_cut_in_the_cache_is_fetched_anew_when_it_is_gone(store):
    put("objects://bucket/x.npy", b"1234")
    fetched("objects://bucket/x.npy").unlink()
    assert fetched("objects://bucket/x.npy").read_bytes() == b"1234"


def test_a_file_that_comes_short_is_refused_and_fetched_again(store, monkeypatch):
    put("objects://bucket/x.npy", b"12345678")
    with monkeypatch.context() as patch:
        patch.setattr(store, "get_file", lambda self, remote, local, **_: Path(local).write_bytes(b"12"))
        with pytest.raises(DataError, match=r"x\.npy of objects://bucket/x\.npy came with other than its 8 bytes"):
            fetched("objects://bucket/x.npy")
    assert fetched("objects://bucket/x.npy").read_bytes() == b"12345678"


@pytest.mark.parametrize(
    ("url", "message"),
    [("objects://bucket/none.csv", "there is"), ("nowhere://x/y", "nowhere://x/y: ValueError: Protocol not known"),
     ("s3://bucket/x.csv", "s3://bucket/x.csv needs a package|cannot read s3://bucket/x.csv")],
)  # fmt: skip
def test_what_cannot_be_fetched_is_said(store, url, message):
    with pytest.raises(DataError, match=message):
        fetched(url)


def test_names_that_leave_the_folder_are_refused(store, monkeypatch):
    put("objects://bucket/images/a.png", b"a")
    listing = {"/bucket/images/../../evil": {"size": 1, "type": "file"}}
    monkeypatch.setattr(store, "find", lambda self, path, **_: listing)
    with pytest.raises(DataError, match="lies outside"):
        fetched("objects://bucket/images")


@pytest.mark.parametrize(
    ("url", "shown"),
    [("https://h/a.npy?X-Amz-Credential=AK%2F1&x=1&X-Amz-Signature=ab", "https://h/a.npy?X-Amz-Credential=…&x=1&X-Amz-Signature=…"),
     ("abfs://c/x?se=2026&sig=a%2Bb", "abfs://c/x?se=2026&sig=…"), ("https://h/a?access_token=t", "https://h/a?access_token=…"),
     ("sftp://me:word@host:22/x", "sftp://me:…@host:22/x"), ("sftp://me@host/x", "sftp://me@host/x"),
     ("zip://a.csv::https://me:word@h/x.zip", "zip://a.csv::https://me:…@h/x.zip"),
     ("https://ghp_a1@host/x", "https://…@host/x"), ("https://h/a?pwd=1#access_token=q", "https://h/a?pwd=…#access_token=…"),
     ("https://h/a?design=a&author=b&keyword=c", "https://h/a?design=a&author=b&keyword=c"),
     ("https://h/a?token=${TOKEN}", "https://h/a?token=${TOKEN}"), ("sftp://me:${PW}@h/x", "sftp://me:${PW}@h/x"),
     ("s3://bucket/token=1/a.csv", "s3://bucket/token=1/a.csv"), ("a token=5 in words", "a token=5 in words")],
)  # fmt: skip
def test_passwords_and_signatures_are_not_shown(url, shown):
    assert without_secrets(url) == shown
    assert without_secrets({"a": [f"cannot read '{url}'.", 1]}) == {"a": [f"cannot read '{shown}'.", 1]}


def test_errors_show_no_signature(store, monkeypatch):
    def refuse(self, path, **_):
        raise PermissionError(f"403, message='Forbidden', url='https://host{path}?sig=secret'")

    monkeypatch.setattr(store, "info", refuse)
    with pytest.raises(DataError, match="Forbidden") as caught:
        fetched("objects://bucket/x.npy?sig=secret")
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_said_of_the_cache(store, cache, monkeypatch):
    def full(self, remote, local, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    put("objects://bucket/x.npy", b"1234")
    monkeypatch.setattr(store, "get_file", full)
    with pytest.raises(DataError, match=r"cannot keep objects://bucket/x\.npy in .*No space left.*KREPES_CACHE"):
        fetched("objects://bucket/x.npy")


def test_of_a_run_its_blocks_are_not_fetched(store):
    for name in ("manifest.json", ".writer", "work/moments-000.safetensors"):
        put(f"objects://bucket/run/{name}", b"{}")
    folder = local_run("objects://bucket/run")
    assert [p.name for p in folder.rglob("*")] == ["manifest.json"]


def test_no_run_at_a_url_is_said_as_of_a_folder(store):
    with pytest.raises(RunFolderError, match="objects://bucket/run"):
        local_run("objects://bucket/run")


def test_a_file_that_a_program_has_open_does_not_change_below_it(store):
    put("objects://bucket/x.npy", b"1234")
    with fetched("objects://bucket/x.npy").open("rb") as held:
        put("objects://bucket/x.npy", b"abcd")
        assert fetched("objects://bucket/x.npy").read_bytes() == b"abcd"
        assert held.read() == b"1234"


def test_what_an_interrupted_fetch_left_is_no_sample(store, cache):
    for name in ("a.png", "b.png"):
        put(f"objects://bucket/images/{name}", b"whole")
    folder = fetched("objects://bucket/images")
    (folder / "c.png").write_bytes(b"half")
    assert {p.name for p in fetched("objects://bucket/images").iterdir()} == {"a.png", "b.png"}


def test_a_store_that_tells_no_date_is_asked_again(store, monkeypatch):
    put("objects://bucket/x.csv", b"1")
    monkeypatch.setattr(store, "info", lambda self, path, **_: {"name": path, "size": 1, "type": "file"})
    assert fetched("objects://bucket/x.csv").read_bytes() == b"1"
    put("objects://bucket/x.csv", b"2")
    assert fetched("objects://bucket/x.csv").read_bytes() == b"2"


def test_markers_of_folders_are_no_files(store, monkeypatch):
    put("objects://bucket/images/a.png", b"a")
    find = store.find
    marker = {"/bucket/images/": {"size": 0, "type": "file"}, "/bucket/images/sub/": {"size": 0, "type": "directory"}}
    monkeypatch.setattr(store, "find", lambda self, path, **o: find(self, path, **o) | marker)
    assert [p.name for p in fetched("objects://bucket/images").iterdir()] == ["a.png"]
