"""Tamperings and illegal moves, one a test, and what the audit says of each."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil

import pytest
from validated_workspace import append, copy, rows, sql, write_anew

from storm_clinic.files import Workspace
from storm_clinic.registry.findings import Kind
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.repair import repair
from storm_clinic.steps.registry_audit import audit
from storm_clinic.tracking import Tracker


@pytest.fixture
def workspace(validated, tmp_path) -> Workspace:
    return copy(validated, tmp_path / "copy")


@pytest.fixture
def root(workspace):
    return workspace.mlruns.resolve()


def _registered(workspace, number: int = 1) -> dict:
    found = [json.loads(body) for *_, body in rows(workspace)]
    return next(e for e in found if e["event"] == "candidate" and e["version"] == number)


def _folder(workspace, number: int = 1):
    return workspace.mlruns / _registered(workspace, number)["folder"]


def _run_folder(workspace, kind: str):
    event = next(json.loads(b) for *_, b in rows(workspace) if json.loads(b)["event"] == kind)
    return Tracker(workspace).read_run(event["run_id"]).artifacts


def _client(workspace):
    return Tracker(workspace).database.client


def _found(workspace, **options) -> dict[Kind, str]:
    """Kinds of findings with their sentences joined."""
    result: dict[Kind, str] = {}
    for finding in audit(workspace=workspace, **options).findings:
        result[finding.kind] = f"{result.get(finding.kind, '')}\n{finding}"
    return result


def _is_file(path) -> bool:
    return path.is_file()


def _flip(path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def test_a_registry_that_nobody_touched_is_clean_and_is_left_as_it_is(workspace, root):
    before = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    found = audit(workspace=workspace)
    assert found.findings == ()
    assert found.head.seq == 5
    counts = found.verified
    assert (counts.events, counts.unsigned, counts.versions) == (5, 5, 2)
    assert (counts.predictions, counts.evidence) == (1, 3)
    # Two trainings and one validation, each with three estimates of which two have an interval.
    assert counts.metrics == 3 * 7
    after = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    assert after == before


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "card.md"])
def test_edited_weights_manifest_and_card_are_named(workspace, name):
    _flip(_folder(workspace) / "data" / "bundle" / name)
    found = _found(workspace)
    assert set(found) == {Kind.FILE_CHANGED}
    assert (
        f"data/bundle/{name} was changed since the trail recorded its digest" in found.popitem()[1]
    )


def test_one_flipped_byte_in_any_artifact_of_mlflow_is_named(workspace, root):
    chosen = random.Random(20261126)
    versions = [path for n in (1, 2) for path in sorted(_folder(workspace, n).rglob("*"))]
    versions = list(filter(_is_file, versions))
    # Whatever else there is; flipped while bundles are whole, which vouch for some of it.
    artifacts = filter(_is_file, sorted((workspace.mlruns / "artifacts").rglob("*")))
    of_runs = [path for path in artifacts if path not in set(versions)]
    assert len(of_runs) >= 8
    n_positions = 0
    for files in (versions, of_runs):
        whole = {path: path.read_bytes() for path in files}
        for _ in range(3):  # every file at once, each at another place every time
            for path in files:
                _flip(path, chosen.randrange(len(whole[path])))
                n_positions += 1
            places = {item.place for item in audit(workspace=workspace).findings}
            assert {path.resolve().relative_to(root).as_posix() for path in files} <= places
            for path, data in whole.items():
                path.write_bytes(data)
    assert n_positions >= 40
    assert audit(workspace=workspace).is_clean


@pytest.mark.parametrize("table", ["latest_metrics", "metrics"])
def test_an_edited_metric_in_the_database_is_named_with_both_values(workspace, table):
    sql(
        workspace,
        f"UPDATE {table} SET value = 0.99 WHERE key = 'demo_b/c_index/fusion/lower'",
    )
    found = _found(workspace)
    assert set(found) == {Kind.METRIC_CHANGED}
    text = found.popitem()[1]
    assert "metric demo_b/c_index/fusion/lower of run" in text
    assert "is 0.99 in MLflow's database" in text
    assert "evidence it is 0.6" in text


def test_a_deleted_and_an_invented_metric_are_named(workspace):
    where = "key = 'demo_b/c_index/clinical'"
    sql(
        workspace, f"DELETE FROM metrics WHERE {where}", f"DELETE FROM latest_metrics WHERE {where}"
    )
    run = json.loads(rows(workspace)[-1][3])["run_id"]
    _client(workspace).log_metric(run, "demo_b/c_index/better", 0.9)
    found = _found(workspace)
    assert set(found) == {Kind.METRIC_MISSING, Kind.METRIC_ADDED}
    assert "demo_b/c_index/clinical" in found[Kind.METRIC_MISSING]
    assert "demo_b/c_index/better" in found[Kind.METRIC_ADDED]


def test_edited_evidence_is_named_even_where_its_metrics_were_edited_along(workspace, root):
    path = _run_folder(workspace, "validated") / "evidence.json"
    path.write_text(path.read_text().replace('"value": 0.65', '"value": 0.85'))
    sql(
        workspace,
        "UPDATE metrics SET value = 0.85 WHERE key = 'demo_b/c_index/fusion'",
        "UPDATE latest_metrics SET value = 0.85 WHERE key = 'demo_b/c_index/fusion'",
    )
    found = _found(workspace)
    assert set(found) == {Kind.FILE_CHANGED}
    assert "evidence.json was changed" in found.popitem()[1]


def test_the_same_evidence_written_in_other_bytes_is_named(workspace):
    path = _run_folder(workspace, "validated") / "evidence.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert "evidence.json was changed" in _found(workspace)[Kind.FILE_CHANGED]


def test_a_deleted_event_is_named(workspace):
    sql(
        workspace,
        "DROP TRIGGER trail_no_delete",
        "DELETE FROM trail WHERE seq = 3",
        database="trail.db",
    )
    found = _found(workspace)
    assert "row 3 is missing" in found[Kind.ROW_MISSING]
    assert "trail_no_delete" in found[Kind.TRAIL_UNGUARDED]
    # The lock is gone, so that the scoring of a candidate is what is left.
    assert "was candidate, not locked" in found[Kind.SCORED_UNLOCKED]


def test_reordered_events_are_named(workspace):
    sql(
        workspace,
        "DROP TRIGGER trail_no_update",
        "UPDATE trail SET seq = 99 WHERE seq = 3",
        "UPDATE trail SET seq = 3 WHERE seq = 4",
        "UPDATE trail SET seq = 4 WHERE seq = 99",
        database="trail.db",
    )
    found = _found(workspace)
    assert "row 3 was written as row 4 and moved" in found[Kind.ROW_MOVED]
    assert "row 4 was written as row 3 and moved" in found[Kind.ROW_MOVED]


def test_every_break_is_named_and_not_only_the_first(workspace):
    sql(
        workspace,
        "DROP TRIGGER trail_no_update",
        "UPDATE trail SET body = replace(body, 'c.trainer', 'x.nobody') WHERE seq = 1",
        "UPDATE trail SET body = replace(body, 'd.stat', 'x.nobody') WHERE seq = 5",
        database="trail.db",
    )
    found = _found(workspace)
    assert "row 1 was edited" in found[Kind.ROW_EDITED]
    assert "row 5 was edited" in found[Kind.ROW_EDITED]


def test_an_edited_body_with_a_fitting_digest_breaks_the_row_after_it(workspace):
    seq, previous, _, body = rows(workspace)[2]
    edited = body.replace("a.weber", "b.meier")
    digest = hashlib.sha256(f"{seq}\n{previous}\n{edited}".encode()).hexdigest()
    sql(
        workspace,
        "DROP TRIGGER trail_no_update",
        f"UPDATE trail SET digest = '{digest}', body = '{edited}' WHERE seq = 3",
        database="trail.db",
    )
    assert "row 4 does not follow the row before it" in _found(workspace)[Kind.ROW_UNLINKED]


def test_a_body_that_is_no_text_any_more_is_an_edited_row(workspace):
    sql(
        workspace,
        "DROP TRIGGER trail_no_update",
        "UPDATE trail SET body = CAST(x'7bff7d' AS TEXT) WHERE seq = 5",
        database="trail.db",
    )
    assert "row 5 was edited" in _found(workspace)[Kind.ROW_EDITED]


def test_a_chain_that_was_wholly_written_anew_is_seen_by_a_head_kept_elsewhere_only(workspace):
    head = str(audit(workspace=workspace).head)
    write_anew(workspace, lambda events: events[2].update(by="b.meier"))
    assert _found(workspace) == {}, "stated in docs/registry.md"
    found = _found(workspace, head=head)
    assert set(found) == {Kind.HEAD_DIFFERS}
    assert "the chain up to it was written anew" in found.popitem()[1]


def test_a_cut_tail_is_seen_by_a_head_kept_elsewhere(workspace):
    head = str(audit(workspace=workspace).head)
    write_anew(workspace, lambda events: events[:4])
    found = _found(workspace, head=head)
    assert "row 5 was there and is lost: the trail ends at row 4" in found[Kind.HEAD_LOST]
    earlier = f"3:{rows(workspace)[2][2]}"
    assert Kind.HEAD_LOST not in _found(workspace, head=earlier), "that row is still there"


def test_a_moved_alias_is_named(workspace):
    _client(workspace).set_registered_model_alias("demo-pfi", "locked", "2")
    found = _found(workspace)
    assert set(found) == {Kind.ALIAS_DIFFERS}
    assert "alias demo-pfi@locked is 2 in MLflow's database; by the trail it is 1" in str(found)


def test_an_invented_state_is_named_by_tag_and_alias(workspace):
    client = _client(workspace)
    client.set_model_version_tag("demo-pfi", "2", "storm_clinic.state", "approved")
    client.set_registered_model_alias("demo-pfi", "approved", "2")
    client.set_registered_model_alias("demo-pfi", "favourite", "2")
    found = _found(workspace)
    assert set(found) == {Kind.TAG_DIFFERS, Kind.ALIAS_DIFFERS}
    assert "storm_clinic.state of demo-pfi:2 is approved" in found[Kind.TAG_DIFFERS]
    assert "alias demo-pfi@approved is 2" in found[Kind.ALIAS_DIFFERS]
    assert "favourite" not in found[Kind.ALIAS_DIFFERS], "no state is called so"


def test_an_edited_digest_tag_is_named(workspace):
    tag = "storm_clinic.bundle_digest"
    _client(workspace).set_model_version_tag("demo-pfi", "1", tag, "0" * 64)
    assert f"tag {tag} of demo-pfi:1 is {'0' * 64}" in _found(workspace)[Kind.TAG_DIFFERS]


def test_the_files_of_another_version_in_ones_place_are_recognised(workspace):
    shutil.rmtree(_folder(workspace, 1))
    shutil.copytree(_folder(workspace, 2), _folder(workspace, 1))
    found = _found(workspace)
    assert "demo-pfi:1 holds the files of demo-pfi:2" in found[Kind.FILES_SWAPPED]
    assert "data/bundle/manifest.json was changed" in found[Kind.FILE_CHANGED]


def test_a_name_that_was_registered_anew_in_mlflow_is_named(workspace):
    client = _client(workspace)
    source = client.get_model_version("demo-pfi", "2").source
    client.delete_registered_model("demo-pfi")
    client.create_registered_model("demo-pfi")
    client.create_model_version("demo-pfi", source)
    found = _found(workspace)
    assert (
        "demo-pfi:1 in MLflow's database comes from another training" in found[Kind.VERSION_OTHER]
    )
    assert "demo-pfi:1 is loaded by MLflow from another place" in found[Kind.VERSION_OTHER]
    assert "demo-pfi:2 is not in MLflow's database any more" in found[Kind.VERSION_LOST]


def test_a_version_and_a_model_that_were_registered_by_hand_are_named(workspace):
    client = _client(workspace)
    source = client.get_model_version("demo-pfi", "2").source
    client.create_model_version("demo-pfi", source)
    client.create_registered_model("shadow")
    tags = {"storm_clinic.state": "approved"}
    client.create_model_version("shadow", source, tags=tags)
    client.create_registered_model("of another project")
    found = _found(workspace)
    assert set(found) == {Kind.VERSION_UNKNOWN}
    assert "demo-pfi:3 is in MLflow's database, but no event" in found[Kind.VERSION_UNKNOWN]
    assert "shadow:1 is in MLflow's database, but no event" in found[Kind.VERSION_UNKNOWN]


@pytest.mark.parametrize("column", ["source", "storage_location"])
def test_a_version_that_mlflow_would_load_from_elsewhere_is_named(workspace, column):
    sql(workspace, f"UPDATE model_versions SET {column} = 'file:///tmp/other' WHERE version = 1")
    found = _found(workspace)
    assert set(found) == {Kind.VERSION_OTHER}
    assert "demo-pfi:1 is loaded by MLflow from another place" in found.popitem()[1]


def test_a_deleted_run_is_named(workspace):
    run = json.loads(rows(workspace)[-1][3])["run_id"]
    _client(workspace).delete_run(run)
    assert f"run {run}" in _found(workspace)[Kind.RUN_LOST]


def test_a_backdated_event_is_named_by_the_row_it_follows(workspace):
    decided = _decided(workspace, "rejected", "b.meier")
    append(workspace, **decided, when="2020-01-01T00:00:00.000000+00:00")
    found = _found(workspace)
    assert "row 6 is dated before the row it follows" in found[Kind.ROW_BACKDATED]


def test_a_whole_chain_that_was_dated_back_is_named_by_the_runs_that_it_records(workspace):
    def back(events):
        for event in events:
            event["when"] = event["when"].replace("20", "19", 1)

    write_anew(workspace, back)
    found = _found(workspace)
    assert set(found) == {Kind.RUN_LATER}
    assert "row 1 is dated before run" in found[Kind.RUN_LATER]


def test_an_event_of_tomorrow_is_named(workspace):
    decided = _decided(workspace, "rejected", "b.meier")
    append(workspace, **decided, when="2999-01-01T00:00:00.000000+00:00")
    assert "row 6 is dated in the future" in _found(workspace)[Kind.ROW_IN_FUTURE]


def _decided(workspace, verdict, by, **changed):
    """The body of a decision on the evidence that is on record."""
    validated = json.loads(rows(workspace)[4][3])
    evidence = {"demo_b": validated["evidence_digest"]}
    return {
        "event": verdict,
        "by": by,
        "bundle_digest": _registered(workspace)["bundle_digest"],
        "decision": {"verdict": verdict, "reasons": [], "evidence": evidence},
    } | changed


@pytest.mark.parametrize(
    ("by", "verb"), [("c.trainer", "trained"), ("a.weber", "locked"), ("A.Weber ", "locked")]
)
def test_a_promotion_by_who_trained_or_locked_is_named(workspace, by, verb):
    append(workspace, **_decided(workspace, "approved", by))
    found = _found(workspace)
    assert f"was made by the person who {verb} the model" in found[Kind.APPROVED_BY_SELF]


def test_an_approval_by_another_person_is_no_illegal_move(workspace):
    append(workspace, **_decided(workspace, "approved", "e.head"))
    # Appended by hand: MLflow does not know yet, and that is all.
    assert set(_found(workspace)) == {Kind.TAG_DIFFERS, Kind.ALIAS_DIFFERS}


@pytest.mark.parametrize(
    ("version", "move", "says"),
    [
        (1, "retired", "no allowed move: the version was locked"),
        (1, "locked", "no allowed move: the version was locked"),
        (2, "approved", "no allowed move: the version was candidate"),
        (9, "approved", "no allowed move: the version was not registered"),
    ],
)
def test_a_move_that_the_table_does_not_have_is_named(workspace, version, move, says):
    body = {"bundle_digest": "0" * 64, "study_digest": "", "claims": [], "validation": []}
    body |= {"decision": {"verdict": move, "evidence": {}}, "reason": "none"}
    append(workspace, event=move, by="e.head", **{**body, "version": version})
    assert says in _found(workspace)[Kind.MOVE_ILLEGAL]


def test_an_approval_of_what_was_never_validated_is_named(workspace):
    decided = _decided(workspace, "approved", "e.head")
    write_anew(workspace, lambda events: events[:4])
    append(workspace, **decided)
    assert "was not validated on demo_b" in _found(workspace)[Kind.APPROVED_UNVALIDATED]


def test_a_move_that_names_another_bundle_is_named(workspace):
    append(workspace, **_decided(workspace, "approved", "e.head", bundle_digest="0" * 64))
    assert "another bundle than was registered" in _found(workspace)[Kind.BUNDLE_EXCHANGED]


def test_claims_that_were_edited_after_the_lock_are_named_although_the_chain_is_whole(workspace):
    write_anew(workspace, lambda events: events[2]["claims"][0].update(lower_bound_at_least=-1.0))
    found = _found(workspace)
    assert set(found) == {Kind.LOCK_DIFFERS}
    assert "row 3: the claims of the lock of demo-pfi:1 are not those of the study" in str(found)


def test_a_validation_on_a_cohort_of_development_is_named(workspace):
    last = json.loads(rows(workspace)[-1][3])
    append(workspace, **{**last, "cohort": "demo_a"})
    found = _found(workspace)
    assert "on which demo-pfi:1 was trained" in found[Kind.COHORT_OF_DEVELOPMENT]
    assert "demo_a, which was not named before" in found[Kind.COHORT_NOT_NAMED]
    assert "not preceded by sealed predictions on demo_a" in found[Kind.VALIDATED_UNSEALED]


def test_a_second_scoring_is_named_unless_it_is_a_re_run(workspace):
    *_, seal, validated = (json.loads(body) for *_, body in rows(workspace))
    append(workspace, **validated)
    assert "validates on demo_b a second time" in _found(workspace)[Kind.VALIDATED_TWICE]
    write_anew(workspace, lambda events: events[:5])
    append(workspace, **{**seal, "when": validated["when"]})
    append(workspace, **validated)
    assert "scores demo_b a second time" in _found(workspace)[Kind.SCORED_TWICE]
    write_anew(workspace, lambda events: events[5].update(rerun="Wrong table"))
    assert _found(workspace) == {}


def test_a_verdict_that_the_evidence_does_not_give_is_named_although_all_digests_fit(workspace):
    append(workspace, **_decided(workspace, "rejected", "e.head"))
    found = _found(workspace)[Kind.DECISION_DIFFERS]
    assert "the evidence of that day gives another verdict: Approved" in found


def test_an_approval_on_other_evidence_than_is_on_record_is_named(workspace):
    decided = _decided(workspace, "approved", "e.head")
    decided["decision"]["evidence"] = {"demo_b": "0" * 64}
    append(workspace, **decided)
    assert "evidence that are on record" in _found(workspace)[Kind.DECISION_DIFFERS]
    write_anew(workspace, lambda events: events[5]["decision"].update(verdict="refused"))
    assert Kind.DECISION_DIFFERS in _found(workspace)


def test_a_scoring_of_a_candidate_is_named(workspace):
    seal = json.loads(rows(workspace)[3][3])
    append(workspace, **{**seal, "version": 2, "when": json.loads(rows(workspace)[4][3])["when"]})
    assert "was candidate, not locked" in _found(workspace)[Kind.SCORED_UNLOCKED]


def test_a_pickle_in_the_bundle_is_named(workspace):
    (_folder(workspace) / "data" / "bundle" / "head.pkl").write_bytes(pickle.dumps(os.getcwd))
    found = _found(workspace)
    assert set(found) == {Kind.FILE_ADDED}
    assert "data/bundle/head.pkl was not there when the trail recorded" in found.popitem()[1]


def test_links_in_place_of_a_file_and_of_a_folder_are_named(workspace, tmp_path):
    folder = _folder(workspace)
    weights = folder / "data" / "bundle" / "model.safetensors"
    shutil.move(weights, tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    (folder / "more").symlink_to(tmp_path)
    found = _found(workspace)
    assert set(found) == {Kind.FILE_LINKED}
    assert "data/bundle/model.safetensors is a link" in found[Kind.FILE_LINKED]
    assert "/more is a link" in found[Kind.FILE_LINKED]


def test_a_missing_file_is_named(workspace):
    (_folder(workspace) / "MLmodel").unlink()
    (_run_folder(workspace, "validated") / "predictions.parquet").unlink()
    found = _found(workspace)[Kind.FILE_MISSING]
    assert "MLmodel is missing" in found
    assert "predictions.parquet is missing" in found


def test_a_folder_that_leads_out_of_the_registry_is_not_followed(workspace):
    write_anew(workspace, lambda events: events[0].update(folder="../.."))
    assert "../.. cannot be read" in _found(workspace)[Kind.FOLDER_LOST]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"event": "blessed", "by": "e.head"}, Kind.EVENT_UNKNOWN),
        ({"event": "approved", "by": "e.head"}, Kind.EVENT_MALFORMED),
        ({"event": "validated", "by": "e.head", "version": "one"}, Kind.EVENT_MALFORMED),
    ],
)
def test_an_event_of_unknown_kind_or_form_is_named(workspace, body, kind):
    append(workspace, **body)
    assert "row 6" in _found(workspace)[kind]


def test_a_trail_that_cannot_be_read_is_named(workspace):
    (workspace.mlruns / "trail.db").write_bytes(b"no database" * 400)
    found = audit(workspace=workspace)
    assert [item.kind for item in found.findings] == [Kind.TRAIL_UNREADABLE]
    assert "trail.db" in str(found.findings[0])
    assert "nothing else could be verified" in found.notes


def test_repair_puts_tags_and_aliases_right_and_says_what_it_changed(workspace):
    client = _client(workspace)
    client.set_registered_model_alias("demo-pfi", "approved", "2")
    client.set_model_version_tag("demo-pfi", "1", "storm_clinic.state", "approved")
    client.set_model_version_tag("demo-pfi", "1", "storm_clinic.bundle_digest", "0")
    done = _repair(workspace)
    assert {item.place for item in done.changed} == {
        "alias demo-pfi@approved",
        "tag storm_clinic.state of demo-pfi:1",
        "tag storm_clinic.bundle_digest of demo-pfi:1",
    }
    assert done.left == ()
    assert audit(workspace=workspace).is_clean
    assert _repair(workspace).changed == ()


def test_repair_gives_no_alias_to_a_version_that_was_registered_anew(workspace):
    client = _client(workspace)
    source = client.get_model_version("demo-pfi", "2").source
    client.delete_registered_model("demo-pfi")
    client.create_registered_model("demo-pfi")
    client.create_model_version("demo-pfi", source)
    done = _repair(workspace)
    assert done.changed == ()
    assert "demo-pfi:1 in MLflow's database is not what was registered" in done.left[0]
    assert client.get_registered_model("demo-pfi").aliases == {}


def _repair(workspace):
    return repair(Registry(workspace).trail, Tracker(workspace).database)
