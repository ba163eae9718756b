"""A signature says who, and binds an event to its place in one chain."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from storm_clinic.errors import RegistryError
from storm_clinic.registry.audit import audit_chain, find_allowed_signers
from storm_clinic.registry.findings import Kind
from storm_clinic.registry.signature import Signer
from storm_clinic.registry.trail import Trail

needs_ssh = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None,
    reason="ssh-keygen is absent: apt-get install openssh-client",
)


def _anything(events) -> None:
    """Allow every event."""


def _key(folder: Path, name: str) -> Path:
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: _key(folder, name) for name in ("weber", "meier")}


@pytest.fixture
def signers(keys, tmp_path) -> Path:
    path = tmp_path / "allowed_signers"
    public = {name: key.with_suffix(".pub").read_text().strip() for name, key in keys.items()}
    path.write_text(f"a.weber {public['weber']}\nb.meier {public['meier']}\n")
    return path


@pytest.fixture
def place(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/trail.db"


def _append(place: str, by: str, key: Path | None = None, **body) -> None:
    trail = Trail.at(place, sign=None if key is None else Signer(key))
    trail.append({"event": "note", "by": by, **body}, allowed=_anything)


def _kinds(place: str, signers: Path | None) -> list[Kind]:
    found = audit_chain(Trail.at(place), allowed_signers=signers).findings
    return [item.kind for item in found if item.kind is not Kind.EVENT_UNKNOWN]


def _rewrite(place: str, edit) -> None:
    """Edit bodies and compute the whole chain again."""
    path = place.removeprefix("sqlite:///")
    old = [json.loads(row[3]) for row in Trail.at(place).database.rows()]
    Path(path).unlink()
    for body in edit(old):
        clock = body.pop("when")
        with Trail.at(place).database.appending() as (rows, insert):
            insert(_sealed(rows, {**body, "when": clock}))


def _sealed(rows, body):
    import hashlib

    seq, previous = len(rows) + 1, rows[-1][2] if rows else "0" * 64
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{seq}\n{previous}\n{text}".encode()).hexdigest()
    return seq, previous, digest, text


@needs_ssh
def test_a_signature_is_what_ssh_keygen_itself_verifies(place, keys, signers, tmp_path):
    _append(place, "b.meier")
    _append(place, "a.weber", keys["weber"])
    (_, _, first, _), (_, _, _, text) = Trail.at(place).database.rows()
    body = json.loads(text)
    (tmp_path / "sig").write_text(body.pop("signature"))
    message = first + "\n" + json.dumps(body, sort_keys=True, separators=(",", ":"))
    command = ["ssh-keygen", "-Y", "verify", "-n", "storm-clinic", "-I", "a.weber"]
    command += ["-f", str(signers), "-s", str(tmp_path / "sig")]
    subprocess.run(command, input=message.encode(), check=True, capture_output=True)


@needs_ssh
def test_events_are_counted_as_signed_or_as_statements(place, keys, signers):
    _append(place, "c.trainer")
    _append(place, "a.weber", keys["weber"])
    found = audit_chain(Trail.at(place), allowed_signers=signers)
    assert (found.signed, found.unsigned) == (1, 1)
    assert _kinds(place, signers) == []


@needs_ssh
def test_without_a_list_it_is_said_that_nobody_is_known(place, keys):
    _append(place, "a.weber", keys["weber"])
    found = audit_chain(Trail.at(place))
    assert found.signed == 0
    assert "who signed is not" in found.notes[0]
    assert _kinds(place, None) == []


@needs_ssh
@pytest.mark.parametrize("by", ["b.meier", "nobody", "-f", "a.weber\nx", "*"])
def test_a_key_that_the_list_does_not_give_to_that_name_is_named(place, keys, signers, by):
    _append(place, by, keys["weber"])
    found = audit_chain(Trail.at(place), allowed_signers=signers).findings
    other = next(item for item in found if item.kind is Kind.SIGNATURE_BY_OTHER)
    assert f"which the list does not give to {by!r}" in str(other)
    assert "ED25519 key SHA256:" in other.found


@needs_ssh
def test_a_key_counts_only_while_the_list_says_that_it_is_valid(place, keys, signers):
    _append(place, "a.weber", keys["weber"])
    public = keys["weber"].with_suffix(".pub").read_text()
    signers.write_text(f'a.weber valid-before="20200101" {public}')
    assert _kinds(place, signers) == [Kind.SIGNATURE_BY_OTHER]


@needs_ssh
def test_a_chain_that_was_wholly_written_anew_is_seen_by_its_signatures(place, keys, signers):
    _append(place, "c.trainer", number=1)
    _append(place, "a.weber", keys["weber"])
    _rewrite(place, lambda bodies: [{**bodies[0], "number": 2}, bodies[1]])
    # The unsigned row was edited; the signed one after it vouches for what was before.
    assert _kinds(place, signers) == [Kind.SIGNATURE_BAD]


@needs_ssh
def test_a_signed_event_in_another_place_is_named(place, keys, signers):
    _append(place, "a.weber", keys["weber"], number=1)
    _append(place, "b.meier", keys["meier"], number=2)
    _rewrite(place, lambda bodies: [{**bodies[1], "when": bodies[0]["when"]}, bodies[0]])
    assert _kinds(place, signers) == [Kind.SIGNATURE_BAD, Kind.SIGNATURE_BAD]


@needs_ssh
def test_who_leaves_signatures_out_is_named(place, keys, signers):
    _append(place, "a.weber", keys["weber"])
    _append(place, "c.trainer")
    _rewrite(
        place, lambda bodies: [{k: v for k, v in b.items() if k != "signature"} for b in bodies]
    )
    assert _kinds(place, signers) == [Kind.SIGNATURE_MISSING]


@needs_ssh
def test_what_somebody_did_before_they_had_a_key_is_no_fault(place, keys, signers):
    _append(place, "a.weber")
    _append(place, "a.weber", keys["weber"])
    assert _kinds(place, signers) == []
    _append(place, "a.weber")
    assert _kinds(place, signers) == [Kind.SIGNATURE_MISSING]


@needs_ssh
@pytest.mark.parametrize("signature", ["", "no PEM", 7, {"a": []}, "\ud800"])
def test_what_is_no_signature_is_named(place, keys, signers, signature):
    _append(place, "a.weber", keys["weber"])
    _rewrite(place, lambda bodies: [{**bodies[0], "signature": signature}])
    assert _kinds(place, signers) == [Kind.SIGNATURE_BAD]


@needs_ssh
def test_an_event_that_cannot_be_signed_is_not_appended(place, tmp_path, monkeypatch):
    monkeypatch.setenv("STORM_CLINIC_SIGNING_KEY", str(tmp_path / "absent"))
    trail = Trail.at(place, sign=Signer.from_environment())
    with pytest.raises(RegistryError, match=r"absent: cannot sign: .*STORM_CLINIC_SIGNING_KEY"):
        trail.append({"event": "note", "by": "a.weber"}, allowed=_anything)
    assert trail.events() == ()


def test_without_the_variable_nothing_is_signed(place, monkeypatch):
    monkeypatch.delenv("STORM_CLINIC_SIGNING_KEY", raising=False)
    assert Signer.from_environment() is None


def test_where_ssh_keygen_is_absent_signatures_count_as_unchecked(place, monkeypatch, signers):
    _append(place, "a.weber", signature="PEM")
    monkeypatch.setenv("PATH", "")
    found = audit_chain(Trail.at(place), allowed_signers=signers)
    unchecked = [item for item in found.findings if item.kind is Kind.SIGNATURE_UNCHECKED]
    assert "1 signed events could not be verified: ssh-keygen: is not installed" in str(
        unchecked[0]
    )
    assert found.signed == 0


def test_a_list_beside_the_trail_is_used_and_said_to_be_no_safer_than_it(tmp_path):
    assert find_allowed_signers(tmp_path, None) == (None, ())
    (tmp_path / "allowed_signers").write_text("")
    found, notes = find_allowed_signers(tmp_path, None)
    assert found == tmp_path / "allowed_signers"
    assert "who can change one can change the other" in notes[0]
    (tmp_path / "elsewhere").write_text("")
    assert find_allowed_signers(tmp_path, tmp_path / "elsewhere") == (tmp_path / "elsewhere", ())
    with pytest.raises(RegistryError, match="is no list of signers"):
        find_allowed_signers(tmp_path, tmp_path / "absent")
