"""A kill before any write of a move leaves the registry as it was, or moved; nothing between."""

from __future__ import annotations

import json
import subprocess
import sys

# Forks itself after the slow imports. Each child makes one move on a copy of the workspace and dies
# right before its n-th write, counted over both databases and every file; then another child makes
# the same move again, and prints what it found and what it left.
_SCRIPT = """
import json, os, shutil, signal, sqlite3, sys
from pathlib import Path
from storm_clinic.errors import RegistryError
from storm_clinic.files import Workspace
from storm_clinic.provenance import code_version
from storm_clinic.registry.decide import Approval, Decision
from storm_clinic.registry.moves import Registry
from storm_clinic.study import Study
from storm_clinic.tracking import Tracker

move, origin, copies, bundle, rounds = sys.argv[1:]
READS = ("SELECT", "PRAGMA", "BEGIN")
left = None

def write():
    global left
    if left is not None:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

def is_write(sql):
    return not sql.lstrip().upper().startswith(READS)

class Cursor(sqlite3.Cursor):
    def execute(self, sql, *rest):
        if is_write(sql):
            write()
        return super().execute(sql, *rest)

class Connection(sqlite3.Connection):
    def cursor(self, factory=Cursor):
        return super().cursor(factory)
    def execute(self, sql, *rest):
        if is_write(sql):
            write()
        return super().execute(sql, *rest)
    def commit(self):
        write()
        return super().commit()

real = sqlite3.connect
def connect(*arguments, **options):
    return real(*arguments, **{**options, "factory": Connection})
sqlite3.connect = sqlite3.dbapi2.connect = connect

def watch(event, arguments):
    writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
    if writing or event in ("os.rename", "os.mkdir", "shutil.copyfile"):
        write()
sys.addaudithook(watch)

def act(place, n):
    global left
    registry = Registry(Workspace(place))
    if move == "lock":
        left = n
        return registry.lock("demo-pfi", by="a.weber")
    if move == "promote":
        model = registry.find("demo-pfi")
        decision = Decision(verdict="approved", reasons=(), evidence={"demo_b": "e" * 64})
        approval = Approval("d.chen", "c.trainer", "a.weber", ("demo_b",))
        left = n
        return registry.promote(model, decision, approval)
    study = Study.from_document(json.loads((place / "study.json").read_text()))
    with Tracker(Workspace(place)).start_study(study, inputs={}) as run:
        left = n
        model = registry.register(run, Path(bundle), evidence_digest="e" * 64, by="c.trainer")
        used, left = left, None
    left = used
    return model

def again(place):
    registry = Registry(Workspace(place))
    before = [event.kind for event in registry.trail.events()]
    try:
        act(place, None)
    except RegistryError as error:
        print(error, file=sys.stderr)
    model = registry.find("demo-pfi")
    return {"before": before, "after": [e.kind for e in model.events], "state": model.state}

def forked(action, *arguments):
    process = os.fork()
    if process == 0:
        found = action(*arguments)
        if isinstance(found, dict):
            print(json.dumps(found), flush=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

shutil.copytree(origin, Path(copies) / "warm")
Tracker(Workspace(Path(copies) / "warm")).database.client.search_registered_models()
import mlflow.models, storm_clinic.bundle.pyfunc
code_version()  # once for all, whatever happens to the checkout meanwhile

def count(place):
    act(place, 10**6)
    Path(copies, "total").write_text(str(10**6 - left))

shutil.copytree(origin, Path(copies) / "whole")
assert forked(count, Path(copies) / "whole") == 0
total = int(Path(copies, "total").read_text())
at = range(total) if rounds == "all" else [total * k // int(rounds) for k in range(int(rounds))]
for n in [*at, total - 1]:
    place = Path(copies) / str(n)
    shutil.copytree(origin, place)
    code = forked(act, place, n)
    assert code == -signal.SIGKILL, code
    assert forked(again, place) == 0
    shutil.rmtree(place)
"""


def _die_everywhere(move, workspace, bundle, tmp_path, rounds) -> list[dict]:
    """What was found after each kill, and after the same move was made once more."""
    arguments = [move, str(workspace.root), str(tmp_path / "copies"), str(bundle.folder)]
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, *arguments, rounds]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_lock_killed_before_any_of_its_writes_is_made_or_not(
    workspace, candidate, bundle, tmp_path
):
    rounds = _die_everywhere("lock", workspace, bundle, tmp_path, "all")
    before = [found["before"] for found in rounds]
    assert sorted(before, key=len) == before, "once made, a move stays, however late the kill"
    assert {tuple(kinds) for kinds in before} == {("candidate",), ("candidate", "locked")}
    for found in rounds:
        assert found["after"] == ["candidate", "locked"]
        assert found["state"] == "locked"


def test_an_approval_killed_before_any_of_its_writes_is_made_or_not(
    workspace, registry, candidate, bundle, tmp_path
):
    locked = registry.lock("demo-pfi", by="a.weber")
    about = {"cohort": "demo_b", "run_id": "r", "by": "a.weber"}
    registry.scorings.seal(locked, predictions_digest="0" * 64, inputs={}, **about)
    registry.scorings.record(locked, evidence_digest="e" * 64, run_files={}, **about)
    rounds = _die_everywhere("promote", workspace, bundle, tmp_path, "all")
    earlier = ("candidate", "locked", "predictions_sealed", "validated")
    before = [found["before"] for found in rounds]
    assert sorted(before, key=len) == before, "once made, a move stays, however late the kill"
    assert {tuple(kinds) for kinds in before} == {earlier, (*earlier, "approved")}
    for found in rounds:
        assert found["after"] == [*earlier, "approved"]
        assert found["state"] == "approved"


def test_a_registration_killed_before_some_of_its_writes_leaves_a_candidate_or_none(
    workspace, study, bundle, tmp_path
):
    (workspace.root / "study.json").write_text(study.model_dump_json(by_alias=True))
    rounds = _die_everywhere("register", workspace, bundle, tmp_path, "2")
    before = [found["before"] for found in rounds]
    assert sorted(before, key=len) == before
    assert {tuple(kinds) for kinds in before} == {(), ("candidate",)}
    for found in rounds:
        # The same run, taken up again, becomes one version and not two.
        assert found["after"] == ["candidate"]
