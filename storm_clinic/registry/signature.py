"""Signatures of events with an ssh key, made and verified by OpenSSH's own ``ssh-keygen -Y``.

What is signed is the digest of the row before and the body of this one, so that a signature is good
in one place of one chain only, and vouches for every row before it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from storm_clinic.errors import RegistryError

KEY_VARIABLE = "STORM_CLINIC_SIGNING_KEY"
ALLOWED_SIGNERS = "allowed_signers"  # beside the trail, where no other list is given
NAMESPACE = "storm-clinic"  # a signature made for anything else does not verify here

_PROGRAM = "ssh-keygen"
_WAIT_SECONDS = 25  # to type a passphrase or touch a token; others wait 30 s for the trail
_FINGERPRINT = re.compile(r"with (\S+ key \S+)")

Status = Literal["good", "other key", "bad"]


@dataclass(frozen=True)
class Signer:
    """Signs with one key.

    Attributes
    ----------
    key : Path
        A private key; or a public one whose private half an ssh agent holds.
    """

    key: Path

    @classmethod
    def from_environment(cls) -> Signer | None:
        """The key that ``$STORM_CLINIC_SIGNING_KEY`` names; None where it is not set."""
        chosen = os.environ.get(KEY_VARIABLE)
        return cls(Path(chosen).expanduser()) if chosen else None

    def sign(self, message: bytes) -> str:
        """The signature of a message, as PEM text.

        Raises
        ------
        RegistryError
            If ssh-keygen is not installed, cannot read the key, or gives no answer.
        """
        done = _run("sign", "-f", str(self.key), message=message)
        if done.returncode != 0:
            raise RegistryError(
                f"cannot sign: {_said(done)}",
                where=self.key,
                fix=f"Set {KEY_VARIABLE} to an ssh key that you may read, or unset it to leave "
                "events unsigned.",
            )
        return done.stdout.decode()


@dataclass(frozen=True)
class Verdict:
    """What a signature is worth.

    Attributes
    ----------
    status : str
        ``good``: by a key that the list gives to that name. ``other key``: it fits the message,
        but by a key that the list does not give to that name at that time, or there is no list.
        ``bad``: it does not fit the message, or is none.
    key : str
        Kind and fingerprint of the key; empty if bad.
    """

    status: Status
    key: str = ""


def verify(
    message: bytes, signature: str, *, by: str, when: datetime, allowed_signers: Path | None
) -> Verdict:
    """Hold a signature against a message, a name, and the list of who has which key.

    Parameters
    ----------
    message : bytes
        What was signed.
    signature : str
        PEM text, from anywhere: it may be no signature at all.
    by : str
        Who says to have signed.
    when : datetime
        When; keys of the list may be valid for a time only.
    allowed_signers : Path, optional
        In OpenSSH's format: a line ``name key-type key`` each.

    Raises
    ------
    RegistryError
        If ssh-keygen is not installed.
    """
    with tempfile.NamedTemporaryFile(suffix=".sig") as file:
        file.write(signature.encode("utf-8", "replace"))
        file.flush()
        named = ("-s", file.name)
        if allowed_signers is not None and _is_plain(by):
            at = f"-Overify-time={when.astimezone(UTC):%Y%m%d%H%M%S}Z"
            listed = ("-f", str(allowed_signers), "-I", by, at)
            done = _run("verify", *listed, *named, message=message)
            if done.returncode == 0:
                return Verdict("good", _fingerprint(done))
        done = _run("check-novalidate", *named, message=message)
    if done.returncode != 0:
        return Verdict("bad")
    return Verdict("other key", _fingerprint(done))


def is_listed(by: str, allowed_signers: Path) -> bool:
    """Whether the list gives any key to that name.

    Raises
    ------
    RegistryError
        If ssh-keygen is not installed.
    """
    return _is_plain(by) and (
        _run("match-principals", "-f", str(allowed_signers), "-I", by).returncode == 0
    )


def _run(action: str, *arguments: str, message: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [_PROGRAM, "-Y", action, "-n", NAMESPACE, *arguments]
    try:
        return subprocess.run(
            command, input=message, capture_output=True, check=False, timeout=_WAIT_SECONDS
        )
    except FileNotFoundError as error:
        raise RegistryError(
            "is not installed, so that signatures can be neither made nor verified",
            where=_PROGRAM,
            fix="Install OpenSSH's client.",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RegistryError(
            f"gave no answer in {_WAIT_SECONDS} s",
            where=_PROGRAM,
            fix="Load the key into an ssh agent first (ssh-add), then run the same again.",
        ) from error


def _is_plain(by: str) -> bool:
    # Anything else stands on no list, and a NUL could not even be handed over.
    return bool(by) and by.isprintable()


def _fingerprint(done: subprocess.CompletedProcess[bytes]) -> str:
    found = _FINGERPRINT.search(done.stdout.decode("utf-8", "replace"))
    return found[1] if found else "a key"


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode("utf-8", "replace").split()) or "no reason given"
