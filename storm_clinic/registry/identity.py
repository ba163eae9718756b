"""Keys that stand for patients and slides wherever an id may not go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from storm_clinic.files import Workspace


class PatientKeys:
    """HMAC-SHA256 of ids under one institution secret."""

    key_id: str

    def __init__(self, secret: bytes) -> None:
        raise NotImplementedError

    def patient_key(self, patient_id: str) -> str:
        """Key of one patient: 32 hex characters."""
        raise NotImplementedError

    def patient_keys(self, patient_ids: Iterable[str]) -> tuple[str, ...]:
        """Keys of many patients, in order."""
        raise NotImplementedError

    def slide_key(self, slide_id: str) -> str:
        """Key of one slide: 32 hex characters; never equal to a patient's key."""
        raise NotImplementedError


def secret_path() -> Path:
    """Where the secret lies: $STORM_CLINIC_SECRET_FILE, else ~/.config/storm_clinic/secret."""
    raise NotImplementedError


def load_keys(workspace: Workspace) -> PatientKeys:
    """Read the secret, making it on first use in the default place."""
    raise NotImplementedError
