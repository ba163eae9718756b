from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from lifelines import KaplanMeierFitter

from storm_clinic.errors import OutcomeError
from storm_clinic.files import Workspace, digest_file
from storm_clinic.steps.cohort_check import check_cohort

CLINICAL = """\
id,age,stage,days,died,status,centre
P1,61,I,300,1,1,North
P2,70,II,200,0,0,North
P3,,I,100,1,2,South
P4,55,NA,50,0,0,
P5,49,NA,0,0,0,North
P6,80,NA,90,,,North
P7,80,NA,400,0,0,North
"""
SLIDES = "id,slide,path\nP1,S1,here.svs\nP1,S2,gone.svs\nP2,S3,\nP8,S4,\n"
MANIFEST = """\
format: 1
cohort: hospital
tables:
  clinical: {path: clinical.csv, patient_id: id}
  slides: {path: slides.csv, patient_id: id, slide_id: slide}
site: centre
columns:
  age: {from: age, kind: continuous, unit: years}
  stage: {from: stage, kind: ordinal, levels: [I, II, III]}
endpoints:
  os: {kind: survival, time: days, unit: days, event: died, codes: {0: censored, 1: event}}
  cause:
    kind: competing
    time: days
    unit: days
    event: status
    causes: [disease, other]
    codes: {0: censored, 1: disease, 2: other}
  died: {kind: classes, from: died, levels: [no, yes], codes: {0: no, 1: yes}}
missing: ["", "NA"]
origin: {source: invented for tests, licence: none}
"""


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    folder = tmp_path / "cohorts" / "hospital"
    folder.mkdir(parents=True)
    for name, text in (
        ("clinical.csv", CLINICAL),
        ("slides.csv", SLIDES),
        ("cohort.yaml", MANIFEST),
        ("here.svs", ""),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    return Workspace(tmp_path)


@pytest.fixture
def report(workspace):
    return check_cohort("hospital", workspace=workspace)


def test_tables_are_listed_with_size_and_digest(report, workspace):
    assert report.tables[["table", "rows", "columns"]].to_numpy().tolist() == [
        ["clinical", 7, 7],
        ["slides", 4, 3],
    ]
    assert report.tables["sha256"][0] == digest_file(
        workspace.cohorts / "hospital" / "clinical.csv"
    )


def test_columns_show_what_is_in_them_and_what_is_missing(report):
    columns = report.columns.set_index("column")
    assert columns.loc["age", "values"] == "median 65.5 (56.5 to 77.5), range 49 to 80"
    assert columns.loc["stage", "values"] == "I 2, II 1, III 0"
    assert columns["missing"].to_dict() == {"age": 1, "stage": 4}
    assert columns.loc["stage", "missing_percent"] == 57.1


def test_endpoints_are_counted_with_their_follow_up(report):
    endpoints = report.endpoints.set_index("endpoint")
    assert endpoints["patients"].to_dict() == {"os": 5, "cause": 5, "died": 6}
    assert endpoints["events"].to_dict() == {"os": 2, "cause": 1, "died": 2}
    assert endpoints["left_out"].to_dict() == {"os": 2, "cause": 2, "died": 1}
    assert endpoints["median_follow_up_months"].isna()["died"]


def test_sites_are_listed_by_size_with_their_events(report):
    sites = report.sites.set_index("site")
    assert sites.index.tolist() == ["North", "(unknown)", "South"]
    assert sites["patients"].tolist() == [5, 1, 1]
    assert sites["slides"].tolist() == [3, 0, 0]
    assert sites["events_os"].tolist() == [1, 0, 1]
    assert sites["events_cause"].tolist() == [1, 0, 0]
    assert sites["events_died"].tolist() == [1, 0, 1]


def test_everyone_left_out_is_listed_with_step_and_reason(report):
    excluded = report.excluded[report.excluded["endpoint"].isin(["", "os"])]
    assert excluded[["id", "reason"]].to_numpy().tolist() == [
        ["S4", "its patient is not in the clinical table"],
        ["P5", "time is zero"],
        ["P6", "a time is recorded, but not how follow-up ended"],
    ]
    counted = report.attrition.groupby("endpoint")["n"].sum().to_dict()
    assert counted == {"": 1, "os": 2, "cause": 2, "died": 1}


def test_notes_say_what_a_person_should_look_at(report):
    text = "\n".join(report.notes)
    assert "column stage: nobody is III" in text
    assert "column stage: missing in 4 of 7 patients" in text
    assert "site North: 5 of 7 patients" in text
    assert "1 patients have no site" in text
    assert "5 patients have no slide" in text
    assert "1 of 2 slide files are not there: S2" in text


def test_measurements_show_who_has_them_and_what_varies(workspace):
    folder = workspace.cohorts / "hospital"
    declared = "measurements:\n  rna: {path: rna.csv, patient_id: id, unit: z-score}\nmissing:"
    (folder / "cohort.yaml").write_text(MANIFEST.replace("missing:", declared))
    (folder / "rna.csv").write_text("id,TP53,VHL,MYC\nP1,1,0,NA\nP2,2,0,1\nP8,3,1,1\nP3,NA,,NA\n")
    report = check_cohort("hospital", workspace=workspace)
    assert report.measurements.to_numpy().tolist() == [["rna", "z-score", 2, 5, 3, 2, 16.7]]
    assert report.tables[["table", "rows", "columns"]].to_numpy().tolist()[2] == [
        "measurements.rna", 4, 4,
    ]  # fmt: skip
    text = "\n".join(report.notes)
    assert "measurement rna: 5 of 7 patients have none" in text
    assert "measurement rna: nothing varies in 2 of 3 columns: VHL, MYC" in text
    excluded = report.excluded[report.excluded["unit"] == "rows"]
    assert excluded[["id", "reason"]].to_numpy().tolist() == [
        ["row 4", "its patient is not in the clinical table"]
    ]
    json.dumps(report.to_json(), allow_nan=False)


def test_the_report_is_json(report):
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["cohort"] == "hospital"
    assert value["endpoints"][2]["median_follow_up_months"] is None
    assert value["endpoints"][0]["events"] == 2


def test_an_endpoint_that_nobody_has_does_not_hide_the_others(workspace):
    path = workspace.cohorts / "hospital" / "cohort.yaml"
    codes = "codes: {0: censored, 1: event}"
    declared = f"none: {{kind: survival, time: zero, unit: days, event: died, {codes}}}"
    path.write_text(path.read_text().replace("endpoints:\n", f"endpoints:\n  {declared}\n"))
    table = workspace.cohorts / "hospital" / "clinical.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",zero", *(line + ",0" for line in lines[1:])]) + "\n")
    report = check_cohort("hospital", workspace=workspace)
    endpoints = report.endpoints.set_index("endpoint")
    assert endpoints["patients"].to_dict() == {"os": 5, "cause": 5, "died": 6, "none": 0}
    assert any("endpoint none: no patient has this outcome" in note for note in report.notes)


def test_a_cohort_that_cannot_be_read_is_not_half_reported(workspace):
    table = workspace.cohorts / "hospital" / "clinical.csv"
    table.write_text(table.read_text().replace("300,1", "-300,1"))
    with pytest.raises(OutcomeError, match="'-300' in row 2"):
        check_cohort("hospital", workspace=workspace)


@pytest.mark.parametrize("name", ["tcga_kirc", "tcga_kirp"])
def test_median_follow_up_is_that_of_lifelines(shared_data, monkeypatch, name):
    monkeypatch.setenv("STORM_CLINIC_DATA", str(shared_data))
    report = check_cohort(name, workspace=Workspace(Path(__file__).resolve().parents[2]))
    with (shared_data / name / "clinical.csv").open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["PFI.time"] not in ("", "0.0")]
    days = [float(row["PFI.time"]) for row in rows]
    censored = [row["PFI"] == "0.0" for row in rows]
    median = KaplanMeierFitter().fit(days, censored).median_survival_time_ / 30.4375
    ours = report.endpoints.set_index("endpoint").loc["pfi", "median_follow_up_months"]
    assert ours == pytest.approx(median, abs=0.051)
