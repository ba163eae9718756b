"""One object says where a workspace's databases and files are, and never says a password."""

from __future__ import annotations

import pytest

from storm_clinic.errors import InputError
from storm_clinic.files import Workspace
from storm_clinic.tracking.place import Place

TRACKING = "STORM_CLINIC_TRACKING_URI"
ARTIFACTS = "STORM_CLINIC_ARTIFACTS"
SECRET = "hunter2-of-the-ward"


def test_without_settings_everything_is_in_mlruns(tmp_path):
    place = Place.of(Workspace(tmp_path / "Prüfung 1"), {TRACKING: "", ARTIFACTS: " "})
    mlruns = tmp_path / "Prüfung 1" / "mlruns"
    assert place.is_local
    assert place.database_path == mlruns / "mlflow.db"
    assert place.tracking_uri == f"sqlite:///{mlruns}/mlflow.db"
    assert place.trail_uri == f"sqlite:///{mlruns}/trail.db"
    assert place.artifact_uri == "storm-clinic:/", "names no folder, so that it may be moved"
    assert not mlruns.exists()


def test_a_team_names_its_database_and_its_store(tmp_path):
    settings = {TRACKING: "postgresql://mlflow@db.ward:5433/life", ARTIFACTS: "s3://bucket/kidney/"}
    place = Place.of(Workspace(tmp_path), settings)
    assert not place.is_local
    assert place.database_path is None
    assert place.tracking_uri == "postgresql+psycopg://mlflow@db.ward:5433/life"
    assert place.trail_uri == "postgresql://mlflow@db.ward:5433/life"
    assert place.artifact_uri == "s3://bucket/kidney"


def test_files_may_be_kept_elsewhere_than_a_local_database(tmp_path):
    place = Place.of(Workspace(tmp_path), {ARTIFACTS: "file:///mnt/team"})
    assert place.is_local
    assert place.artifact_uri == "file:///mnt/team"


@pytest.mark.parametrize(
    "uri",
    [f"postgresql://mlflow:{SECRET}@db/life", f"postgresql://db/life?user=x&password={SECRET}"],
)
def test_a_password_is_never_shown(tmp_path, uri):
    place = Place.of(Workspace(tmp_path), {TRACKING: uri, ARTIFACTS: "s3://bucket/kidney"})
    assert SECRET in place.tracking_uri
    assert SECRET in place.trail_uri
    assert SECRET not in f"{place!r} {place} {place.shown}"
    assert place.shown.startswith("postgresql+psycopg://")
    assert place.shown.endswith("db/life")


@pytest.mark.parametrize(
    ("settings", "where", "problem"),
    [
        ({TRACKING: "postgresql://db/life"}, ARTIFACTS, "is not set"),
        ({TRACKING: f"mysql://x:{SECRET}@db/a", ARTIFACTS: "s3://b/p"}, TRACKING, "no PostgreSQL"),
        ({TRACKING: f"postgresql://x:{SECRET}@db", ARTIFACTS: "s3://b/p"}, TRACKING, "names no"),
        ({TRACKING: f"postgresql://x:{SECRET}@[db/l", ARTIFACTS: "s3://b/p"}, TRACKING, "no URI"),
        ({ARTIFACTS: "mnt/team"}, ARTIFACTS, "no URI of a place"),
        ({ARTIFACTS: "storm-clinic:/"}, ARTIFACTS, "no URI of a place"),
        ({ARTIFACTS: "file:team"}, ARTIFACTS, "no URI of a place"),
        ({ARTIFACTS: f"ftp://x:{SECRET}@host/p"}, ARTIFACTS, "holds a password"),
        ({ARTIFACTS: f"s3://b/p?key={SECRET}"}, ARTIFACTS, "no URI of a place"),
    ],
)
def test_a_setting_that_names_no_place_is_refused_without_repeating_it(
    tmp_path, settings, where, problem
):
    with pytest.raises(InputError, match=problem) as caught:
        Place.of(Workspace(tmp_path), settings)
    assert caught.value.where == where
    assert SECRET not in str(caught.value)
