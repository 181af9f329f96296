"""CSV files in other encodings and with other separators: read when it is said how, and named when it is not."""

import gzip

import pandas as pd
import pytest

from krepes.data import TableSchema, TableSource
from krepes.data.csv_table import read_csv
from krepes.data.readers import read_table
from krepes.errors import ConfigError, DataError, KrepesWarning

TEXT = "name,age\nZoë,3\nJosé,4\n"


def csv(folder, content: bytes, name="t.csv", **options) -> pd.DataFrame:
    (folder / name).write_bytes(content)
    return read_csv(folder / name, **options)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "mac-roman"])
def test_a_file_reads_in_the_encoding_that_is_said(tmp_path, encoding):
    frame = csv(tmp_path, TEXT.encode(encoding), encoding=encoding)
    assert frame.to_dict("list") == {"name": ["Zoë", "José"], "age": [3.0, 4.0]}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_obeyed_unasked(tmp_path, encoding):
    assert csv(tmp_path, TEXT.encode(encoding)).columns.tolist() == ["name", "age"]
    assert csv(tmp_path, TEXT.encode(encoding), columns=["a", "b"], skip_lines=1)["a"].tolist() == ["Zoë", "José"]


def test_a_mark_of_the_other_byte_order_is_obeyed(tmp_path):
    assert csv(tmp_path, b"\xfe\xff" + TEXT.encode("utf-16-be"))["age"].tolist() == [3.0, 4.0]


def test_a_mark_that_contradicts_the_encoding_is_refused(tmp_path):
    with pytest.raises(DataError, match="byte-order mark of utf8, and encoding='cp1252'"):
        csv(tmp_path, TEXT.encode("utf-8-sig"), encoding="cp1252")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_another_encoding_is_named_by_line_offset_and_with_the_way_out(tmp_path, name):
    content = b"a,b\n" + b"x,1\n" * 600_000 + "Zoë,2\n".encode("cp1252")
    stored = gzip.compress(content, 1) if name.endswith("gz") else content
    with pytest.raises(DataError, match=r"is not UTF-8: line 600002, byte 2400006, holds 0xEB.*encoding='cp1252'"):
        csv(tmp_path, stored, name)


def test_a_byte_that_is_none_of_the_said_encoding_is_named(tmp_path):
    with pytest.raises(DataError, match=r"is not cp1252: line 2, byte 4, holds 0x81.*latin-1"):
        csv(tmp_path, b"a,b\n\x81,1\n", encoding="cp1252")


def test_utf16_without_a_mark_is_recognised_by_its_zero_bytes(tmp_path):
    with pytest.raises(DataError, match=r"zero bytes.*encoding='utf-16-le'"):
        csv(tmp_path, TEXT.encode("utf-16-le"))


@pytest.mark.parametrize("encoding", ["utf-88", "base64", "", "idna", "punycode"])
def test_an_encoding_that_is_none_is_named(tmp_path, encoding):
    with pytest.raises(ConfigError, match=f"encoding='{encoding}'"):
        csv(tmp_path, b"a\n1\n", encoding=encoding)


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_cells_are_separated_as_said(tmp_path, separator):
    content = "a,b\n1,x\n2,y\n".replace(",", separator).encode()
    assert csv(tmp_path, content, separator=separator).to_dict("list") == {"a": [1.0, 2.0], "b": ["x", "y"]}


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_single_wide_column_is_noticed_and_the_separator_named(tmp_path, separator):
    content = "a,b,c\n1,x,5\n2,y,6\n".replace(",", separator).encode()
    with pytest.raises(DataError) as error:
        csv(tmp_path, content)
    assert f"say separator={separator!r}" in str(error.value).lower()
    with pytest.raises(DataError) as error:
        csv(tmp_path, content, columns=["a", "b", "c"], skip_lines=1)
    assert f"separator seems to be {separator!r}, not ','" in str(error.value)


def test_a_single_column_with_the_odd_semicolon_is_read(tmp_path):
    assert csv(tmp_path, b"note\nfirst; then\nlast\n")["note"].tolist() == ["first; then", "last"]


@pytest.mark.parametrize("separator", ["", ", ", "a", '"', "\n", "·"])
def test_a_separator_that_is_none_is_named(tmp_path, separator):
    with pytest.raises(ConfigError, match="expected one character"):
        csv(tmp_path, b"a\n1\n", separator=separator)


RAGGED = b'comment\na,b\n1,x\n2\n\n"3\n3",y\n4,z,5\n5,w\n'


def test_ragged_rows_are_left_out_by_line_and_the_others_keep_their_numbers(tmp_path):
    with pytest.warns(KrepesWarning, match=r"2 of 5 rows .* left out: line 4 \(1 cells\), line 8 \(3 cells\)"):
        frame = csv(tmp_path, RAGGED, skip_lines=1, on_error="skip", text=["a"])
    assert frame["a"].tolist() == ["1", "3\n3", "5"]
    source = TableSource(frame, TableSchema.fit(frame, features=["b"]))
    assert list(source.ids) == ["row-0", "row-2", "row-4"]
    assert source.problems["path"].tolist() == ["line 4", "line 8"]
    assert source.problems["problem"].tolist() == ["it has 1 cells", "it has 3 cells"]


def test_ragged_rows_without_a_header_keep_their_numbers(tmp_path):
    with pytest.warns(KrepesWarning, match="1 of 3 rows"):
        frame = csv(tmp_path, b"1,x\n2\n3,y\n", columns=["a", "b"], on_error="skip")
    assert frame.index.tolist() == [0, 2]


def test_a_ragged_row_is_an_error_unless_it_is_to_be_skipped(tmp_path):
    with pytest.raises(DataError, match="Every row needs the same number of cells; on_error='skip'"):
        csv(tmp_path, RAGGED, skip_lines=1)
    with pytest.raises(ConfigError, match="on_error='drop'"):
        csv(tmp_path, RAGGED, skip_lines=1, on_error="drop")


def test_a_file_of_ragged_rows_alone_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds no rows of 2 cells"):
        csv(tmp_path, b"a,b\n1\n2\n", on_error="skip")


def test_a_file_without_problems_has_none(tmp_path):
    frame = csv(tmp_path, b"a,b\n1,x\n2,y\n", on_error="skip")
    assert TableSource(frame, TableSchema.fit(frame)).problems.empty
    assert frame.attrs == {}


def test_a_parquet_file_has_no_encoding_and_no_separator(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="encoding='latin-1'"):
        read_table(tmp_path / "t.parquet", encoding="latin-1")
    with pytest.raises(DataError, match="separator=';'"):
        read_table(tmp_path / "t.parquet", separator=";")


def test_a_frame_with_rows_left_out_can_be_written(tmp_path):
    with pytest.warns(KrepesWarning):
        frame = csv(tmp_path, RAGGED, skip_lines=1, on_error="skip")
    frame.to_parquet(tmp_path / "t.parquet")
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 3
