"""A reader's own sample: prepared as the run's were, explained, and refused in words where it does not fit."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.app.runs import HOSTILE, MARKUP, Asker, table_run


def sent(asker: Asker, body: bytes, kind: str):
    """The response to an upload."""
    return asker.post("/api/upload", content=body, headers={"Content-Type": kind})


def refused(asker: Asker, body: bytes, kind: str, status: int = 422) -> str:
    """The sentence of an upload that is refused."""
    found = sent(asker, body, kind)
    assert found.status_code == status, found.text[:300]
    return found.json()["error"]


def row_of(asker: Asker, position: int) -> dict:
    """A sample's cells."""
    return asker.told(f"/api/explain/{position}")["sample"]["cells"]


def test_an_uploaded_row_is_explained_as_the_same_row_of_the_run(live_table):
    row = row_of(live_table, 5)
    found = sent(live_table, json.dumps(row).encode(), "application/json").json()
    mine = live_table.told("/api/explain/5")
    assert found["total"] == pytest.approx(mine["total"], rel=1e-5)
    assert found["complete"]
    assert found["sample"]["cells"] == row
    assert found["notes"] == []
    assert (found["x"], found["y"]) == pytest.approx((mine["sample"]["x"], mine["sample"]["y"]), abs=1e-4)
    assert found["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert 5 in {n["position"] for n in found["nearest"]}


def test_a_csv_row_is_the_same_as_json(live_table):
    row = row_of(live_table, 5)
    names = ",".join(f'"{name}"' for name in row)
    values = ",".join("" if v is None else f'"{v}"' for v in row.values())
    found = sent(live_table, f"{names}\r\n{values}\r\n".encode(), "text/csv; charset=utf-8").json()
    assert found["total"] == pytest.approx(live_table.told("/api/explain/5")["total"], rel=1e-5)


def test_an_unseen_category_is_said(live_table):
    row = row_of(live_table, 5) | {HOSTILE: MARKUP + "new"}
    found = sent(live_table, json.dumps(row).encode(), "application/json").json()
    assert any("has not seen" in note for note in found["notes"])


@pytest.mark.parametrize(("change", "said"), [
    ({"<b>unknown</b>": 1}, "knows no column '<b>unknown</b>'"),
    ({"age": "old"}, "column 'age' is numeric"), ({"age": [1]}, "holds a list"), ({"age": {"a": 1}}, "holds a dict"),
    ({"age": True}, "column 'age' is numeric"), ({"age": "1e999"}, "expected a finite number"),
    ({"sex": ["F"]}, "holds a list"),
    ({"age": 10**400}, "expected a finite number"),
])  # fmt: skip
def test_a_row_that_does_not_fit(live_table, change, said):
    assert said in refused(live_table, json.dumps(row_of(live_table, 5) | change).encode(), "application/json")


def test_a_row_without_a_column(live_table):
    row = row_of(live_table, 5)
    del row["sex"]
    assert "column 'sex' is missing" in refused(live_table, json.dumps(row).encode(), "application/json")


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"age": 1, "age": 2}', b"[" * 100_000, b"\xff", b"[1, 2]",
                                  b'{"age": NaN}', b"null"], ids=lambda b: repr(b[:12]))  # fmt: skip
def test_json_that_is_no_row(live_table, body):
    assert refused(live_table, body, "application/json")


@pytest.mark.parametrize("body", [b"a,b\n", b"a\n1\n2\n", b"a,b\n1\n", b"a,a\n1,2\n", b"\xff\xfe", b'a\n"1', b"\n\n",
                                  b"a\n" + b"x" * 200_000], ids=lambda b: repr(b[:12]))  # fmt: skip
def test_csv_that_is_no_row(live_table, body):
    assert refused(live_table, body, "text/csv")


@pytest.mark.parametrize(
    "kind", ["", "text/html", "application/x-www-form-urlencoded", "multipart/form-data", "x" * 500]
)
def test_another_content_type(live_table, kind):
    assert "expected image/" in refused(live_table, b"a", kind)


def test_an_image_for_a_table(live_table):
    assert "of kind table" in refused(live_table, b"a", "image/png")


def test_a_huge_upload_is_cut_off(live_table):
    assert "10 MiB" in refused(live_table, b"0" * (10 * 2**20 + 1), "application/json", 413)


def test_a_huge_upload_without_its_length_is_cut_off(live_table):
    taken = []

    def parts():
        for i in range(1000):
            taken.append(i)
            yield b"0" * 2**20

    found = live_table.post("/api/upload", content=parts(), headers={"Content-Type": "application/json"})
    assert found.status_code == 413


# ---------------------------------------------------------------------- images


def test_an_uploaded_image_is_explained_as_the_same_image_of_the_run(live_images, images):
    body = (images.parent / "images" / "005.png").read_bytes()
    found = sent(live_images, body, "image/png").json()
    mine = live_images.told("/api/explain/5")
    assert found["total"] == pytest.approx(mine["total"], rel=1e-5)
    assert found["nearest"][0]["position"] == 5


KINDS = {"JPEG": ("RGB", "L", "CMYK"), "WEBP": ("RGB", "L", "P", "RGBA"), "BMP": ("RGB", "L", "P", "RGBA"),
         "PNG": ("RGB", "L", "P", "RGBA")}  # fmt: skip


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in KINDS.items() for mode in modes])
def test_images_of_many_kinds(live_images, kind, mode):
    buffer = io.BytesIO()
    Image.new(mode, (30, 20)).save(buffer, kind)
    assert sent(live_images, buffer.getvalue(), "image/whatever").status_code == 200


def png_header(width: int, height: int) -> bytes:
    """A PNG file that announces many pixels and holds few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(5000, 5000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 2**30)])
def test_a_picture_of_too_many_pixels_is_not_decoded(live_images, width, height):
    assert "pixels" in refused(live_images, png_header(width, height), "image/png")


def test_a_real_bomb(live_images):
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 2**20
    assert "pixels" in refused(live_images, buffer.getvalue(), "image/png")


def test_a_truncated_image(live_images, images):
    body = (images.parent / "images" / "005.png").read_bytes()
    for length in (10, 60, len(body) // 2):
        assert refused(live_images, body[:length], "image/png")


@pytest.mark.parametrize(
    "body", [b"no image", b"GIF89a" + bytes(40), b"<svg onload='alert(1)'/>", b"%PDF-1.4", b"\x00" * 99], ids=repr
)
def test_what_is_no_image(live_images, body):
    assert "no image that is read here" in refused(live_images, body, "image/png")


def test_formats_outside_the_list_are_not_decoded(live_images):
    for kind in ("GIF", "TIFF", "PPM", "ICO"):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, kind)
        assert "no image that is read here" in refused(live_images, buffer.getvalue(), "image/png")


def test_several_frames(live_images):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    assert "several frames" in refused(live_images, buffer.getvalue(), "image/webp")


def test_a_list_of_numbers_for_an_image(live_images):
    body = json.dumps(np.zeros(3 * 8 * 8).tolist()).encode()
    assert sent(live_images, body, "application/json").status_code == 200
    assert "list of 192 numbers" in refused(live_images, b"[1, 2]", "application/json")
    assert "list of 192 numbers" in refused(live_images, b'[["a", 1], [2]]', "application/json")


# ------------------------------------------------------------------- redaction


@pytest.fixture(scope="module")
def redacting(tmp_path_factory):
    """Asks a run that hides a column."""
    return Asker(table_run(tmp_path_factory.mktemp("app") / "redacted", redact=["secret"]), live=True)


def test_a_redacted_column_is_hidden_everywhere(redacting):
    selection = redacting.told("/api/select", positions=list(range(60)))["selection"]
    paths = ["/api/run", "/api/samples?limit=200", "/api/explain/3", "/api/landmarks", "/export/selection.csv",
             f"/api/samples?selection={selection}"]  # fmt: skip
    for path in paths:
        text = redacting.get(path).text
        assert "secret" not in text, path
        assert "hush" not in text, path
    features = redacting.told("/api/select", where="sex == 'Female'")["features"]
    assert "secret" not in {f["column"] for f in features}


def test_a_redacted_column_answers_no_query_and_has_no_colour(redacting):
    said = redacting.refused("/api/select", 422, where="secret == 'hush-a'")
    assert "there is no column" in said
    assert "secret" not in said.partition("Its columns:")[2]
    assert redacting.refused("/tiles/0/0/0.png?colour=secret", 422)
    assert "hush" not in redacting.get("/report").text


def test_a_row_without_its_redacted_column_is_explained(redacting):
    row = row_of(redacting, 5)
    assert "secret" not in row
    found = sent(redacting, json.dumps(row).encode(), "application/json")
    assert found.status_code == 200
    assert "secret" not in found.text
    wrong = refused(redacting, json.dumps(row | {"secret": ["x"]}).encode(), "application/json")
    assert "secret" not in wrong


@pytest.mark.parametrize("value", ["hush-a", "hush-b", ""])
def test_a_redacted_cell_is_not_taken_so_that_nearness_tells_nothing_of_it(redacting, value):
    row = row_of(redacting, 5)
    said = refused(redacting, json.dumps(row | {"secret": value}).encode(), "application/json")
    assert "a cell of a redacted column" in said
    assert "secret" not in said
    missing = sent(redacting, json.dumps(row | {"secret": None}).encode(), "application/json").json()
    assert missing == sent(redacting, json.dumps(row).encode(), "application/json").json()
