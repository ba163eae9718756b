"""A registered version is a plain MLflow model: its client loads and scores it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from storm_clinic.errors import CohortError, ContractMismatch, InputError
from storm_clinic.features.store import FeatureStore
from storm_clinic.tracking import Tracker
from storm_clinic.tracking.client import import_mlflow, quiet_mlflow


@pytest.fixture
def table(patients, slides):
    """What MLflow is given: clinical columns and the paths of feature files."""
    paths = [
        [str(slides.path(f"sim-{row:02d}-{number}")) for number in range(1 + row % 2)]
        for row in range(len(patients))
    ]
    return patients.assign(feature_files=paths)


@pytest.fixture
def loaded(registry, register, bundle, workspace, monkeypatch):
    """The locked version, as MLflow's own client loads it by its alias, pickling disallowed."""
    register(bundle.folder)
    registry.lock("demo-pfi", by="a.weber")
    mlflow = import_mlflow()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Tracker(workspace).database.uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with quiet_mlflow():
        return mlflow.pyfunc.load_model("models:/demo-pfi@locked")


def test_mlflow_scores_to_the_bit_what_the_fitted_model_scored(loaded, table, fitted, data):
    scored = loaded.predict(table)
    expected = fitted["fusion"].predict(data)
    assert scored["risk"].tolist() == expected.risk.tolist()
    for name, values in expected.probabilities.items():
        assert scored[name].tolist() == values.tolist()
    assert list(scored.columns) == ["risk", "risk_at_12m", "risk_at_36m", "risk_group", "notes"]
    groups = np.searchsorted([-0.4, 0.4], expected.risk, side="right")
    assert scored["risk_group"].tolist() == groups.tolist()


def test_a_comparator_can_be_asked_for_by_name(loaded, table, fitted, data):
    scored = loaded.predict(table, params={"model": "clinical"})
    assert scored["risk"].tolist() == fitted["clinical"].predict(data).risk.tolist()


def test_a_patient_scores_the_same_alone_and_among_others(loaded, table):
    together = loaded.predict(table)
    alone = loaded.predict(table.iloc[[5]])
    assert alone["risk"].iloc[0] == together["risk"].iloc[5]
    assert alone.index.tolist() == [5]


def test_loading_through_mlflow_leaves_the_version_valid(loaded, registry, table):
    # MLflow writes a file of its own beside the model when it loads it by name.
    assert registry.locked_model("demo-pfi").state == "locked"


def test_signature_and_requirements_are_explicit(candidate, workspace):
    folder = workspace.mlruns / candidate.find_event("candidate").body["folder"]
    model = yaml.safe_load((folder / "MLmodel").read_text())
    flavour = model["flavors"]["python_function"]
    assert flavour["loader_module"] == "storm_clinic.bundle.pyfunc"
    assert "python_model" not in flavour, "nothing was pickled"
    for name in ("age", "stage", "feature_files"):
        assert name in model["signature"]["inputs"]
    requirements = (folder / "requirements.txt").read_text().split()
    assert "storm-clinic[models]==0.1.0" in requirements
    assert f"numpy=={np.__version__}" in requirements
    assert not list(folder.rglob("*.pkl"))


def test_a_missing_column_and_an_unknown_level_are_named(loaded, table):
    with pytest.raises(Exception, match="stage"):
        loaded.predict(table.drop(columns="stage"))
    with pytest.raises(CohortError, match="row 0: 'IV' is none of Stage I, Stage II, Stage III"):
        loaded.predict(table.assign(stage="IV"))


def test_a_patient_without_slides_is_refused_by_row(loaded, table):
    table.at[3, "feature_files"] = []
    with pytest.raises(InputError, match=r"row 3: .* is no list of paths"):
        loaded.predict(table)


def test_features_made_in_another_way_are_refused_with_both_values(loaded, table, slides, tmp_path):
    from dataclasses import replace

    other = FeatureStore.create(tmp_path / "simulated-8d", replace(slides.contract, mpp=0.25))
    other.write(slides.read("sim-00-0"))
    table.at[0, "feature_files"] = [str(other.path("sim-00-0"))]
    with pytest.raises(ContractMismatch, match=r"mpp is 0\.25, not 0\.5"):
        loaded.predict(table.iloc[[0]])


def test_gaps_in_the_table_may_be_none_or_nan(loaded, table):
    none = loaded.predict(table.assign(stage=None, age=np.nan))
    assert np.isfinite(none["risk"]).all()
    assert isinstance(none, pd.DataFrame)
