"""Reference data against a server on this machine."""

import gzip
import hashlib
import io
import multiprocessing
import os
import resource
import signal
import tarfile
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from krepes.cli.data import data as data_verb
from krepes.data import reference
from krepes.data.reference.registry import Entry
from krepes.errors import ConfigError, DataError, KrepesError, RunFolderError
from krepes.progress import Progress

BODY = b"a,b\n1,2\n" * 5000
QUIET = Progress(None)


def entry(body: bytes = BODY, name: str = "table.csv", urls=("https://nowhere.invalid/",), **more) -> Entry:
    file = {"name": name, "urls": urls, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), **more}
    return Entry.model_validate({
        "title": "A table", "folder": "table", "homepage": "https://nowhere.invalid", "licence": "CC BY 4.0",
        "citation": "Somebody (2020)", "forms": [{"name": "original", "files": [file]}],
    })  # fmt: skip


class Server:
    """Answers every request alike.

    Args:
        status, body: of the answer.
        promised: the length that it announces; default the true one.
        hang: never answer.
        endless: go on after the body, until the other side hangs up, and promise no length.
        pause: seconds after each byte; `in_headers`: of the headers, which then never end.
    """

    def __init__(
        self,
        status: int = 200,
        body: bytes = BODY,
        promised: int | None = None,
        hang: bool = False,
        endless: bool = False,
        pause: float = 0.0,
        in_headers: bool = False,
    ):
        self.asked: list[str] = []
        self.sent = 0
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                if hang:
                    outer.release.wait(30)
                    return
                if in_headers:
                    self.trickle(b"HTTP/1.0 200 OK\r\n" + 1000 * b"X-Slow: yes\r\n")
                    return
                self.send_response(status)
                if not endless:
                    self.send_header("Content-Length", str(len(body) if promised is None else promised))
                self.end_headers()
                if pause:
                    self.trickle(body)
                    return
                self.wfile.write(body)
                with suppress(OSError):
                    while endless and not outer.release.is_set():
                        self.wfile.write(body)
                        outer.sent += len(body)

            def trickle(self, content: bytes):
                with suppress(OSError):  # the other side has hung up
                    for i in range(len(content)):
                        self.wfile.write(content[i : i + 1])
                        if outer.release.wait(pause):
                            return

            def log_message(self, *_args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/files/"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    for name in ("KREPES_DATA", "KREPES_MIRROR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KREPES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left_over(cache: Path) -> list[str]:
    return [p.name for p in (cache / "table").iterdir() if p.name != ".lock"]


def fetch_one(*servers: Server, **options):
    registry = {"table": entry(urls=[s.url for s in servers])}
    return reference.fetch("table", progress=QUIET, registry=registry, **options)


def test_a_right_answer_lands_in_the_cache(cache):
    with Server() as server:
        located = fetch_one(server)
    assert located == (cache / "table", "original")
    assert (cache / "table" / "table.csv").read_bytes() == BODY
    assert server.asked == ["/files/table.csv"]
    assert left_over(cache) == ["table.csv"]


def test_the_second_call_asks_nobody(cache):
    with Server() as server:
        fetch_one(server)
        fetch_one(server)
    assert len(server.asked) == 1


def test_licence_and_citation_are_shown_before_a_request():
    shown = io.StringIO()
    progress = Progress(Console(file=shown, width=160))
    with Server(status=404) as server, pytest.raises(DataError):
        reference.fetch("table", progress=progress, registry={"table": entry(urls=[server.url])})
    assert "CC BY 4.0" in shown.getvalue()
    assert "Somebody (2020)" in shown.getvalue()


def test_an_answer_that_breaks_off_leaves_nothing(cache):
    with (
        Server(body=BODY[:1000], promised=len(BODY)) as server,
        pytest.raises(DataError, match=r"(?s)cannot download table\.csv.*127\.0\.0\.1"),
    ):
        fetch_one(server)
    assert left_over(cache) == []


def test_a_short_answer_that_claims_to_be_whole_leaves_nothing(cache):
    with Server(body=BODY[:1000]) as server, pytest.raises(DataError, match=r"1,000 bytes.*40,000 bytes"):
        fetch_one(server)
    assert left_over(cache) == []


def test_wrong_content_is_refused_with_both_digests(cache):
    wrong = b"x" * len(BODY)
    found, expected = hashlib.sha256(wrong).hexdigest(), hashlib.sha256(BODY).hexdigest()
    with Server(body=wrong) as server, pytest.raises(DataError, match=rf"found sha256 {found}.*expected {expected}"):
        fetch_one(server)
    assert left_over(cache) == []


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_is_named(status, cache):
    with Server(status=status) as server, pytest.raises(DataError, match=rf"{status}.*\n.*KREPES_DATA"):
        fetch_one(server)
    assert left_over(cache) == []


def test_a_server_that_does_not_answer_is_given_up(cache):
    with Server(hang=True) as server, pytest.raises(DataError, match="timed out"):
        fetch_one(server, timeout=0.1)
    assert left_over(cache) == []


def test_an_answer_that_announces_too_many_bytes_is_not_read(cache):
    with (
        Server(promised=len(BODY) + 1) as server,
        pytest.raises(DataError, match=r"announces 40,001 bytes; expected at most 40,000"),
    ):
        fetch_one(server)
    assert left_over(cache) == []


def test_an_answer_without_end_is_given_up_at_the_expected_size(cache):
    with Server(endless=True) as server, pytest.raises(DataError, match=r"more than the 40,000 bytes"):
        fetch_one(server)
    assert server.sent < 10_000_000  # what fits into the system's buffers
    assert left_over(cache) == []


def test_a_file_that_may_be_packed_again_may_be_twice_as_long_and_no_longer(cache):
    table = "".join(f"{i},{i * i % 997}\n" for i in range(2000)).encode()
    original, again = gzip.compress(table, 9, mtime=0), gzip.compress(table, 1, mtime=1)
    more = {"name": "table.csv", "content": hashlib.sha256(table).hexdigest()}
    assert len(original) < len(again) < 2 * len(original) < len(table)
    with Server(body=again) as server:
        reference.fetch("table", progress=QUIET, registry={"table": entry(original, urls=[server.url], **more)})
    (cache / "table" / "table.csv").unlink()
    with Server(body=table) as server, pytest.raises(DataError, match=f"expected at most {2 * len(original):,}"):
        reference.fetch("table", progress=QUIET, registry={"table": entry(original, urls=[server.url], **more)})


@pytest.mark.parametrize("in_headers", [False, True], ids=["body", "headers"])
def test_a_server_that_trickles_is_given_up_and_the_next_one_asked(in_headers, cache):
    said = "timed out, no whole answer within 0.3 seconds" if in_headers else r"is too slow: .* at least 1,024 a second"
    with Server(pause=0.02, in_headers=in_headers) as slow:
        with pytest.raises(DataError, match=said):
            fetch_one(slow, timeout=0.3)
        assert left_over(cache) == []
        with Server() as good:
            fetch_one(slow, good, timeout=0.3)
    assert left_over(cache) == ["table.csv"]


@pytest.mark.parametrize("server", [{"pause": 0.02}, {"endless": True}, {"status": 500}, {"body": b"x"}])
def test_what_stands_in_the_cache_stays_where_a_download_fails(server, cache):
    (cache / "table").mkdir(parents=True)
    (cache / "table" / "table.csv").write_bytes(b"half")
    (cache / "table" / "other.csv").write_bytes(b"other")
    with Server(**server) as bad, pytest.raises(DataError):
        fetch_one(bad, timeout=0.2)
    assert (cache / "table" / "table.csv").read_bytes() == b"half"
    assert sorted(left_over(cache)) == ["other.csv", "table.csv"]


def test_a_server_that_keeps_its_connection_open_is_read_to_the_promised_length(cache, monkeypatch):
    monkeypatch.setattr(BaseHTTPRequestHandler, "protocol_version", "HTTP/1.1")
    with Server() as server:
        fetch_one(server, timeout=5)
    assert left_over(cache) == ["table.csv"]


def test_the_second_publisher_is_asked_where_the_first_fails(cache):
    with Server(status=500) as broken, Server() as good:
        fetch_one(broken, good)
    assert (len(broken.asked), len(good.asked)) == (1, 1)
    assert left_over(cache) == ["table.csv"]


def test_a_damaged_file_in_the_cache_is_fetched_anew(cache):
    (cache / "table").mkdir(parents=True)
    (cache / "table" / "table.csv").write_bytes(b"half")
    with Server() as server:
        fetch_one(server)
    assert (cache / "table" / "table.csv").read_bytes() == BODY


def test_a_differing_file_in_a_folder_of_the_users_stays(tmp_path):
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "table.csv").write_bytes(b"mine")
    with Server() as server, pytest.raises(DataError, match="Remove it"):
        fetch_one(server, folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "table" / "table.csv").read_bytes() == b"mine"


def test_a_mirror_is_asked_instead_of_the_publishers(monkeypatch):
    with Server() as publisher, Server() as mirror:
        monkeypatch.setenv("KREPES_MIRROR", mirror.url)
        fetch_one(publisher)
    assert (publisher.asked, mirror.asked) == ([], ["/files/table/table.csv"])


def test_a_local_folder_is_used_without_any_request(tmp_path, monkeypatch, cache):
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "table.csv").write_bytes(BODY)
    monkeypatch.setenv("KREPES_DATA", str(tmp_path / "mine"))
    with Server() as server:
        located = fetch_one(server)
    assert located.folder == tmp_path / "mine" / "table"
    assert server.asked == []
    assert not cache.exists()


def test_a_differing_local_file_is_an_error_with_both_digests(tmp_path, monkeypatch):
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "table.csv").write_bytes(b"other")
    monkeypatch.setenv("KREPES_DATA", str(tmp_path / "mine"))
    found = hashlib.sha256(b"other").hexdigest()
    with Server() as server, pytest.raises(DataError, match=rf"found sha256 {found}.*expected.*unset KREPES_DATA"):
        fetch_one(server)
    assert server.asked == []


def test_a_local_folder_without_the_data_is_an_error_and_no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("KREPES_DATA", str(tmp_path))
    with Server() as server, pytest.raises(DataError, match=r"does not hold table\.csv"):
        fetch_one(server)
    assert server.asked == []


def test_data_that_were_packed_again_are_right_by_their_content(tmp_path, monkeypatch):
    original, again = gzip.compress(BODY, 9, mtime=0), gzip.compress(BODY, 1, mtime=1)
    assert original != again
    registry = {"table": entry(original, "table.csv.gz", content=hashlib.sha256(BODY).hexdigest())}
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "table.csv.gz").write_bytes(again)
    monkeypatch.setenv("KREPES_DATA", str(tmp_path))
    assert reference.fetch("table", progress=QUIET, registry=registry).folder == tmp_path / "table"
    (tmp_path / "table" / "table.csv.gz").write_bytes(again[:-10])
    with pytest.raises(DataError, match="found sha256"):
        reference.fetch("table", progress=QUIET, registry=registry)


def test_two_processes_at_once_make_one_request(cache):
    fork = multiprocessing.get_context("fork")
    server = Server()  # listens already; answers only after both processes are under way, which have no other thread
    both = [fork.Process(target=fetch_one, args=(server,)) for _ in range(2)]
    for process in both:
        process.start()
    with server:
        for process in both:
            process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(server.asked) == 1
    assert left_over(cache) == ["table.csv"]


@contextmanager
def small_files(limit: int):
    """Files cannot grow beyond `limit` bytes, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_in_words_and_leaves_nothing(cache):
    with Server() as server, pytest.raises(RunFolderError, match=r"cannot write .*table\.csv"), small_files(10_000):
        fetch_one(server)
    assert left_over(cache) == []


def test_a_cache_that_cannot_be_written_is_an_error_in_words(tmp_path, monkeypatch):
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("KREPES_CACHE", str(tmp_path / "a_file"))
    with Server() as server, pytest.raises(RunFolderError, match="KREPES_CACHE"):
        fetch_one(server)
    assert server.asked == []


def test_an_unknown_data_set_or_form_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'adlut'.*adult"):
        reference.fetch("adlut")
    with pytest.raises(ConfigError, match=r"'half'.*full, parts"):
        reference.fetch("covtype", form="half")


def test_the_registry_that_comes_with_krepes_names_commits_in_full():
    for name, one in reference.read_registry().items():
        assert any(form.downloadable for form in one.forms), name
        for url in (u for form in one.forms for file in form.files for u in file.urls):
            if "githubusercontent" in url:
                assert len(url.split("/")[5]) == 40, url


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sha256": "abc"}, r"sha256"),
        ({"name": "../escape"}, r"name"),
        ({"urls": ["ftp://x/y"]}, r"urls"),
        ({"colour": "red"}, r"colour"),
        ({"bytes": 0}, r"bytes"),
    ],
)
def test_a_mistake_in_a_registry_is_named(change, named, tmp_path):
    plain = entry().model_dump(mode="json")
    plain["forms"][0]["files"][0].update(change)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"table": plain}), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"r\.yaml:\n.*table.*{named}"):
        reference.read_registry(tmp_path / "r.yaml")


def test_the_binary_cifar_archive_is_read_in_the_order_of_its_files(tmp_path):
    from krepes.data.reference.loading import _cifar_binary

    records = np.random.default_rng(0).integers(0, 10, (6, 2, 3073), dtype=np.uint8)
    names = ["test_batch.bin", *(f"data_batch_{i}.bin" for i in (5, 4, 3, 2, 1))]
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        for name, block in zip(names, records, strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = block.size
            archive.addfile(member, io.BytesIO(block.tobytes()))
    train, test = (_cifar_binary(tmp_path / "c.tar.gz", split) for split in ("train", "test"))
    assert train.images.shape == (10, 3, 32, 32)
    assert train.labels[:2].tolist() == records[5, :, 0].tolist()
    assert test.images.flatten(1).tolist() == records[0, :, 1:].tolist()


def test_a_cifar_archive_that_breaks_off_is_named(tmp_path):
    from krepes.data.reference.loading import _cifar_binary

    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(bytes(10_000))[:20])
    with pytest.raises(DataError, match=r"c\.tar\.gz"):
        _cifar_binary(tmp_path / "c.tar.gz", "train")


def run_verb(*arguments: str):
    app = typer.Typer()
    app.command()(data_verb)
    return CliRunner().invoke(app, list(arguments))


def test_the_verb_lists_the_data_sets_with_their_licences():
    result = run_verb()
    assert result.exit_code == 0
    for name in reference.read_registry():
        assert name in result.stdout
    assert "CC BY 4.0" in result.stdout
    assert "not here yet" in result.stdout


def test_the_verb_says_in_words_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("KREPES_DATA", str(tmp_path))
    result = run_verb("adult")
    assert result.exit_code == 1
    assert "KREPES_DATA" in result.stderr
    assert "adult.data" in result.stderr


def test_the_verb_writes_no_arrays_of_a_table(tmp_path):
    result = run_verb("adult", "--arrays", str(tmp_path))
    assert result.exit_code == 1
    assert "holds no images" in result.stderr


REAL = os.environ.get("KREPES_DATA")
real = pytest.mark.skipif(REAL is None, reason="KREPES_DATA names no folder of real data")


@real
@pytest.mark.parametrize(
    ("name", "rows", "columns"), [("adult", 32_561, 15), ("higgs", 35_298, 29), ("covtype", 109_745, 13)]
)
def test_a_real_table_has_its_published_size(name, rows, columns, monkeypatch):
    monkeypatch.setenv("KREPES_DATA", str(REAL))
    frame, label = getattr(reference, name)()
    assert frame.shape == (rows, columns)
    assert frame[label].notna().all()
    assert "." not in "".join(frame[label].cat.categories)


@real
def test_adults_test_rows_have_the_labels_of_the_training_rows(monkeypatch):
    monkeypatch.setenv("KREPES_DATA", str(REAL))
    frame, label = reference.adult("test")
    assert len(frame) == 16_281
    assert list(frame[label].cat.categories) == list(reference.adult().frame[label].cat.categories)


def small_mnist(folder: Path) -> dict:
    """Three training images and two test images in files of MNIST's names, and their registry."""
    files = []
    (folder / "mnist").mkdir()
    for stem, n in (("train", 3), ("t10k", 2)):
        sizes = {"images-idx3": (n, 2, 2), "labels-idx1": (n,)}
        for what, shape in sizes.items():
            head = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">i4").tobytes()
            body = np.arange(np.prod(shape), dtype=np.uint8).tobytes()
            name = f"{stem}-{what}-ubyte.gz"
            (folder / "mnist" / name).write_bytes(gzip.compress(head + body))
            content = (folder / "mnist" / name).read_bytes()
            files.append({"name": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
    plain = entry().model_dump(mode="json")
    return {"mnist": {**plain, "folder": "mnist", "forms": [{"name": "original", "files": files}]}}


def test_images_are_written_as_arrays_for_a_configuration(tmp_path, monkeypatch):
    registry = {name: Entry.model_validate(plain) for name, plain in small_mnist(tmp_path).items()}
    monkeypatch.setattr("krepes.data.reference.fetching.read_registry", lambda: registry)
    monkeypatch.setenv("KREPES_DATA", str(tmp_path))
    images, labels, classes = reference.mnist()
    assert images.flatten().tolist() == list(range(12))
    assert images.shape == (3, 1, 2, 2)
    assert (labels.tolist(), classes[2]) == ([0, 1, 2], "2")
    written = reference.write_arrays("mnist", tmp_path / "arrays")
    assert [p.name for p in written] == ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"]
    array = np.load(written[0])
    assert (array.dtype, array.shape, array.max()) == (np.float32, (3, 1, 2, 2), np.float32(11 / 255))
    assert np.load(written[3]).tolist() == ["0", "1"]


@real
def test_mnist_has_its_published_size(monkeypatch):
    monkeypatch.setenv("KREPES_DATA", str(REAL))
    images, labels, _ = reference.mnist("test")
    assert images.shape == (10_000, 1, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]


@real
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_unknown_split_is_refused_by_every_reader(split, monkeypatch):
    monkeypatch.setenv("KREPES_DATA", str(REAL))
    assert len(reference.fairface_labels(split).frame) == {"train": 86_744, "test": 10_954}[split]
    with pytest.raises(KrepesError, match="'train' or 'test'"):
        reference.fairface_labels(f"{split}ing")
