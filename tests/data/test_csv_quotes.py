"""Quotes in CSV files: fine ones read as they stand, stray ones never swallow rows in silence."""

import gzip

import pytest

from krepes.data.csv_table import read_csv
from krepes.errors import DataError, KrepesWarning


def lines(n=1000, **changed) -> list[str]:
    rows = ["a,b,c", *(f"{i},{i},x{i % 3}" for i in range(2, n + 2))]
    for line, text in changed.items():
        rows[int(line[1:]) - 1] = text
    return rows


def read(folder, rows, **options):
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return read_csv(folder / "t.csv", **options)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('10,20,"x1', "quote that opens on line 10 is never closed, and the row takes in 992 lines"),
        ('10,"20,x1', "quote that opens on line 10 is never closed"),
        ('"10,20,x1', "quote that opens on line 10 is never closed"),
    ],
)
def test_an_unclosed_quote_is_refused_by_its_line(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, lines(l10=row))


def test_a_quote_that_is_closed_by_the_next_rows_opening_one_is_refused(tmp_path):
    with pytest.raises(DataError, match="opens on line 10 is closed in the middle of a cell on line 12"):
        read(tmp_path, lines(l10='10,20,"x1', l12='12,20,"x1"'))


def test_a_quote_in_the_last_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="opens on line 999 is never closed"):
        read(tmp_path, lines(l999='1,2,"x'))


def test_a_cell_of_too_many_lines_is_refused_unless_asked_for(tmp_path):
    rows = ["a,b", '1,"' + "\n" * 150 + '"', "2,x"]
    with pytest.raises(DataError, match="opens on line 2 is closed only on line 152"):
        read(tmp_path, rows)
    assert len(read(tmp_path, rows, cell_lines=200)) == 2


def test_a_swallow_of_more_than_a_block_is_named_by_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr("krepes.data.csv_table.CHUNK", 500)
    with pytest.raises(DataError, match="opens on line 10 is never closed"):
        read(tmp_path, lines(l10='10,20,"x1'))


def test_skip_leaves_the_row_out_and_counts_the_lines(tmp_path):
    with pytest.warns(
        KrepesWarning, match=r"line 10 \(the quote that opens on line 10 is never closed: 992 lines are lo"
    ):
        frame = read(tmp_path, lines(l10='10,20,"x1'), on_error="skip")
    assert frame["a"].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert frame.attrs["problems"][0][0] == 10


def test_fine_quotes_read_as_they_stand(tmp_path):
    rows = ["a,b,c", '1,"x, y",p', '2,"say ""hi""",q', '3,"two\nlines",r', '4,in"ch,s', '"5","","t"', '6,"""",u']
    frame = read(tmp_path, rows)
    assert frame["b"].astype(object).where(frame["b"].notna(), None).tolist() == [
        "x, y", 'say "hi"', "two\nlines", 'in"ch', None, '"',
    ]  # fmt: skip


def test_a_file_that_is_cut_off_is_a_data_error(tmp_path):
    packed = gzip.compress("\n".join(f"{i},{i * 7919 % 1009}" for i in range(90_000)).encode())
    (tmp_path / "t.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"t\.csv\.gz cannot be read.*cut off or damaged"):
        read_csv(tmp_path / "t.csv.gz", columns=["a", "b"])


def test_a_header_of_numbers_is_said(tmp_path):
    with pytest.warns(KrepesWarning, match=r"holds numbers \(39\).*columns="):
        read(tmp_path, ["39,private", "40,state"])


def test_a_bad_cell_in_a_column_of_numbers_is_said_with_its_line(tmp_path):
    with pytest.warns(KrepesWarning, match="999 of 1,000 cells of column 'b' .* are numbers; line 10 holds 'n/a'"):
        read(tmp_path, lines(l10="10,n/a,x1"))


def test_decimal_commas_are_said(tmp_path):
    with pytest.warns(KrepesWarning, match="decimal comma"):
        read(tmp_path, ["a;b", *(f"{i};{i},5" for i in range(30))], separator=";")


def test_a_column_of_numbers_that_is_named_as_text_is_no_mistake(tmp_path):
    assert read(tmp_path, lines(l10="10,n/a,x1"), text=["b"])["b"].iloc[8] == "n/a"
