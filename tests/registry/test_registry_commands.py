"""What the commands of the registry print, and how they end."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner
from validated_workspace import append, copy, rows

from storm_clinic.cli.main import app
from storm_clinic.files import Workspace
from storm_clinic.tracking import Tracker


@pytest.fixture
def workspace(validated, tmp_path) -> Workspace:
    return copy(validated, tmp_path / "copy")


def _run(workspace, *words: str):
    return CliRunner().invoke(app, ["registry", *words, "--workspace", str(workspace.root)])


def _move_alias(workspace) -> None:
    client = Tracker(workspace).database.client
    client.set_registered_model_alias("demo-pfi", "locked", "2")


def test_a_clean_audit_ends_with_0_and_prints_the_head(validated):
    result = _run(validated, "audit")
    assert result.exit_code == 0, result.output
    assert "Clean." in result.output
    assert f"Head, to be kept elsewhere: 5:{rows(validated)[-1][2]}" in result.output
    assert "who made 5 unsigned events is a statement" in result.output


def test_an_audit_that_finds_something_ends_with_1_and_names_it(workspace):
    _move_alias(workspace)
    result = _run(workspace, "audit")
    assert result.exit_code == 1
    assert "alias_differs: alias demo-pfi@locked is 2" in result.output
    found = json.loads(_run(workspace, "audit", "--json").stdout)
    assert found["clean"] is False
    assert found["findings"][0]["kind"] == "alias_differs"
    assert (found["findings"][0]["expected"], found["findings"][0]["found"]) == ("1", "2")


def test_an_audit_against_another_head_ends_with_1(validated):
    result = _run(validated, "audit", "--head", "6:0123456789ab")
    assert result.exit_code == 1
    assert "row 6 was there and is lost" in result.output


def test_a_forged_name_does_not_reach_the_terminal_as_it_is(workspace):
    append(workspace, event="blessed", by="x", model="\x1b[2J\ud800")
    result = _run(workspace, "audit")
    assert "\x1b[2J" not in result.output
    assert "\\x1b[2J\\ud800" in result.output


def test_repair_says_what_it_changed_and_then_the_audit_is_clean(workspace):
    _move_alias(workspace)
    result = _run(workspace, "repair")
    assert "alias demo-pfi@locked: was 2, is 1" in result.output
    assert _run(workspace, "audit").exit_code == 0


def test_the_head_is_printed_alone(validated):
    assert _run(validated, "head").output == f"5:{rows(validated)[-1][2]}\n"


def test_an_empty_trail_has_no_head(tmp_path):
    assert _run(Workspace(tmp_path), "head").exit_code == 1
    assert json.loads(_run(Workspace(tmp_path), "head", "--json").stdout)["head"] is None
    assert list(tmp_path.iterdir()) == []


def test_show_tells_who_did_what_when_what_is_claimed_and_the_card(validated):
    shown = _run(validated, "show", "demo-pfi@locked").output
    for told in (
        "a.weber",
        "d.stat",
        "predictions_sealed",
        "c_index_gain",
        "No decision",
        "demo_b",
    ):
        assert told in shown
    found = json.loads(_run(validated, "show", "demo-pfi:1", "--json").stdout)
    assert [event["event"] for event in found["events"]] == [
        "candidate",
        "locked",
        "predictions_sealed",
        "validated",
    ]
    assert found["card"] in shown


def test_list_names_every_version_and_its_last_move(validated):
    found = json.loads(_run(validated, "list", "--json").stdout)
    assert [(row["version"], row["state"], row["by"]) for row in found] == [
        (1, "locked", "a.weber"),
        (2, "candidate", "c.trainer"),
    ]
