"""The trail keeps its promises in PostgreSQL too, and can be read where it cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from storm_clinic.errors import RegistryError, StorageError
from storm_clinic.registry.trail import Trail, find_breaks
from storm_clinic.registry.trail_database import open_trail_database


def _anything(events) -> None:
    """Allow every event."""


@pytest.fixture
def uri(postgres) -> str:
    return postgres.create_database()


@pytest.fixture
def trail(uri) -> Trail:
    trail = Trail.at(uri)
    for number in range(3):
        trail.append({"event": "note", "by": "a.weber", "number": number}, allowed=_anything)
    return trail


def _execute(uri: str, *statements: str) -> None:
    import psycopg

    with psycopg.connect(uri) as connection:
        for statement in statements:
            connection.execute(statement)


def test_an_absent_table_holds_no_events_and_reading_does_not_make_it(uri):
    import psycopg

    trail = Trail.at(uri)
    assert trail.events() == ()
    assert trail.head() is None
    with psycopg.connect(uri) as connection:
        found = connection.execute("SELECT to_regclass('storm_clinic_trail')").fetchone()
    assert found == (None,)


def test_the_same_events_make_the_same_chain_in_postgresql_and_in_a_file(trail, tmp_path):
    file = Trail.at(f"sqlite:///{tmp_path}/trail.db")
    with file.database.appending() as (_, insert):
        for row in trail.database.rows():
            insert(row)
    assert file.events() == trail.events()
    assert file.head() == trail.head()
    assert [event.seq for event in trail.events()] == [1, 2, 3]


def test_sql_alone_cannot_change_delete_or_empty_the_table(trail, uri):
    import psycopg

    for statement in (
        "UPDATE storm_clinic_trail SET body = ''",
        "DELETE FROM storm_clinic_trail",
        "TRUNCATE storm_clinic_trail",
    ):
        with pytest.raises(psycopg.Error, match="append-only"):
            _execute(uri, statement)
    assert len(trail.events()) == 3


def test_who_drops_the_triggers_and_edits_is_named(trail, uri):
    assert trail.database.missing_guards() == []
    _execute(
        uri,
        "DROP TRIGGER trail_no_update ON storm_clinic_trail",
        "ALTER TABLE storm_clinic_trail DISABLE TRIGGER trail_no_delete",
        "UPDATE storm_clinic_trail SET body = replace(body, 'web', 'hub') WHERE seq = 2",
    )
    assert trail.database.missing_guards() == ["trail_no_delete", "trail_no_update"]
    assert [str(found) for found in find_breaks(trail.database.rows())] == [
        "row 2 was edited: its digest does not fit its content"
    ]
    with pytest.raises(RegistryError, match="the trail was changed: row 2 was edited"):
        trail.append({"event": "note", "by": "a.weber"}, allowed=_anything)


def test_a_refused_event_leaves_no_row(trail):
    def refuse(events) -> None:
        raise RegistryError(f"no, after {len(events)}")

    with pytest.raises(RegistryError, match="no, after 3"):
        trail.append({"event": "note", "by": "a.weber"}, allowed=refuse)
    assert len(trail.events()) == 3


def test_a_server_that_does_not_answer_is_named_without_its_password():
    trail = Trail.at("postgresql://tester:top-secret@127.0.0.1:1/clinic?application_name=x")
    with pytest.raises(
        StorageError, match="storm_clinic_trail: the trail cannot be read"
    ) as caught:
        trail.events()
    assert "127.0.0.1:1/clinic" in str(caught.value)
    assert "top-secret" not in str(caught.value)


def test_a_place_that_is_no_database_is_refused():
    with pytest.raises(StorageError, match="a trail cannot be kept in 'mysql'"):
        open_trail_database("mysql://localhost/x")


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


def test_of_many_who_move_at_once_exactly_one_succeeds(uri):
    # The table is absent, so that they race to make it as well.
    command = [sys.executable, "-c", _LOCK_ONCE, uri]
    gate, opener = os.pipe()  # one pipe for all: closing it lets all go at once
    crowd = [subprocess.Popen(command, stdin=gate) for _ in range(4)]
    os.close(gate)
    os.close(opener)
    assert sorted(process.wait() for process in crowd) == [0, 3, 3, 3]
    assert len(Trail.at(uri).events()) == 1


# Forks itself after the slow imports. Each child appends and dies before its n-th step.
_DIE = """
import os, signal, sys
import psycopg
from storm_clinic.registry.trail import Trail, find_breaks

left = 10**6

def step():
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

class Mortal(psycopg.Connection):
    def execute(self, *arguments, **options):
        step()
        return super().execute(*arguments, **options)

    def commit(self):
        step()
        return super().commit()

psycopg.connect = Mortal.connect
trail = Trail.at(sys.argv[1])
for n in range(20):
    process = os.fork()
    if process == 0:
        left = n
        trail.append({"event": "locked", "by": "a.weber"}, allowed=lambda events: None)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    rows = trail.database.rows()
    print(code, len(rows), len(find_breaks(rows)))
    if code == 0:
        break
"""


def test_a_kill_before_any_statement_leaves_the_trail_before_or_after(trail, uri):
    command = [sys.executable, "-c", _DIE, uri]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *killed, last = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert last == (0, 4, 0), "the last round must have outlived every step"
    assert set(killed) == {(-signal.SIGKILL, 3, 0)}
    assert len(killed) > 5, "looking, locking, reading, INSERT and COMMIT are steps"
    trail.append({"event": "note", "by": "a.weber"}, allowed=_anything)


def test_a_trail_in_a_folder_that_may_not_be_written_can_be_read():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "mlruns")
        trail = Trail.at(f"sqlite:///{place}/trail.db")
        trail.append({"event": "note", "by": "a.weber"}, allowed=_anything)
        for path, mode in ((place / "trail.db", 0o444), (place, 0o555), (Path(folder), 0o755)):
            path.chmod(mode)
        before = os.geteuid()
        try:
            if before == 0:
                os.seteuid(65534)  # permissions do not bind root
            assert [event.kind for event in trail.events()] == ["note"]
            assert trail.database.missing_guards() == []
            with pytest.raises(StorageError, match="readonly database"):
                trail.append({"event": "note", "by": "a.weber"}, allowed=_anything)
        finally:
            os.seteuid(before)
            place.chmod(0o755)
