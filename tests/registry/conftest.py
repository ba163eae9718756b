"""A small study with real, fitted models, registered in a workspace of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from validated_workspace import build

from storm_clinic.bundle import (
    Bundle,
    ClinicalColumn,
    Manifest,
    OutcomeDefinition,
    TrainingCohort,
    write_bundle,
)
from storm_clinic.cohort.outcome import Survival
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.provenance import code_version, package_versions
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.versions import RegisteredModel
from storm_clinic.study import Study
from storm_clinic.tracking import Tracker

STUDY = {
    "format": 1,
    "study": "demo-pfi",
    "question": "Does morphology add to age and stage in simulated patients?",
    "endpoint": {"name": "pfi", "horizons_months": [12, 36]},
    "features": {"encoder": "simulated-8d"},
    "development": ["demo_a"],
    "validation": ["demo_b"],
    "clinical": ["age", "stage"],
    "candidate": "fusion",
    "models": [
        {"name": "clinical", "head": "cox", "inputs": ["clinical"]},
        {
            "name": "fusion",
            "head": "pca-cox",
            "inputs": ["image", "clinical"],
            "options": {"components": 3},
        },
    ],
    "evaluation": {"seed": 7},
    "claims": [{"metric": "c_index_gain", "over": "clinical", "lower_bound_at_least": 0.0}],
}
CONTRACT = FeatureContract(
    encoder="simulated-8d",
    encoder_digest="0" * 64,
    width=8,
    mpp=0.5,
    tile_px=256,
    dtype="float32",
    provenance="declared",
)


@pytest.fixture(scope="session")
def study() -> Study:
    return Study.from_document(STUDY)


@pytest.fixture(scope="session")
def slides(tmp_path_factory) -> FeatureStore:
    """Tile embeddings of 60 simulated patients, one or two slides each."""
    rng = np.random.default_rng(11)
    store = FeatureStore.create(tmp_path_factory.mktemp("features") / "simulated-8d", CONTRACT)
    for patient in range(60):
        for number in range(1 + patient % 2):
            tiles = rng.normal(size=(5 + patient % 7, 8)).astype(np.float32)
            store.write(
                SlideFeatures(slide_id=f"sim-{patient:02d}-{number}", features=tiles, coords=None)
            )
    return store


@pytest.fixture(scope="session")
def patients() -> pd.DataFrame:
    """Age and stage with gaps, as text and numbers, one row a patient."""
    rng = np.random.default_rng(12)
    age = rng.normal(62, 9, 60)
    age[::13] = np.nan
    stage = rng.choice(["Stage I", "Stage II", "Stage III"], 60).astype(object)
    stage[::17] = None
    return pd.DataFrame({"age": age, "stage": stage})


@pytest.fixture(scope="session")
def manifest(study) -> Manifest:
    cohort = TrainingCohort(
        n_patients=60, n_events=30, digests={"clinical.csv": "1" * 64}, origin={"simulated": True}
    )
    return Manifest(
        study=study.resolved(),
        features=CONTRACT.to_json(),
        clinical=(
            ClinicalColumn(name="age", kind="continuous", unit="years"),
            ClinicalColumn(
                name="stage", kind="ordinal", levels=("Stage I", "Stage II", "Stage III")
            ),
        ),
        outcome=OutcomeDefinition(name="pfi", kind="survival", horizons_months=(12, 36)),
        risk_thresholds={"fusion": (-0.4, 0.4), "clinical": (-0.3, 0.3)},
        training={"demo_a": cohort},
        seeds={"evaluation": 7},
        key_id=None,
        code=code_version().as_dict(),
        packages=package_versions(("numpy", "pandas")),
        run_id=None,
    )


@pytest.fixture(scope="session")
def data(slides, patients, manifest):
    from storm_clinic.heads.bag_cache import build_bags
    from storm_clinic.heads.contract import PatientData

    return PatientData(
        keys=tuple(f"key-{row}" for row in range(60)),
        bags=build_bags(slides, slides_of_patients(60)),
        clinical=manifest.clinical_table(patients),
    )


def slides_of_patients(n_patients: int) -> list[list[str]]:
    return [[f"sim-{row:02d}-{n}" for n in range(1 + row % 2)] for row in range(n_patients)]


@pytest.fixture(scope="session")
def fitted(data, study) -> dict:
    """The study's models, fitted to simulated times."""
    from storm_clinic.heads import zoo
    from storm_clinic.heads.contract import Recipe, Sample

    rng = np.random.default_rng(13)
    hazard = np.exp(0.02 * (data.clinical["age"].fillna(62) - 62))
    time = rng.exponential(40 / hazard)
    censored = rng.exponential(60, 60)
    outcome = Survival(np.minimum(time, censored) + 0.1, time <= censored)
    models = {}
    for spec in study.models:
        head = zoo.find(spec.head)
        recipe = Recipe(spec.inputs, zoo.settings_of(head, spec)[0], (12.0, 36.0), seed=7)
        *_, last = head.path(Sample(data, outcome), recipe)
        models[spec.name] = last.finish()
    return models


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, fitted, manifest) -> Bundle:
    states = {name: model.state() for name, model in fitted.items()}
    return write_bundle(tmp_path_factory.mktemp("made") / "bundle", states, manifest)


@pytest.fixture
def workspace(tmp_path, empty_mlflow_database) -> Workspace:
    workspace = Workspace(tmp_path / "work space")
    workspace.mlruns.mkdir(parents=True)
    shutil.copy(empty_mlflow_database, workspace.mlruns / "mlflow.db")
    return workspace


@pytest.fixture
def registry(workspace) -> Registry:
    return Registry(workspace)


@pytest.fixture
def register(registry, workspace, study):
    """Register a bundle's folder in the run of a training, as `train` does."""

    def register(folder: Path, inputs: str = "1") -> RegisteredModel:
        return _register(workspace, study, folder, inputs)

    return register


def _register(workspace: Workspace, study: Study, folder: Path, inputs: str) -> RegisteredModel:
    with Tracker(workspace).start_study(study, inputs={"clinical.csv": inputs * 64}) as run:
        return Registry(workspace).register(run, folder, evidence_digest="e" * 64, by="c.trainer")


@pytest.fixture(scope="session")
def registered(tmp_path_factory, empty_mlflow_database, study, bundle) -> Path:
    """An ``mlruns/`` with one candidate, to copy: registering takes MLflow half a second."""
    workspace = Workspace(tmp_path_factory.mktemp("registered"))
    workspace.mlruns.mkdir()
    shutil.copy(empty_mlflow_database, workspace.mlruns / "mlflow.db")
    _register(workspace, study, bundle.folder, "1")
    return workspace.mlruns


@pytest.fixture
def candidate(workspace, registered) -> RegisteredModel:
    """The candidate ``demo-pfi:1`` of the workspace, which cannot train again."""
    shutil.copytree(registered, workspace.mlruns, dirs_exist_ok=True)
    return Registry(workspace).find("demo-pfi")


@pytest.fixture(scope="session")
def validated(tmp_path_factory, empty_mlflow_database, study, manifest, fitted) -> Workspace:
    """``demo-pfi:1`` locked and validated, ``demo-pfi:2`` a candidate; to copy, not to change."""
    workspace = Workspace(tmp_path_factory.mktemp("validated") / "origin")
    workspace.mlruns.mkdir(parents=True)
    shutil.copy(empty_mlflow_database, workspace.mlruns / "mlflow.db")
    build(workspace, study, manifest, fitted)
    return workspace
