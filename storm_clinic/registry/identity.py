"""Keys that stand for patients and slides wherever an id may not go.

A key is an HMAC-SHA256 of the id under one secret of the institution. Whoever has the secret can
link keys to ids they already know; whoever lacks it can do neither that nor guess ids by trying.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from storm_clinic.errors import InputError, StorageError
from storm_clinic.files import Workspace, storage_errors

SECRET_VARIABLE = "STORM_CLINIC_SECRET_FILE"
_KEY_CHARACTERS = 32  # 128 bits: two of a billion patients share a key with chance 1e-21
_SHORTEST_SECRET = 32

_log = logging.getLogger(__name__)


class PatientKeys:
    """Keys under one secret.

    Parameters
    ----------
    secret : bytes
        At least 32 bytes.

    Attributes
    ----------
    key_id : str
        16 hex characters that name the secret without giving it away: keys compare only where
        this is equal.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _SHORTEST_SECRET:
            raise InputError(
                f"the secret has {len(secret)} bytes, fewer than {_SHORTEST_SECRET}",
                where="institution secret",
                fix="Put back the one that was used before, or make one: openssl rand -hex 32",
            )
        self._secret = secret
        self.key_id = self._digest("secret", "")[:16]

    def __repr__(self) -> str:
        return f"PatientKeys(key_id={self.key_id!r})"

    def patient_key(self, patient_id: str) -> str:
        """Key of one patient: 32 hex characters.

        Space around the id is dropped and its Unicode form made one (NFC); case counts, so write
        ids alike in all cohorts.

        Raises
        ------
        InputError
            If the id is empty or no text.
        """
        return self._digest("patient", _normal(patient_id))[:_KEY_CHARACTERS]

    def patient_keys(self, patient_ids: Iterable[str]) -> tuple[str, ...]:
        """Keys of many patients, in order."""
        return tuple(map(self.patient_key, patient_ids))

    def slide_key(self, slide_id: str) -> str:
        """Key of one slide: 32 hex characters; never that of a patient with the same id."""
        return self._digest("slide", _normal(slide_id))[:_KEY_CHARACTERS]

    def _digest(self, kind: str, text: str) -> str:
        message = f"storm_clinic {kind}\0{text}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()


def secret_path() -> Path:
    """Where the secret lies.

    ``$STORM_CLINIC_SECRET_FILE`` where it is set, else ``storm_clinic/secret`` under
    ``$XDG_CONFIG_HOME`` or ``~/.config``.
    """
    chosen = os.environ.get(SECRET_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "storm_clinic" / "secret"


def load_keys(workspace: Workspace) -> PatientKeys:
    """Read the secret, making one of 32 random bytes on first use.

    Raises
    ------
    InputError
        If it lies inside the workspace (where it would be shared together with the keys), others
        than its owner and group may read it, or it is too short.
    StorageError
        If it can be neither read nor made.
    """
    path = secret_path()
    if path.resolve().is_relative_to(workspace.root.resolve()):
        raise InputError(
            "the secret lies inside the workspace, which is shared with others",
            where=path,
            fix=f"Move it elsewhere and set {SECRET_VARIABLE} to its new place.",
        )
    try:
        if not path.exists():
            _create(path)
        with path.open("rb") as handle:
            _check_mode(path, os.fstat(handle.fileno()).st_mode)
            return PatientKeys(handle.read().strip())
    except OSError as error:
        raise StorageError(
            f"the secret can be neither read nor made: {error.strerror}",
            where=path,
            fix=f"Check its permissions, or set {SECRET_VARIABLE} to a file that you may read.",
        ) from error


def _create(path: Path) -> None:
    """Make the secret in one step that only one of several processes can win."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)  # fails where the secret came into being meanwhile
        except FileExistsError:
            return
        finally:
            part.unlink()
    _log.warning(
        "A new institution secret was made at %s. Back it up: without it, keys of patients in "
        "this registry cannot be compared with those of later cohorts.",
        path,
    )


def _check_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(mode) & (stat.S_IRWXO | stat.S_IWGRP):
        raise InputError(
            f"others may read or change the secret (mode {stat.S_IMODE(mode):o})",
            where=path,
            fix=f"chmod 600 {path}",
        )


def _normal(text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{text!r} is no id", where="patient or slide id")
    return unicodedata.normalize("NFC", text.strip())
