"""Two small hospitals with embeddings in which some tiles drive the outcome. All simulated."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from her2st_files import write_sections

from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.steps import storm_folds, storm_shards
from storm_clinic.steps.external_validation import validate
from storm_clinic.steps.locking import lock
from storm_clinic.steps.study_run import StudyRunResult, run_study
from storm_clinic.steps.training import train
from storm_clinic.study import Study

WIDTH = 6


@pytest.fixture(scope="module")
def module_patch():
    """What is patched for all tests of a module, and undone after the last."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def tiny_everywhere(module_patch, tiny_encoder) -> None:
    """Steps that learn from spatial sections embed with the tiny encoder, whatever they name."""
    card, weights = tiny_encoder
    load = storm_folds.load_encoder
    for step in (storm_folds, storm_shards):
        module_patch.setattr(
            step,
            "load_encoder",
            lambda name, *, device, **_: load(card, weights=weights, device=device),
        )


@pytest.fixture(scope="module")
def spatial_workspace(tmp_path_factory, empty_mlflow_database, module_patch) -> Workspace:
    """An empty workspace, and small simulated sections of the her2st layout at ${SECTIONS}."""
    root = tmp_path_factory.mktemp("spatial")
    write_sections(root / "data")
    (root / "mlruns").mkdir()
    shutil.copy(empty_mlflow_database, root / "mlruns")
    module_patch.setenv("SECTIONS", str(root / "data"))
    return Workspace(root)


COHORT = """\
format: 1
cohort: {name}
tables:
  clinical: {{path: clinical.csv, patient_id: patient}}
  slides: {{path: slides.csv, patient_id: patient, slide_id: slide}}
site: hospital
columns:
  age: {{from: age, kind: continuous, unit: years}}
  stage: {{from: stage, kind: ordinal, levels: [I, II, III]}}
endpoints:
  pfs:
    kind: survival
    time: months
    unit: months
    event: progressed
    codes: {{0: censored, 1: event}}
  response: {{kind: classes, from: response, levels: ["no", "yes"]}}
missing: [""]
origin: {{source: simulated for a test, licence: CC0, simulated: true}}
"""

STUDY = """\
format: 1
study: test-study
question: Does a simulated morphology predict a simulated progression?
endpoint: {endpoint: pfs, horizons_months: [6, 12], tau_months: 18}
features: {encoder: toy}
development: [north]
validation: [south]
clinical: [age, stage]
candidate: fusion
models:
  - {name: clinical, head: cox, inputs: [clinical]}
  - name: fusion
    head: attention-cox
    inputs: [image, clinical]
    options: {epochs: 40, learning_rate: 0.02, hidden: 4, attention: 2}
evaluation: {folds: 3, repeats: 1, inner_folds: 2, group: site, seed: 7, bootstraps: 200}
claims:
  - {metric: c_index_gain, over: clinical, lower_bound_at_least: 0.0}
""".replace("endpoint: pfs", "name: pfs")


def write_cohort(workspace: Workspace, name: str, *, n_patients: int, seed: int) -> None:
    """One hospital: tables and features; two patients without slides, one slide without patient."""
    rng = np.random.default_rng(seed)
    folder = workspace.cohorts / name
    folder.mkdir(parents=True)
    (folder / "cohort.yaml").write_text(COHORT.format(name=name))
    store = FeatureStore.create(
        workspace.store(name, "toy"),
        FeatureContract("toy", None, WIDTH, None, None, dtype="float32", provenance="declared"),
    )
    patients, slides = [], []
    for number in range(n_patients):
        patient = f"{name.upper()}-{number:03d}"
        burden, age = rng.random(), rng.normal(62, 9)
        time = rng.exponential(14 * np.exp(-3.0 * (burden - 0.5) - 0.01 * (age - 62)))
        censored = rng.uniform(4, 30)
        patients.append(
            {
                "patient": patient,
                "hospital": f"{name}-{number % 4}",
                "age": "" if number % 11 == 0 else f"{age:.1f}",
                "stage": rng.choice(["I", "II", "III", ""], p=[0.4, 0.3, 0.2, 0.1]),
                "months": f"{max(min(time, censored), 0.5):.0f}.5",
                "progressed": int(time <= censored),
                "response": "yes" if burden + rng.normal(0, 0.2) < 0.5 else "no",
            }
        )
        for part in range(0 if number < 2 else 1 + number % 2):
            slide = f"{patient}-S{part}"
            tiles = rng.normal(size=(rng.integers(5, 15), WIDTH)).astype(np.float32)
            tiles[rng.random(len(tiles)) < burden, 0] += 3.0
            store.write(SlideFeatures(slide, tiles))
            slides.append({"patient": patient, "slide": slide})
    slides.append({"patient": "NOBODY", "slide": "ORPHAN-S0"})
    write_rows(folder / "clinical.csv", patients)
    write_rows(folder / "slides.csv", slides)


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """A CSV file of these rows."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make_hospitals(root: Path) -> Workspace:
    """A workspace with two hospitals and a study of them."""
    workspace = Workspace(root)
    write_cohort(workspace, "north", n_patients=90, seed=1)
    write_cohort(workspace, "south", n_patients=60, seed=2)
    workspace.pipelines.mkdir()
    (workspace.pipelines / "study.yaml").write_text(STUDY)
    return workspace


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Workspace, StudyRunResult]:
    """One workspace after `run --lock-by`, for tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        workspace = make_hospitals(tmp_path_factory.mktemp("finished"))
        return workspace, run_study("pipelines/study.yaml", workspace=workspace, lock_by="a.weber")


@pytest.fixture(autouse=True)
def _own_secret(tmp_path_factory, monkeypatch):
    """No test reads or makes the account's own secret."""
    monkeypatch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))


@pytest.fixture
def hospitals(tmp_path) -> Workspace:
    """A fresh workspace that a test may spoil."""
    return make_hospitals(tmp_path / "workspace")


@pytest.fixture(scope="session")
def add_hospital() -> Callable[..., None]:
    """Write one more cohort: ``add_hospital(workspace, name, n_patients=..., seed=...)``."""
    return write_cohort


def _lock_quickly(root: Path, claim: float = 0.0) -> Workspace:
    """Train and lock quick heads that find the simulated morphology."""
    workspace = make_hospitals(root)
    text = STUDY.replace("head: attention-cox", "head: pca-cox").replace(
        "options: {epochs: 40, learning_rate: 0.02, hidden: 4, attention: 2}", "options: {}"
    )
    path = workspace.pipelines / "study.yaml"
    path.write_text(text.replace("lower_bound_at_least: 0.0", f"lower_bound_at_least: {claim}"))
    candidate = train(Study.read(path), workspace=workspace, by="c.trainer")
    lock(candidate, by="a.weber", workspace=workspace)
    return workspace


@pytest.fixture(scope="session")
def lock_quickly() -> Callable[..., Workspace]:
    return _lock_quickly


@pytest.fixture(scope="session")
def once_locked(tmp_path_factory) -> Workspace:
    """One locked model; tests work on copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        return _lock_quickly(tmp_path_factory.mktemp("locked") / "workspace")


@pytest.fixture(scope="session")
def once_validated(once_locked, tmp_path_factory) -> Workspace:
    """The same, validated on its one cohort."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        workspace = Workspace(tmp_path_factory.mktemp("validated") / "workspace")
        shutil.copytree(once_locked.root, workspace.root)
        validate("test-study", workspace=workspace, by="a.weber")
        return workspace
