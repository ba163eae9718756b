from __future__ import annotations

from storm_clinic.cohort.profile import (
    EndpointColumns,
    find_endpoints,
    find_markers,
    profile_columns,
)
from storm_clinic.cohort.text_table import read_text_table


def profiled(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    table = read_text_table(path)
    markers = find_markers(table)
    return profile_columns(table, markers), markers


def test_only_unmistakable_markers_are_taken_for_missing(tmp_path):
    text = "id,a,b\n1,NA,Unknown\n2,[Not Available],None\n3,,-9\n4,[3],N/A\n"
    _, markers = profiled(tmp_path, text)
    assert set(markers) == {"NA", "[Not Available]", "", "N/A"}


def test_a_column_identifies_if_every_row_has_another_safe_id(tmp_path):
    text = "id,file,twice,gap,note\nP1,a/b,1,x,-1\nP2,a/c,1,,-2\n"
    profiles, _ = profiled(tmp_path, text)
    assert [name for name, profile in profiles.items() if profile.identifies] == ["id"]


def test_values_are_sorted_as_numbers_where_they_are_numbers(tmp_path):
    profiles, _ = profiled(tmp_path, "n,t\n10,b\n9.0,a\n9,10\n")
    assert profiles["n"].values == ("9", "10")
    assert profiles["n"].integers
    assert not profiles["t"].numeric


def test_times_and_events_are_paired_by_their_names(tmp_path):
    header = "OS,OS.time,os_status,PFS_MONTHS,PFS_STATUS,time,event,age,lead.time\n"
    rows = "".join(f"{n % 2},{n},{n % 3},{n}.5,{n % 2}:X,{n},{n % 2},{n},{n}\n" for n in range(9))
    profiles, _ = profiled(tmp_path, header + rows)
    assert find_endpoints(profiles) == [
        EndpointColumns("OS", "OS.time", "OS"),
        EndpointColumns("PFS", "PFS_MONTHS", "PFS_STATUS"),
        EndpointColumns("event", "time", "event"),
    ]
