"""The chain shows what was done to it; what it cannot show is shown too."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from storm_clinic.errors import RegistryError, StorageError
from storm_clinic.registry import trail as trail_module
from storm_clinic.registry.findings import Kind
from storm_clinic.registry.trail import Head, Trail, find_breaks


def _anything(events) -> None:
    """Allow every event."""


def _in_file(path) -> Trail:
    return Trail.at(f"sqlite:///{path}")


def _problems(trail: Trail) -> list[str]:
    return [str(found) for found in find_breaks(trail.database.rows())]


@pytest.fixture
def trail(tmp_path) -> Trail:
    trail = _in_file(tmp_path / "mlruns" / "trail.db")
    for number in range(5):
        trail.append({"event": "note", "by": "a.weber", "number": number}, allowed=_anything)
    return trail


def _tamper(trail: Trail, *statements: str) -> None:
    connection = sqlite3.connect(trail.where, isolation_level=None)
    for name in ("trail_no_update", "trail_no_delete"):
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_an_absent_trail_holds_no_events_and_reading_does_not_make_it(tmp_path):
    trail = _in_file(tmp_path / "mlruns" / "trail.db")
    assert trail.events() == ()
    assert _problems(trail) == []
    assert list(tmp_path.iterdir()) == []


def test_events_come_back_in_order_with_who_and_when(trail):
    before = datetime.now(UTC)
    event = trail.append({"event": "locked", "by": "b.meier"}, allowed=_anything)
    assert trail.events()[-1] == event
    assert [e.seq for e in trail.events()] == [1, 2, 3, 4, 5, 6]
    assert (event.kind, event.by) == ("locked", "b.meier")
    assert before <= event.when <= datetime.now(UTC)


def test_the_chain_can_be_verified_without_this_program(trail):
    previous = "0" * 64
    connection = sqlite3.connect(trail.where)
    for seq, before, digest, body in connection.execute("SELECT * FROM trail ORDER BY seq"):
        assert before == previous
        assert digest == hashlib.sha256(f"{seq}\n{before}\n{body}".encode()).hexdigest()
        previous = digest
    connection.close()
    assert previous == trail.events()[-1].digest


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        (
            ["UPDATE trail SET body = replace(body, 'web', 'hub') WHERE seq = 2"],
            "row 2 was edited",
        ),
        (["DELETE FROM trail WHERE seq = 3"], "row 3 is missing"),
        (["DELETE FROM trail WHERE seq = 1"], "row 1 is missing"),
        (
            [
                "UPDATE trail SET seq = 99 WHERE seq = 2",
                "UPDATE trail SET seq = 2 WHERE seq = 3",
                "UPDATE trail SET seq = 3 WHERE seq = 99",
            ],
            "row 2 does not follow",
        ),
        (["UPDATE trail SET digest = 'x' WHERE seq = 5"], "row 5 was edited"),
        (["UPDATE trail SET previous = '' WHERE seq = 4"], "row 4 does not follow"),
        (["UPDATE trail SET body = x'00' WHERE seq = 4"], "row 4 was edited"),
        (["INSERT INTO trail VALUES (6, 'a', 'b', '{}')"], "row 6 does not follow"),
        (
            ["DELETE FROM trail WHERE seq = 2", "UPDATE trail SET seq = seq - 1 WHERE seq > 2"],
            "row 2 does not follow",
        ),
    ],
)
def test_tampering_is_named_and_nothing_is_added_to_a_broken_chain(trail, statements, finding):
    _tamper(trail, *statements)
    assert any(finding in problem for problem in _problems(trail)), _problems(trail)
    with pytest.raises(RegistryError, match=f"the trail was changed: {finding}"):
        trail.events()
    with pytest.raises(RegistryError, match="the trail was changed"):
        trail.append({"event": "note", "by": "a.weber"}, allowed=_anything)


def _forge(trail: Trail, body: str) -> None:
    """Append a row whose digest fits, as somebody with this source code could."""
    last = trail.events()[-1]
    digest = hashlib.sha256(f"{last.seq + 1}\n{last.digest}\n{body}".encode()).hexdigest()
    row = f"({last.seq + 1}, '{last.digest}', '{digest}', '{body}')"
    _tamper(trail, f"INSERT INTO trail VALUES {row}")


def test_an_event_that_is_dated_back_is_named_although_its_digest_fits(trail):
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="microseconds")
    _forge(trail, f'{{"by":"a.weber","event":"locked","when":"{yesterday}"}}')
    assert _problems(trail) == ["row 6 is dated before the row it follows"]


def test_a_row_that_is_no_event_is_named_although_its_digest_fits(trail):
    _forge(trail, "[]")
    assert _problems(trail) == ["row 6 is no event"]


def test_a_lost_tail_and_a_chain_written_anew_are_beyond_the_chain(trail, tmp_path):
    """Stated in docs/registry.md: only a head kept elsewhere shows these."""
    head = trail.events()[-1].digest
    _tamper(trail, "DELETE FROM trail WHERE seq = 5")
    assert _problems(trail) == []
    assert trail.events()[-1].digest != head


def test_sql_alone_cannot_change_or_delete_a_row(trail):
    connection = sqlite3.connect(trail.where)
    for statement in ("UPDATE trail SET body = ''", "DELETE FROM trail"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_a_clock_that_went_back_is_refused(trail, monkeypatch):
    class _Slow(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(hours=1)

    monkeypatch.setattr(trail_module, "datetime", _Slow)
    with pytest.raises(RegistryError, match=r"the clock says .*cannot be dated back"):
        trail.append({"event": "note", "by": "a.weber"}, allowed=_anything)


def test_a_refused_event_leaves_no_row(trail):
    def refuse(events) -> None:
        raise RegistryError(f"no, after {len(events)}")

    with pytest.raises(RegistryError, match="no, after 5"):
        trail.append({"event": "note", "by": "a.weber"}, allowed=refuse)
    assert len(trail.events()) == 5


def test_the_head_is_the_last_row_and_comes_back_from_its_text(trail):
    last = trail.events()[-1]
    assert str(trail.head()) == f"5:{last.digest}"
    assert Head.parse(f" 5:{last.digest}\n") == trail.head()
    assert Head.parse(f"5:{last.digest[:12]}").seq == 5


@pytest.mark.parametrize(
    "text", ["", "5", "5:", "0:0123456789ab", "5:0123456789a", "5:0123456789AB"]
)
def test_what_is_no_head_is_refused(text):
    with pytest.raises(RegistryError, match="is no head of a trail"):
        Head.parse(text)


def test_a_renumbered_chain_is_told_row_by_row(trail):
    _tamper(
        trail, "DELETE FROM trail WHERE seq = 2", "UPDATE trail SET seq = seq - 1 WHERE seq > 2"
    )
    kinds = [item.kind for item in find_breaks(trail.database.rows())]
    assert kinds == [Kind.ROW_UNLINKED, *[Kind.ROW_MOVED] * 3]


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "trail.db"
    path.write_text("not SQLite " * 500)
    with pytest.raises(StorageError, match=r"trail\.db: the trail cannot be read or written"):
        _in_file(path).events()


_LOCK_ONCE = """
import sys
from storm_clinic.errors import RegistryError
from storm_clinic.registry.trail import Trail

def allowed(events):
    if any(event.kind == "locked" for event in events):
        raise RegistryError("locked before")

sys.stdin.read()  # until all processes are there
try:
    Trail.at(sys.argv[1]).append({"event": "locked", "by": "a.weber"}, allowed=allowed)
except RegistryError:
    sys.exit(3)
"""


def test_of_many_who_move_at_once_exactly_one_succeeds(tmp_path):
    path = f"sqlite:///{tmp_path}/trail.db"
    command = [sys.executable, "-c", _LOCK_ONCE, path]
    gate, opener = os.pipe()  # one pipe for all: closing it lets all go at once
    crowd = [subprocess.Popen(command, stdin=gate) for _ in range(6)]
    os.close(gate)
    os.close(opener)
    assert sorted(process.wait() for process in crowd) == [0, 3, 3, 3, 3, 3]
    assert len(Trail.at(path).events()) == 1


_DIE = """
import os, signal, sqlite3, sys
from storm_clinic.registry.trail import Trail

class Mortal(sqlite3.Connection):
    left = int(sys.argv[2])

    def execute(self, *arguments):
        if Mortal.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        Mortal.left -= 1
        return super().execute(*arguments)

real = sqlite3.connect
sqlite3.connect = lambda *a, **k: real(*a, **k, factory=Mortal)
event = {"event": "locked", "by": "a.weber"}
Trail.at(sys.argv[1]).append(event, allowed=lambda events: None)
"""


def test_a_kill_before_any_statement_leaves_the_trail_before_or_after(trail, tmp_path):
    seen = []
    for statements in range(12):
        copy = tmp_path / f"{statements}.db"
        shutil.copy(trail.where, copy)
        command = [sys.executable, "-c", _DIE, f"sqlite:///{copy}", str(statements)]
        code = subprocess.run(command, check=False).returncode
        survivor = _in_file(copy)
        assert _problems(survivor) == []
        seen.append((code, len(survivor.events())))
        survivor.append({"event": "note", "by": "a.weber"}, allowed=_anything)
        if code == 0:
            break
    assert seen[-1] == (0, 6), "the last round must have outlived every statement"
    assert set(seen[:-1]) == {(-signal.SIGKILL, 5)}
    assert len(seen) > 4, "BEGIN, reading, INSERT and COMMIT are statements"
