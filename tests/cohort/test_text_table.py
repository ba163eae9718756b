from __future__ import annotations

import gzip

import pytest

from storm_clinic.cohort.text_table import read_text_table, say_rows
from storm_clinic.errors import CohortError
from storm_clinic.files import digest_bytes


def written(tmp_path, data: bytes, name: str = "table.csv"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_nothing_is_interpreted(tmp_path):
    table = read_text_table(written(tmp_path, b"a,b\n007,NA\n 1.0,true\n"))
    assert table.frame.to_numpy().tolist() == [["007", "NA"], [" 1.0", "true"]]


def test_rows_bear_the_numbers_of_a_spreadsheet(tmp_path):
    # Row 3 is blank; row 4 holds a line break inside quotes and is still one row.
    data = b'a,b\n1,2\n\n"3\n3",4\n5,6\n'
    assert read_text_table(written(tmp_path, data)).frame.index.tolist() == [2, 4, 5]


def test_excel_marks_and_windows_line_ends_are_no_content(tmp_path):
    table = read_text_table(written(tmp_path, b"\xef\xbb\xbfid,b\r\n1,2\r\n"))
    assert table.frame.columns.tolist() == ["id", "b"]
    assert table.frame.loc[2, "b"] == "2"


@pytest.mark.parametrize("name", ["t.tsv", "t.txt", "t.tsv.gz"])
def test_tabs_and_gzip_are_read_by_the_ending(tmp_path, name):
    data = b"a\tb\n1,5\t2\n"
    stored = gzip.compress(data) if name.endswith(".gz") else data
    table = read_text_table(written(tmp_path, stored, name))
    assert table.frame.loc[2, "a"] == "1,5"
    assert table.digest == digest_bytes(stored)


def test_a_column_without_a_name_is_left_out(tmp_path):
    # R's write.csv puts row names there.
    table = read_text_table(written(tmp_path, b'"","a"\n"1","x"\n'))
    assert table.frame.columns.tolist() == ["a"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"a,b\n1\n1,2\n1,2,3\n", "the header has 2 columns, but not rows 2, 4"),
        (b"a,a\n1,2\n", "names column 'a' more than once"),
        (b'a,b\n"1,2\n', "line 2: unexpected end of data"),
        ("name\nMüller\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_broken_table_says_where(tmp_path, data, message):
    with pytest.raises(CohortError, match=message) as caught:
        read_text_table(written(tmp_path, data))
    assert "table.csv" in str(caught.value)


def test_a_spreadsheet_file_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(CohortError, match=r"Save it as \.csv"):
        read_text_table(written(tmp_path, b"PK", "table.xlsx"))


def test_a_damaged_archive_is_an_error_of_ours(tmp_path):
    half = gzip.compress(b"a,b\n" * 1000)[:40]
    with pytest.raises(CohortError, match="cannot be read"):
        read_text_table(written(tmp_path, half, "table.csv.gz"))


def test_a_missing_column_names_its_neighbour(tmp_path):
    table = read_text_table(written(tmp_path, b"patient,age\nP,1\n"))
    with pytest.raises(CohortError, match=r"no column 'patients'.*did you mean 'patient'"):
        table.column("patients", asked_by="tables.clinical.patient_id")


def test_semicolons_in_a_csv_are_recognised(tmp_path):
    table = read_text_table(written(tmp_path, b"patient;age\nP;1\n"))
    with pytest.raises(CohortError, match=r"another separator.*\? Save it with commas"):
        table.column("patient", asked_by="tables.clinical.patient_id")


def test_many_rows_are_counted_and_not_all_listed():
    assert say_rows([7]) == "row 7"
    assert say_rows(range(2, 15)) == "rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more"
