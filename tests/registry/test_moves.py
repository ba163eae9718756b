"""Which moves are allowed, and that nothing of a registered version changes unseen."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from storm_clinic.bundle import write_bundle
from storm_clinic.errors import RegistryError, UnsafeName
from storm_clinic.registry.decide import Approval, Decision
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.rules import MOVES
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
        first = registry.register(run, bundle.folder, evidence_digest="e" * 64, by="c.trainer")
        again = registry.register(run, bundle.folder, evidence_digest="e" * 64, by="c.trainer")
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
        registry.register(run, made.folder, evidence_digest="e" * 64, by="c.trainer")
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


def _seal(registry, model, cohort="demo_b", digest="0" * 64, **more):
    given = {"run_id": "r", "inputs": {"demo_b/clinical": "1" * 64}, "by": "a.weber"} | more
    return registry.scorings.seal(model, cohort=cohort, predictions_digest=digest, **given)


def _record(registry, model, cohort="demo_b", digest="e" * 64, by="a.weber"):
    given = {"evidence_digest": digest, "run_id": "r", "run_files": {}, "by": by}
    return registry.scorings.record(model, cohort=cohort, **given)


def test_predictions_are_sealed_before_evidence_and_each_is_recorded_once(registry, candidate):
    locked = registry.lock("demo-pfi", by="a.weber")
    with pytest.raises(RegistryError, match="were not sealed before outcomes were read"):
        _record(registry, locked)
    _seal(registry, locked)
    with pytest.raises(RegistryError, match=r"demo_b was scored before, by a\.weber"):
        _seal(registry, locked)
    _record(registry, locked)
    with pytest.raises(RegistryError, match=r"was validated on demo_b by a\.weber"):
        _record(registry, locked)
    found = registry.locked_model("demo-pfi")
    assert found.find_event("validated", cohort="demo_b").body["evidence_digest"] == "e" * 64
    assert [event.kind for event in found.events] == [
        "candidate",
        "locked",
        "predictions_sealed",
        "validated",
    ]


def test_a_second_scoring_needs_a_reason_and_both_stay(registry, candidate):
    locked = registry.lock("demo-pfi", by="a.weber")
    with pytest.raises(RegistryError, match="was not scored before, so that this is no re-run"):
        _seal(registry, locked, rerun="Wrong scanner profile")
    _seal(registry, locked)
    _record(registry, locked)
    with pytest.raises(RegistryError, match="says nothing that could be kept"):
        _seal(registry, locked, rerun=" ")
    _seal(registry, locked, digest="2" * 64, rerun="Wrong scanner profile")
    _record(registry, locked, digest="f" * 64)
    first, second = registry.scorings.attempts(locked, "demo_b")
    assert first.validated.body["evidence_digest"] == "e" * 64
    assert second.validated.body["evidence_digest"] == "f" * 64
    assert second.seal.body["rerun"] == "Wrong scanner profile"


def test_a_candidate_is_not_validated_nor_a_model_on_a_cohort_not_named_before(registry, candidate):
    with pytest.raises(RegistryError, match="is candidate, not locked"):
        _seal(registry, candidate)
    locked = registry.lock("demo-pfi", by="a.weber")
    for cohort in ("demo_a", "demo_c"):
        with pytest.raises(RegistryError, match="named are: demo_b"):
            _seal(registry, locked, cohort=cohort)


def test_a_cohort_added_after_the_lock_names_its_plan_and_leaves_the_study_alone(
    registry, candidate
):
    locked = registry.lock("demo-pfi", by="a.weber")
    add = registry.scorings.add_cohort
    for cohort, problem in (("demo_a", "was trained on demo_a"), ("demo_b", "is named already")):
        with pytest.raises(RegistryError, match=problem):
            add(locked, cohort, plan="Protocol 2", by="a.weber")
    with pytest.raises(UnsafeName):
        add(locked, "../demo_c", plan="Protocol 2", by="a.weber")
    add(locked, "demo_c", plan="Protocol 2, section 4", by="a.weber", plan_digest="a" * 64)
    found = registry.locked_model("demo-pfi")
    assert found.find_event("cohort_added").body["plan"] == "Protocol 2, section 4"
    assert found.bundle.study.validation == ("demo_b",)
    assert registry.scorings.cohorts(found) == ("demo_b", "demo_c")
    _seal(registry, found, cohort="demo_c")


def _decided(registry, verdict="approved", by="d.chen", evidence=None):
    """A decision on the latest evidence in the trail, whatever that evidence says."""
    model = registry.find("demo-pfi")
    judged = {"demo_b": "e" * 64} if evidence is None else evidence
    decision = Decision(verdict=verdict, reasons=(), evidence=judged)
    return registry.promote(model, decision, Approval(by, "c.trainer", "a.weber", ("demo_b",)))


@pytest.fixture
def validated(registry, candidate):
    locked = registry.lock("demo-pfi", by="a.weber")
    _seal(registry, locked)
    _record(registry, locked)
    return locked


def test_an_approval_moves_the_model_its_tag_and_its_alias(registry, validated, workspace):
    approved = _decided(registry)
    assert (approved.state, approved.find_event("approved").by) == ("approved", "d.chen")
    assert _aliases(_client(workspace)) == {"approved": 1}
    with pytest.raises(RegistryError, match=r"is approved since .*; .* retired, not approved"):
        _decided(registry)


@pytest.mark.parametrize("by", ["c.trainer", "a.weber", " A.Weber "])
def test_who_trained_or_locked_does_not_approve_nor_reject(registry, validated, by):
    for verdict in ("approved", "rejected"):
        with pytest.raises(RegistryError, match="and so may not approve it"):
            _decided(registry, verdict, by)
    assert registry.find("demo-pfi").state == "locked"


def test_a_refusal_is_kept_and_moves_nothing(registry, validated):
    found = _decided(registry, "refused", by="a.weber")
    assert found.state == "locked"
    assert found.find_event("promotion_refused").body["decision"]["verdict"] == "refused"
    assert _decided(registry, "rejected").state == "rejected"
    with pytest.raises(RegistryError, match="is rejected since"):
        _decided(registry)


def test_a_decision_on_other_evidence_than_the_trails_is_not_recorded(registry, validated):
    for evidence in ({}, {"demo_b": "f" * 64}, {"demo_b": "e" * 64, "demo_c": "e" * 64}):
        with pytest.raises(RegistryError, match="validated on something else since"):
            _decided(registry, evidence=evidence)


def test_of_two_who_decide_at_once_one_is_first_and_the_other_is_refused(
    registry, validated, workspace
):
    def decide(verdict):
        try:
            return _decided(Registry(workspace), verdict, by=f"of {verdict}").state
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(decide, ["approved", "rejected"]), key=len)
    first = registry.find("demo-pfi")
    assert said[0] == first.state
    assert f"is {first.state} since" in said[1]
    assert [e.kind for e in first.events if "decision" in e.body] == [first.state]


def test_only_an_approved_model_is_retired_and_says_why(registry, validated):
    with pytest.raises(RegistryError, match="approved or rejected, not retired"):
        registry.retire("demo-pfi:1", by="d.chen", reason="Superseded")
    _decided(registry)
    retired = registry.retire("demo-pfi", by="d.chen", reason="Superseded")
    assert retired.state == "retired"
    assert retired.find_event("retired").body["reason"] == "Superseded"
    with pytest.raises(RegistryError, match="no such version is approved"):
        registry.retire("demo-pfi", by="d.chen", reason="Again")


def test_a_use_that_the_encoders_licence_forbids_is_not_locked(
    registry, workspace, tmp_path, fitted, manifest
):
    states = {name: model.state() for name, model in fitted.items()}
    bound = manifest.model_copy(
        update={
            "study": {**manifest.study, "intended_use": "commercial"},
            "features": {**manifest.features, "licence": "CC-BY-NC-ND-4.0"},
        }
    )
    made = write_bundle(tmp_path / "bound", states, bound)
    with Tracker(workspace).start_study(made.study, inputs={}) as run:
        registry.register(run, made.folder, evidence_digest="e" * 64, by="c.trainer")
    with pytest.raises(
        RegistryError,
        match=r"encoder simulated-8d \(CC-BY-NC-ND-4\.0\): for commercial use .* does not",
    ):
        registry.lock("demo-pfi", by="a.weber")


def test_a_training_that_cannot_be_repeated_is_not_locked(
    register, registry, tmp_path, fitted, manifest
):
    states = {name: model.state() for name, model in fitted.items()}
    real = manifest.training["demo_a"].model_copy(update={"origin": {"source": "a registry"}})
    dirty = manifest.model_copy(
        update={"training": {"demo_a": real}, "code": {**manifest.code, "dirty": True}}
    )
    register(write_bundle(tmp_path / "dirty", states, dirty).folder)
    with pytest.raises(RegistryError, match="code with uncommitted changes"):
        registry.lock("demo-pfi:1", by="a.weber")
    blind = real.model_copy(update={"digests": {}})
    silent = manifest.model_copy(update={"training": {"demo_a": blind}})
    register(write_bundle(tmp_path / "silent", states, silent).folder, inputs="2")
    with pytest.raises(RegistryError, match=r"digests of what it was trained on.*demo_a"):
        registry.lock("demo-pfi:2", by="a.weber")


def test_the_trail_holds_no_more_than_json(registry, candidate):
    for event in registry.trail.events():
        assert json.loads(json.dumps(event.body)) == event.body
