from __future__ import annotations

import csv
import re

import pytest

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError
from storm_clinic.files import Workspace
from storm_clinic.steps.new_cohort import init_cohort

HEADER = "pid,age,ecog,sex,grade,remark,hospital,always,empty,os_status,os_months\n"


def clinical(folder, header=HEADER, n=30):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "clinical.csv"
    rows = [
        f"P{i},{40 + i}.5,{i % 4},{'MF'[i % 2]},{['high', 'low', 'NA'][i % 3]},text {i},"
        f"{['North', 'South'][i % 2]},same,,{i % 2},{i + 1}\n"
        for i in range(n)
    ]
    path.write_text(header + "".join(rows), encoding="utf-8")
    return path


def slides(folder):
    path = folder / "slides.csv"
    rows = [f"P{i // 2},S{i},slides/S{i}.svs\n" for i in range(60)]
    path.write_text("case,slide,path\n" + "".join(rows), encoding="utf-8")
    return path


def decide(path, **answers: str):
    """Fill in each question by the first answer whose name occurs in it."""
    lines = []
    text = path.read_text(encoding="utf-8")
    text = text.replace('"1": "DECIDE: censored or event?"', '"1": event')
    for line in text.splitlines():
        if '"DECIDE' in line:
            matching = [answer for word, answer in answers.items() if word in line]
            assert matching, f"no answer to {line}"
            line = re.sub(r'"DECIDE.*"', matching[0], line)
        lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


ANSWERS = {
    "hospital": "hospital",
    "continuous (then": "ordinal",
    "days, months": "months",
    "censored or": "censored",
    "which unit": "years",
    "who collected": "invented",
    "may they": "tests",
}


def test_the_cohort_cannot_be_read_before_all_questions_are_answered(tmp_path):
    made = init_cohort("trial", clinical(tmp_path), slides(tmp_path), workspace=Workspace(tmp_path))
    with pytest.raises(CohortError, match="lines wait for a decision") as caught:
        Cohort.read("trial", Workspace(tmp_path))
    assert all(line in str(caught.value) for line in made.undecided)
    fields = [line.split(", ")[1].split(":")[0] for line in made.undecided]
    assert fields == [
        "site",
        "columns.age.unit",
        "columns.ecog.kind",
        "endpoints.os.unit",
        "endpoints.os.codes.0",
        "endpoints.os.codes.1",
        "origin.source",
        "origin.licence",
    ]


def test_the_answered_file_reads_what_could_be_seen(tmp_path):
    workspace = Workspace(tmp_path)
    made = init_cohort("trial", clinical(tmp_path), slides(tmp_path), workspace=workspace)
    decide(made.path, **ANSWERS)
    cohort = Cohort.read("trial", workspace)
    assert cohort.n_patients == 30
    assert len(cohort.slides) == 60
    assert cohort.patients["age"].tolist()[:2] == [40.5, 41.5]
    assert cohort.columns["sex"].levels == ("F", "M")
    assert cohort.columns["grade"].levels == ("high", "low")
    assert cohort.columns["ecog"].levels == ("0", "1", "2", "3")
    assert cohort.patients["grade"].isna().sum() == 10
    outcome = cohort.outcome("os").outcome
    assert outcome.n_events == 15
    assert outcome.n_patients == 30


def test_no_unit_code_or_site_is_guessed(tmp_path):
    made = init_cohort("trial", clinical(tmp_path), workspace=Workspace(tmp_path))
    text = made.path.read_text(encoding="utf-8")
    # The name os_months says months; whoever made the table may think otherwise.
    assert not re.search(r"unit: (days|months|years)", text)
    assert not re.search(r": (censored|event)$", text, re.MULTILINE)
    assert re.search(r"^site: \"DECIDE", text, re.MULTILINE)


def test_columns_that_say_nothing_are_listed_with_the_reason(tmp_path):
    made = init_cohort("trial", clinical(tmp_path), slides(tmp_path), workspace=Workspace(tmp_path))
    assert dict(made.left_out) == {
        "remark": "text with 30 different values",
        "always": "always same",
        "empty": "no values",
    }
    text = made.path.read_text(encoding="utf-8")
    assert all(f"# not declared: {column} ({why})" in text for column, why in made.left_out)


def test_measurements_and_times_are_no_ids(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text("who,age,event,time\n" + "".join(f"A{i},{i}.5,{i % 2},{i}\n" for i in range(9)))
    made = init_cohort("trial", path, workspace=Workspace(tmp_path))
    assert "patient_id: who}" in made.path.read_text(encoding="utf-8")


def test_an_id_that_could_be_two_columns_is_asked_for(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text("study_no,hospital_no,arm\nA1,B1,x\nA2,B2,y\nA3,B3,y\n", encoding="utf-8")
    made = init_cohort("trial", path, workspace=Workspace(tmp_path))
    assert any("study_no, hospital_no" in line for line in made.undecided)


def test_the_slides_table_shows_which_id_is_meant(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text("study_no,hospital_no,arm\nA1,B1,x\nA2,B2,y\nA3,B3,y\n", encoding="utf-8")
    table = tmp_path / "slides.csv"
    table.write_text("slide,who\nS1,B1\nS2,B1\nS3,B2\n", encoding="utf-8")
    made = init_cohort("trial", path, table, workspace=Workspace(tmp_path))
    text = made.path.read_text(encoding="utf-8")
    assert "patient_id: hospital_no" in text
    assert "patient_id: who" in text
    assert "slide_id: slide" in text


def test_a_table_without_endpoints_asks_for_them(tmp_path):
    path = tmp_path / "clinical.csv"
    path.write_text("id,age\nA1,1\nA2,2\n", encoding="utf-8")
    made = init_cohort("trial", path, workspace=Workspace(tmp_path))
    assert any("endpoints: which outcomes?" in line for line in made.undecided)


def test_awkward_names_stay_yaml(tmp_path):
    header = 'pid,"Age: at, diagnosis #1",ecog,null,Größe,"a ""b""",site,x,y,OS,OS.time\n'
    workspace = Workspace(tmp_path)
    made = init_cohort("trial", clinical(tmp_path, header), slides(tmp_path), workspace=workspace)
    decide(made.path, **(ANSWERS | {"hospital": "site"}))
    cohort = Cohort.read("trial", workspace)
    sources = {name: column.source for name, column in cohort.columns.items()}
    assert sources["age_at_diagnosis_1"] == "Age: at, diagnosis #1"
    assert sources["null"] == "null"
    assert sources["gr_e"] == "Größe"
    assert sources["site_2"] == "site"


def test_data_outside_the_workspace_are_named_by_their_full_path(tmp_path):
    elsewhere = clinical(tmp_path / "elsewhere")
    made = init_cohort("trial", elsewhere, workspace=Workspace(tmp_path / "workspace"))
    assert f'data_root: "{elsewhere.parent}"' in made.path.read_text(encoding="utf-8")
    inside = clinical(tmp_path / "workspace" / "data")
    made = init_cohort("trial2", inside, workspace=Workspace(tmp_path / "workspace"))
    assert 'data_root: "data"' in made.path.read_text(encoding="utf-8")


def test_what_exists_is_not_overwritten(tmp_path):
    made = init_cohort("trial", clinical(tmp_path), workspace=Workspace(tmp_path))
    before = made.path.read_bytes()
    with pytest.raises(CohortError, match="there is one already"):
        init_cohort("trial", clinical(tmp_path), workspace=Workspace(tmp_path))
    assert made.path.read_bytes() == before


@pytest.mark.parametrize("name", ["../trial", "Trial", "", "a b"])
def test_a_name_must_be_a_folder_and_a_word(tmp_path, name):
    with pytest.raises(CohortError, match="cannot name a cohort"):
        init_cohort(name, clinical(tmp_path), workspace=Workspace(tmp_path))


def test_the_real_table_becomes_a_manifest_that_reads_the_same_patients(shared_data, tmp_path):
    folder = shared_data / "tcga_kirc"
    workspace = Workspace(tmp_path)
    made = init_cohort("kirc", folder / "clinical.csv", folder / "slides.csv", workspace=workspace)
    decide(made.path, **(ANSWERS | {"hospital": "tissue_source_site", "days, months": "days"}))
    cohort = Cohort.read("kirc", workspace)
    with (folder / "clinical.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert cohort.patients.index.tolist() == [row["bcr_patient_barcode"] for row in rows]
    assert set(cohort.endpoints) == {"os", "dss", "dfi", "pfi"}
    events = sum(row["OS"] == "1.0" and float(row["OS.time"]) > 0 for row in rows)
    assert cohort.outcome("os").outcome.n_events == events
