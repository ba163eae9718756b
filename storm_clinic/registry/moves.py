"""The governed life of a model version: which moves exist, and the first of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storm_clinic.bundle import Bundle
from storm_clinic.files import Workspace
from storm_clinic.registry.trail import Event, Trail
from storm_clinic.tracking import StudyRun, Tracker

MOVES: dict[str | None, frozenset[str]] = {
    None: frozenset({"candidate"}),
    "candidate": frozenset({"locked"}),
    "locked": frozenset({"approved", "rejected"}),
    "approved": frozenset({"retired"}),
    "rejected": frozenset(),
    "retired": frozenset(),
}


@dataclass(frozen=True)
class RegisteredModel:
    """One verified version of a registered model."""

    name: str
    version: int
    state: str
    bundle: Bundle
    events: tuple[Event, ...]

    @property
    def reference(self) -> str:
        """``name:version``, as every verb takes it."""
        raise NotImplementedError


class Registry:
    """Registered models of one workspace: MLflow holds the files, the trail says what is true."""

    trail: Trail
    tracker: Tracker

    def __init__(self, workspace: Workspace, tracker: Tracker | None = None) -> None:
        raise NotImplementedError

    def register(self, run: StudyRun, bundle_folder: Path, *, by: str) -> RegisteredModel:
        """Log a bundle through pyfunc as the study's next version: a candidate."""
        raise NotImplementedError

    def find(self, reference: str, *, state: str | None = None) -> RegisteredModel:
        """Load ``name``, ``name:version`` or ``name@state`` and verify every byte.

        A bare name is its latest version (in that ``state``, where one is asked for).
        """
        raise NotImplementedError

    def lock(self, reference: str, *, by: str) -> RegisteredModel:
        """Freeze a candidate: weights, preprocessing, thresholds, claims and cohorts are frozen."""
        raise NotImplementedError

    def locked_model(self, reference: str) -> RegisteredModel:
        """Load a version that is locked (or was approved since) and verify it against the lock."""
        raise NotImplementedError

    def seal_predictions(
        self, model: RegisteredModel, *, cohort: str, predictions_digest: str, by: str
    ) -> Event:
        """Record the digest of a cohort's predictions before any outcome is read.

        The same digest again returns the first seal (a resumed validation); another is refused.
        """
        raise NotImplementedError

    def record_validation(
        self, model: RegisteredModel, *, cohort: str, evidence_digest: str, run_id: str, by: str
    ) -> Event:
        """Record the digest of a cohort's evidence, once, after its predictions were sealed."""
        raise NotImplementedError
