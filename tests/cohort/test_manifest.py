from __future__ import annotations

import pytest

from storm_clinic.cohort.manifest import data_folder, find_manifest, read_manifest
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.files import Workspace

SURVIVAL = "os: {kind: survival, time: days, unit: days, event: died, "


def read(write_cohort, *edits):
    workspace = write_cohort(*edits)
    return read_manifest(workspace.cohorts / "hospital" / "cohort.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unit: years", "units: years", r"line 8, columns.age.units: unknown key.*'unit'"),
        ("site: centre", "sites: centre", r"line 6, sites: unknown key; did you mean 'site'"),
        ("unit: days, ", "", r"line 13, endpoints.os.unit: this key is missing"),
        ("unit: days", "unit: weeks", r"line 13, endpoints.os.unit: .*'days', 'months' or 'years'"),
        ("kind: survival", "kind: survivl", r"endpoints.os.kind: unknown kind.*mean 'survival'"),
        ("kind: nominal, ", "", r"line 11, columns.sex.kind: this key is missing"),
        ("1: event", "1: dead", r"line 13, endpoints.os.codes"),
        ("{0: censored, 1: event}", "{0: censored}", "none means 'event'"),
        ("{0: censored, 1: event}", "{'1': event, '1.0': event}", "are the same value"),
        ("{0: censored, 1: event}", "{0: censored, 0: event}", "duplicate key"),
        ("{0: censored, 1: event}", "{1: event, '1': censored}", "line 13: two keys differ only"),
        ("levels: [F, M]", "levels: [F, F]", "'F' and 'F' are the same value"),
        ("levels: [F, M]", "levels: [true, false]", "true is not text: put it in quotes"),
        ("levels: [F, M]", "levels: [F, M, NA]", "columns.sex: 'NA' is declared both as a value"),
        ("from: age, cuts", "from: agee, cuts", "no continuous column declared here.*mean 'age'"),
        ("cuts: [50, 65]", "cuts: [65, 50]", "cuts must ascend"),
        ("  sex:", "  site:", "'site' is taken"),
        ("site: centre", "site: &s centre\nmore: *s", r"line 7: aliases \(\*\) are not read"),
        ("format: 1", "format: 2", "line 1, format"),
        ("cohort: hospital", "cohort: ../x", "line 2, cohort"),
    ],
)
def test_a_wrong_declaration_names_its_line_and_the_way_out(write_cohort, old, new, message):
    with pytest.raises(CohortError, match=message):
        read(write_cohort, (old, new))


def test_codes_are_text_or_numbers_alike(write_cohort):
    quoted = read(write_cohort, ("{0: censored, 1: event}", "{'0': censored, '1.0': event}"))
    assert sorted(quoted.endpoints["os"].meaning.values()) == [0, 1]


def test_a_cause_needs_a_code_and_every_code_a_cause(write_cohort):
    competing = "os: {kind: competing, time: days, unit: days, event: died, causes: [d, o], codes: "
    with pytest.raises(CohortError, match="none means 'o'"):
        read(write_cohort, (SURVIVAL + "codes: {0: censored, 1: event}", competing + "{1: d}"))


def test_the_same_file_says_which_lines_wait_for_a_person(write_cohort):
    edits = (
        ("unit: days", 'unit: "DECIDE: days, months or years?"'),
        ("1: event}", "1: DECIDE}"),
        ("site: centre", "site: DECIDE which"),
    )
    with pytest.raises(CohortError, match="3 lines wait for a decision") as caught:
        read(write_cohort, *edits)
    text = str(caught.value)
    assert "line 6, site: which" in text
    assert "line 13, endpoints.os.unit: days, months or years?" in text
    assert "line 13, endpoints.os.codes.1: not decided" in text


def test_a_cohort_is_found_by_name_folder_or_file(write_cohort):
    workspace = write_cohort()
    path = workspace.cohorts / "hospital" / "cohort.yaml"
    assert find_manifest("hospital", workspace) == path
    assert find_manifest("cohorts/hospital", workspace) == path
    assert find_manifest(path, Workspace()) == path


def test_an_unknown_cohort_names_its_neighbour(write_cohort):
    with pytest.raises(CohortError, match=r"no cohort 'hospitl'; did you mean 'hospital'\? Write"):
        Cohort.read("hospitl", write_cohort())


def test_a_folder_may_not_bear_another_name_than_its_cohort(write_cohort):
    with pytest.raises(CohortError, match="says cohort: clinic, its folder hospital"):
        Cohort.read("hospital", write_cohort(("cohort: hospital", "cohort: clinic")))


def test_data_lie_where_the_variable_says(write_cohort, tmp_path, monkeypatch):
    edit = ("tables:\n", "data_root: ${HOSPITAL_DATA}/now\ntables:\n")
    workspace = write_cohort(edit)
    path = find_manifest("hospital", workspace)
    manifest = read_manifest(path)
    monkeypatch.delenv("HOSPITAL_DATA", raising=False)
    with pytest.raises(CohortError, match=r"HOSPITAL_DATA is not set.*export HOSPITAL_DATA="):
        data_folder(manifest, path, workspace)
    monkeypatch.setenv("HOSPITAL_DATA", str(tmp_path))
    with pytest.raises(CohortError, match="is no folder"):
        data_folder(manifest, path, workspace)
    (tmp_path / "now").mkdir()
    assert data_folder(manifest, path, workspace) == tmp_path / "now"


def test_variables_are_filled_in_nowhere_else(write_cohort, monkeypatch):
    monkeypatch.setenv("TABLE", "clinical")
    workspace = write_cohort(("path: clinical.csv", 'path: "${TABLE}.csv"'))
    with pytest.raises(CohortError, match="no such file"):
        Cohort.read("hospital", workspace)
