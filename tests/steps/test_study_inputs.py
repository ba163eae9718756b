"""Which patients a study sees when models look at more than slides, and what the others lack."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError, StudyError
from storm_clinic.files import Workspace, digest_file
from storm_clinic.registry.identity import load_keys
from storm_clinic.steps.cohort_summary import summarise_cohort
from storm_clinic.steps.declared_inputs import (
    clinical_columns,
    measured_inputs,
    require_same_inputs,
)
from storm_clinic.steps.feature_store import import_features
from storm_clinic.steps.study_patients import join_outcome, load_development, scored_patients
from storm_clinic.study import Study

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RNA = "measurements:\n  rna: {path: rna.csv, patient_id: patient, unit: z-score}\nmissing:"


def make_study(workspace: Workspace, *inputs: str, require: str = "", **changed: object) -> Study:
    """A study of one model that sees these inputs."""
    document = {
        "format": 1,
        "study": "inputs",
        "question": "What does a patient need to enter?",
        "endpoint": {"name": "pfs", "horizons_months": [6]},
        "features": {"encoder": "toy", "storm": "breast-st"},
        "development": ["north"],
        "clinical": ["age"],
        "candidate": "all",
        "models": [{"name": "all", "head": "attention-cox", "inputs": list(inputs)}],
        "evaluation": {"seed": 1},
    } | changed
    if require:
        document["require"] = [] if require == "nothing" else require.split()
    return Study.from_document(document, where="a test")


def put_rna(workspace: Workspace, cohort: str, table: pd.DataFrame, unit: str = "z-score") -> None:
    folder = workspace.cohorts / cohort
    path = folder / "cohort.yaml"
    path.write_text(path.read_text().replace("missing:", RNA.replace("z-score", unit)))
    table.to_csv(folder / "rna.csv", index_label="patient")


def some_rna(cohort: str, numbers: range, columns: str) -> pd.DataFrame:
    ids = [f"{cohort.upper()}-{number:03d}" for number in numbers]
    values = np.arange(len(ids) * len(columns), dtype=float).reshape(len(ids), -1)
    return pd.DataFrame(values, index=ids, columns=list(columns))


def scored(workspace: Workspace, study: Study, cohort: str = "north"):
    return scored_patients(study, cohort, workspace=workspace, keys=load_keys(workspace))


def steps(patients) -> dict[str, tuple[int, int]]:
    return {s.step: (s.n_before, s.n_after) for s in patients.attrition if s.unit == "patients"}


def test_by_default_a_patient_needs_tiles_and_may_lack_all_else(hospitals):
    put_rna(hospitals, "north", some_rna("north", range(0, 40), "AB"))
    patients = scored(hospitals, make_study(hospitals, "image", "rna", "clinical"))
    # Patients 0 and 1 have no slide; 2 to 39 have RNA.
    assert len(patients) == 88
    assert patients.lacking == {"image": 0, "rna": 50}
    assert patients.data.table("rna").loc["NORTH-005"].tolist() == [10.0, 11.0]
    assert list(patients.data.table("rna").index) == list(patients.patient_ids)


def test_what_is_required_leaves_others_out_with_the_reason(hospitals):
    put_rna(hospitals, "north", some_rna("north", range(0, 40), "AB"))
    patients = scored(hospitals, make_study(hospitals, "image", "rna", require="rna"))
    assert steps(patients)["with rna"] == (90, 40)
    assert len(patients) == 40
    reasons = patients.attrition.excluded()
    assert set(reasons[reasons["step"] == "with rna"]["reason"]) == {"no rna measured"}
    # The two without slides stay, with empty bags.
    assert patients.data.bags.sizes[:3].tolist()[:2] == [0, 0]
    assert patients.lacking == {"image": 2, "rna": 0}
    both = scored(hospitals, make_study(hospitals, "image", "rna", require="rna image"))
    assert len(both) == 38


def test_a_study_that_requires_nothing_sees_everybody(hospitals):
    put_rna(hospitals, "north", some_rna("north", range(0, 40), "AB"))
    patients = scored(hospitals, make_study(hospitals, "image", "rna", require="nothing"))
    assert len(patients) == 90
    assert patients.lacking == {"image": 2, "rna": 50}
    assert patients.slide_ids[:2] == ((), ())


def test_the_order_of_rows_and_of_patients_changes_nothing(hospitals):
    table = some_rna("north", range(0, 40), "AB")
    put_rna(hospitals, "north", table)
    study = make_study(hospitals, "image", "rna", require="nothing")
    first = scored(hospitals, study)
    clinical = hospitals.cohorts / "north" / "clinical.csv"
    header, *rows = clinical.read_text().splitlines()
    clinical.write_text("\n".join([header, *rows[::-1]]) + "\n")
    table.iloc[::-1].to_csv(hospitals.cohorts / "north" / "rna.csv", index_label="patient")
    second = scored(hospitals, study)
    assert first.patient_ids == second.patient_ids
    pd.testing.assert_frame_equal(first.data.table("rna"), second.data.table("rna"))
    assert (first.data.bags.pooled_mean()[2:] == second.data.bags.pooled_mean()[2:]).all()


def test_a_table_counts_among_the_inputs_only_where_a_model_sees_it(hospitals):
    put_rna(hospitals, "north", some_rna("north", range(0, 40), "AB"))
    digest = digest_file(hospitals.cohorts / "north" / "rna.csv")
    used = scored(hospitals, make_study(hospitals, "rna")).inputs
    assert used["north/measurements.rna/rna.csv"] == digest
    assert digest not in scored(hospitals, make_study(hospitals, "image")).inputs.values()


def test_development_cohorts_are_joined_by_column(hospitals):
    put_rna(hospitals, "north", some_rna("north", range(0, 90), "AB"))
    put_rna(hospitals, "south", some_rna("south", range(0, 60), "BC"))
    study = make_study(hospitals, "rna", development=["north", "south"])
    development = load_development(study, workspace=hospitals, keys=load_keys(hospitals))
    table = development.data.table("rna")
    assert table.columns.tolist() == ["A", "B", "C"]
    assert table.index.tolist() == list(development.data.keys)
    north = table.index.str.startswith("NORTH")
    assert table.isna().loc[north].all().tolist() == [False, False, True]
    assert table.isna().loc[~north].all().tolist() == [True, False, False]


def test_another_unit_is_refused_with_both_in_development_and_in_validation(hospitals):
    put_rna(hospitals, "north", some_rna("north", range(0, 90), "AB"))
    put_rna(hospitals, "south", some_rna("south", range(0, 60), "AB"), unit="TPM")
    message = "measurements.rna: unit is 'TPM'; development has 'z-score'"
    study = make_study(hospitals, "rna", development=["north", "south"])
    with pytest.raises(CohortError, match=message):
        load_development(study, workspace=hospitals, keys=load_keys(hospitals))
    learned = scored(hospitals, study)
    declared = measured_inputs(learned.cohort, learned.data)
    assert [(d.name, d.unit, d.columns) for d in declared] == [("rna", "z-score", ("A", "B"))]
    south = Cohort.read("south", hospitals)
    with pytest.raises(CohortError, match=message):
        require_same_inputs(clinical_columns(study, learned.cohort), declared, south, study)


def test_a_cohort_that_declares_no_such_measurement_is_named(hospitals):
    with pytest.raises(CohortError, match=r"south.*no measurement 'rna' is declared"):
        scored(hospitals, make_study(hospitals, "rna"), "south")


def test_a_requirement_that_no_model_sees_is_refused(hospitals):
    with pytest.raises(StudyError, match="no model has the input 'rna'"):
        make_study(hospitals, "image", require="rna")


def put_storm(workspace: Workspace, slide_ids: list[str]) -> None:
    """STORM files of a few slides, whose spots say which slide they are of."""
    from storm_clinic.features.slide_features import digest_array

    folder = workspace.store("north", "breast-st")
    folder.mkdir(parents=True)
    for number, slide_id in enumerate(slide_ids):
        arrays = {
            "spots": np.full((2, 3), number, "<f2"),
            "expression/slide": np.array([number, 9], "<f4"),
            "expression/genes": np.array([b"VHL", b"MYC"]),
            "expression/heldout_r_lower": np.array([0.3, -0.1], "<f4"),
        }
        facts = {"format": "storm_clinic/slide-storm", "format_version": 1, "slide_id": slide_id}
        facts |= {"provenance": "declared", "checkpoint_digest": "c" * 64}
        with h5py.File(folder / f"{slide_id}.h5", "w") as file:
            for name, value in facts.items():
                file.attrs[name] = np.bytes_(value) if isinstance(value, str) else value
            for name, array in arrays.items():
                file.create_dataset(name, data=array).attrs["sha256"] = np.bytes_(
                    digest_array(array)
                )


def test_storm_is_joined_beside_the_image_and_counted(hospitals):
    put_storm(hospitals, ["NORTH-002-S0", "NORTH-003-S0", "NORTH-003-S1"])
    inputs = ("image", "storm", "imputed_expression")
    masked = scored(hospitals, make_study(hospitals, *inputs, require="image"))
    assert len(masked) == 88
    assert masked.lacking == {"image": 0, "storm": 86, "imputed_expression": 86}
    assert masked.data.tiles("storm").sizes[:3].tolist() == [2, 4, 0]
    assert masked.data.table("imputed_expression").columns.tolist() == ["VHL"]
    assert masked.data.table("imputed_expression")["VHL"][:2].tolist() == [0.0, 1.5]
    assert {"north/storm-contract", "north/imputed-expression"} <= set(masked.inputs)
    both = scored(hospitals, make_study(hospitals, *inputs))
    assert both.patient_ids == ("NORTH-002", "NORTH-003")
    assert steps(both)["with a STORM file"] == (88, 2)
    slides = [s for s in both.attrition if s.unit == "slides"][-1]
    assert slides.n_after == sum(map(len, both.slide_ids)) == 3


@pytest.fixture
def kirc(shared_data, tmp_path, monkeypatch) -> Workspace:
    """The real cohort, with features of every slide."""
    monkeypatch.setenv("STORM_CLINIC_DATA", str(shared_data))
    workspace = Workspace(tmp_path)
    shutil.copytree(REPOSITORY / "cohorts" / "tcga_kirc", workspace.cohorts / "tcga_kirc")
    import_features(
        [shared_data / "tcga_kirc" / "features"],
        cohort="tcga_kirc",
        encoder="hipt-vit4k",
        workspace=workspace,
        geometry_unknown=True,
    )
    return workspace


def test_of_494_real_patients_160_have_no_rna(kirc):
    changed = {
        "endpoint": {"name": "pfi", "horizons_months": [36]},
        "features": {"encoder": "hipt-vit4k"},
        "development": ["tcga_kirc"],
    }
    masked = make_study(kirc, "image", "rna", "mutations", **changed)
    patients = scored(kirc, masked, "tcga_kirc")
    assert (len(patients), patients.lacking["rna"], patients.lacking["mutations"]) == (
        494,
        160,
        160,
    )
    evaluated = join_outcome(masked, patients)
    assert evaluated.patients.lacking == {"image": 0, "rna": 158, "mutations": 158}
    summary = summarise_cohort((*masked.clinical, *masked.subgroups), evaluated, "development")
    rna = next(row for row in summary.variables if row.variable == "rna")
    assert (rna.value, rna.n_missing) == ("332 patients", 158)
    complete = make_study(kirc, "image", "rna", require="image rna", **changed)
    development = load_development(complete, workspace=kirc, keys=load_keys(kirc))
    assert steps(development.parts[0].patients)["with rna"] == (490, 332)
    assert (development.outcome.n_patients, development.outcome.n_events) == (332, 86)
    assert development.data.table("rna").shape == (332, 1556)
