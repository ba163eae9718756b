"""Which moves are allowed, and that nothing of a registered version changes unseen."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3

import pytest

from storm_clinic.bundle import write_bundle
from storm_clinic.errors import RegistryError
from storm_clinic.files import digest_bytes
from storm_clinic.registry.moves import MOVES, Registry
from storm_clinic.registry.versions import STATES
from storm_clinic.study import Study
from storm_clinic.tracking import Tracker


def _client(workspace):
    return Tracker(workspace).database.client


def _aliases(client):
    aliases = client.get_registered_model("demo-pfi").aliases
    return {alias: int(version) for alias, version in aliases.items()}


def _files_of(workspace, model):
    return workspace.mlruns / model.find_event("candidate").body["folder"]


def test_the_table_of_moves_is_the_one_of_the_design():
    allowed = {(before, after) for before, afters in MOVES.items() for after in afters}
    assert allowed == {
        (None, "candidate"),
        ("candidate", "locked"),
        ("locked", "approved"),
        ("locked", "rejected"),
        ("approved", "retired"),
    }
    assert tuple(state for state in MOVES if state) == STATES


def test_a_registered_bundle_is_a_candidate_and_comes_back_whole(registry, candidate, bundle):
    assert (candidate.reference, candidate.state) == ("demo-pfi:1", "candidate")
    found = registry.find("demo-pfi")
    assert found.bundle.digest == bundle.digest
    event = found.find_event("candidate")
    assert event.by == "c.trainer"
    assert set(event.body["files"]) >= {"MLmodel", "data/bundle/model.safetensors"}


def test_registering_the_same_bundle_of_the_same_run_again_makes_no_second_version(
    registry, workspace, study, bundle
):
    with Tracker(workspace).start_study(study, inputs={}) as run:
        first = registry.register(run, bundle.folder, by="c.trainer")
        again = registry.register(run, bundle.folder, by="c.trainer")
    assert first.reference == again.reference
    assert len(registry.trail.events()) == 1


def test_locking_freezes_digest_claims_and_cohorts_with_name_and_time(registry, candidate, bundle):
    locked = registry.lock("demo-pfi", by="a.weber")
    assert (locked.reference, locked.state) == ("demo-pfi:1", "locked")
    event = locked.find_event("locked")
    assert event.by == "a.weber"
    assert event.when.utcoffset().total_seconds() == 0
    assert event.body["bundle_digest"] == bundle.digest
    assert event.body["study_digest"] == bundle.study.digest
    assert event.body["claims"] == [
        {"metric": "c_index_gain", "over": "clinical", "lower_bound_at_least": 0.0}
    ]
    assert event.body["validation"] == ["demo_b"]
    assert event.body["models"] == ["fusion", "clinical"]
    assert registry.locked_model("demo-pfi").reference == "demo-pfi:1"


def test_tags_and_aliases_of_mlflow_follow_the_trail(registry, candidate, workspace):
    client = _client(workspace)
    assert _aliases(client) == {"candidate": 1}
    registry.lock("demo-pfi", by="a.weber")
    assert _aliases(client) == {"locked": 1}
    assert client.get_model_version("demo-pfi", "1").tags["storm_clinic.state"] == "locked"


def test_a_moved_alias_and_an_edited_tag_change_nothing_and_are_put_right(
    registry, register, bundle, workspace
):
    client = _client(workspace)
    register(bundle.folder)
    register(bundle.folder, inputs="2")
    registry.lock("demo-pfi:1", by="a.weber")
    client.set_registered_model_alias("demo-pfi", "locked", "2")
    client.set_model_version_tag("demo-pfi", "2", "storm_clinic.state", "locked")
    assert registry.locked_model("demo-pfi").version == 1
    assert registry.find("demo-pfi@locked").version == 1
    registry.lock("demo-pfi:2", by="a.weber")
    assert _aliases(client) == {"locked": 2}


def test_a_second_lock_is_refused_and_says_who_was_first(registry, candidate):
    registry.lock("demo-pfi", by="a.weber")
    with pytest.raises(
        RegistryError, match=r"demo-pfi:1: is locked since \S+ by a\.weber; .* approved or rejected"
    ):
        registry.lock("demo-pfi", by="b.meier")
    assert len(registry.trail.events()) == 2


@pytest.mark.parametrize("state", ["candidate", "approved", "rejected", "retired"])
def test_a_candidate_can_only_be_locked(registry, candidate, state):
    body = {"model": "demo-pfi", "version": 1, "by": "x", "bundle_digest": candidate.bundle.digest}
    with pytest.raises(RegistryError, match=f"it can become locked, not {state}"):
        registry._move(state, body)


def test_a_move_that_names_another_bundle_is_refused(registry, candidate):
    body = {"model": "demo-pfi", "version": 1, "by": "a.weber", "bundle_digest": "0" * 64}
    with pytest.raises(RegistryError, match="is another bundle than was registered"):
        registry._move("locked", body)


def test_a_study_without_a_clinical_comparator_cannot_be_locked(
    registry, workspace, tmp_path, fitted, manifest
):
    resolved = {**manifest.study, "models": manifest.study["models"][1:], "claims": []}
    alone = manifest.model_copy(update={"study": resolved})
    made = write_bundle(tmp_path / "alone", {"fusion": fitted["fusion"].state()}, alone)
    study = Study.from_document(resolved)
    with Tracker(workspace).start_study(study, inputs={}) as run:
        registry.register(run, made.folder, by="c.trainer")
    with pytest.raises(RegistryError, match="no model of the study sees clinical covariates alone"):
        registry.lock("demo-pfi", by="a.weber")


def test_a_model_trained_on_its_validation_cohort_cannot_be_locked(
    register, registry, tmp_path, fitted, manifest
):
    cohort = manifest.training["demo_a"]
    leaky = manifest.model_copy(update={"training": {"demo_a": cohort, "demo_b": cohort}})
    states = {name: model.state() for name, model in fitted.items()}
    register(write_bundle(tmp_path / "leaky", states, leaky).folder)
    with pytest.raises(RegistryError, match="was trained on demo_b, which is to validate it"):
        registry.lock("demo-pfi", by="a.weber")


@pytest.mark.parametrize("by", ["", "  ", "a\nb", "x" * 101])
def test_a_lock_needs_a_name(registry, candidate, by):
    with pytest.raises(RegistryError, match="is no name of a person"):
        registry.lock("demo-pfi", by=by)


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("other", "there is no such model"),
        ("demo-pfi:7", "no such version .*: version 1 is candidate"),
        ("demo-pfi@approved", "no such version is approved: version 1 is candidate"),
        ("demo-pfi@", "is no reference"),
        ("../demo-pfi", "is no reference"),
    ],
)
def test_a_reference_that_leads_nowhere_lists_what_there_is(
    registry, candidate, reference, problem
):
    with pytest.raises(RegistryError, match=problem):
        registry.find(reference)


def test_a_candidate_is_not_given_as_a_locked_model(registry, candidate):
    with pytest.raises(RegistryError, match="no such version is approved or locked"):
        registry.locked_model("demo-pfi")


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "data/bundle/model.safetensors",
        "data/bundle/manifest.json",
        "data/bundle/card.md",
        "MLmodel",
        "requirements.txt",
        "conda.yaml",
        "python_env.yaml",
    ],
)
def test_one_changed_byte_in_any_file_is_refused_at_lock_and_at_load(
    registry, candidate, workspace, name
):
    path = _files_of(workspace, candidate) / name
    whole = path.read_bytes()
    _flip(path)
    with pytest.raises(RegistryError, match=f"{name}: was changed since it was registered"):
        registry.lock("demo-pfi", by="a.weber")
    path.write_bytes(whole)
    registry.lock("demo-pfi", by="a.weber")
    _flip(path)
    with pytest.raises(RegistryError, match=f"{name}: was changed since it was registered"):
        registry.locked_model("demo-pfi")


def test_a_new_a_missing_and_a_linked_file_are_refused(registry, candidate, workspace):
    folder = _files_of(workspace, candidate)
    (folder / "data" / "extra.pkl").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(RegistryError, match=r"data/extra\.pkl: was not there"):
        registry.find("demo-pfi")
    (folder / "data" / "extra.pkl").unlink()
    (folder / "MLmodel").rename(folder.parent / "MLmodel")
    with pytest.raises(RegistryError, match="MLmodel: is missing"):
        registry.find("demo-pfi")
    (folder / "MLmodel").symlink_to(folder.parent / "MLmodel")
    with pytest.raises(RegistryError, match="MLmodel: is a link"):
        registry.find("demo-pfi")


def test_a_whole_consistent_other_bundle_in_its_place_is_refused(
    registry, candidate, workspace, tmp_path, fitted, manifest
):
    registry.lock("demo-pfi", by="a.weber")
    changed = manifest.model_copy(
        update={"risk_thresholds": {"fusion": (0.0, 9.0), "clinical": (-0.3, 0.3)}}
    )
    states = {name: model.state() for name, model in fitted.items()}
    other = write_bundle(tmp_path / "other", states, changed)
    place = _files_of(workspace, candidate) / "data" / "bundle"
    shutil.rmtree(place)
    shutil.copytree(other.folder, place)
    with pytest.raises(RegistryError, match="was changed since it was registered"):
        registry.locked_model("demo-pfi")


def test_a_swapped_source_in_mlflows_database_does_not_swap_the_model(
    registry, register, bundle, workspace
):
    register(bundle.folder)
    register(bundle.folder, inputs="2")
    registry.lock("demo-pfi:1", by="a.weber")
    database = sqlite3.connect(workspace.mlruns / "mlflow.db")
    database.execute("UPDATE model_versions SET source = 'file:///tmp', storage_location = ''")
    database.commit()
    database.close()
    assert registry.locked_model("demo-pfi").version == 1


def test_a_name_that_was_deleted_and_registered_anew_in_mlflow_is_noticed(
    registry, register, bundle, workspace
):
    register(bundle.folder)
    _client(workspace).delete_registered_model("demo-pfi")
    with pytest.raises(RegistryError, match="demo-pfi:1: is candidate since"):
        register(bundle.folder, inputs="2")
    assert registry.find("demo-pfi").version == 1


def test_an_edited_event_stops_everything(registry, candidate):
    connection = sqlite3.connect(registry.trail.where)
    connection.execute("DROP TRIGGER trail_no_update")
    connection.execute("UPDATE trail SET body = replace(body, 'c.trainer', 'a.weber')")
    connection.commit()
    connection.close()
    for move in (registry.find, registry.locked_model, lambda name: registry.lock(name, by="x")):
        with pytest.raises(RegistryError, match="row 1 was edited"):
            move("demo-pfi")


def test_mlruns_can_be_moved_and_its_models_still_load(registry, candidate, workspace, tmp_path):
    registry.lock("demo-pfi", by="a.weber")
    moved = type(workspace)(tmp_path / "elsewhere")
    shutil.move(workspace.root, moved.root)
    assert Registry(moved).locked_model("demo-pfi").reference == "demo-pfi:1"


def test_predictions_are_sealed_before_evidence_and_each_is_recorded_once(registry, candidate):
    locked = registry.lock("demo-pfi", by="a.weber")
    digest, evidence = digest_bytes(b"predictions"), digest_bytes(b"evidence")
    validation = {"cohort": "demo_b", "evidence_digest": evidence, "run_id": "r", "by": "a.weber"}
    with pytest.raises(RegistryError, match="were not sealed before outcomes were read"):
        registry.record_validation(locked, **validation)
    seal = registry.seal_predictions(
        locked, cohort="demo_b", predictions_digest=digest, by="a.weber"
    )
    again = registry.seal_predictions(
        locked, cohort="demo_b", predictions_digest=digest, by="b.meier"
    )
    assert again == seal, "a validation that was interrupted goes on"
    with pytest.raises(RegistryError, match="was scored before with other predictions"):
        registry.seal_predictions(
            locked, cohort="demo_b", predictions_digest=evidence, by="a.weber"
        )
    registry.record_validation(locked, **validation)
    with pytest.raises(RegistryError, match=r"was validated on demo_b by a\.weber"):
        registry.record_validation(locked, **validation)
    found = registry.locked_model("demo-pfi")
    assert found.find_event("validated", cohort="demo_b").body["evidence_digest"] == evidence
    assert [event.kind for event in found.events] == [
        "candidate",
        "locked",
        "predictions_sealed",
        "validated",
    ]


def test_a_candidate_is_not_validated_nor_a_model_on_a_cohort_not_named_before(registry, candidate):
    seal = {"predictions_digest": "0" * 64, "by": "a.weber"}
    with pytest.raises(RegistryError, match="is candidate, not locked"):
        registry.seal_predictions(candidate, cohort="demo_b", **seal)
    locked = registry.lock("demo-pfi", by="a.weber")
    for cohort in ("demo_a", "demo_c"):
        with pytest.raises(RegistryError, match="named before locking: demo_b"):
            registry.seal_predictions(locked, cohort=cohort, **seal)


def test_the_trail_holds_no_more_than_json(registry, candidate):
    for event in registry.trail.events():
        assert json.loads(json.dumps(event.body)) == event.body
