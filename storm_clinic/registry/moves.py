"""The governed life of a model version: which moves exist, and the first of them.

The trail says what is true. Files are written before their event and count for nothing without
it; MLflow's tags and aliases are rewritten after it and are read by nobody here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from storm_clinic.bundle import read_bundle, required_models
from storm_clinic.errors import RegistryError, StorageError
from storm_clinic.files import Workspace
from storm_clinic.registry.mirror import create_version, digest_version, mirror_states
from storm_clinic.registry.signature import Signer
from storm_clinic.registry.trail import Event, Trail
from storm_clinic.registry.versions import (
    FROZEN,
    STATES,
    RegisteredModel,
    history_of,
    last_move,
    load_version,
    resolve_reference,
    states_of,
)
from storm_clinic.tracking import StudyRun, Tracker

# From each state (None: not registered) to those it may become. There are no other moves.
MOVES: dict[str | None, frozenset[str]] = {
    None: frozenset({"candidate"}),
    "candidate": frozenset({"locked"}),
    "locked": frozenset({"approved", "rejected"}),
    "approved": frozenset({"retired"}),
    "rejected": frozenset(),
    "retired": frozenset(),
}

_LONGEST_NAME = 100

_log = logging.getLogger(__name__)


class VersionState(NamedTuple):
    """One version, its state, and who moved it there when (UTC)."""

    model: str
    version: int
    state: str
    by: str
    when: datetime


class Registry:
    """Registered models of one workspace.

    Parameters
    ----------
    workspace : Workspace
        With ``mlruns/``.

    Attributes
    ----------
    trail : Trail
        ``mlruns/trail.db``, or a table of the team's PostgreSQL.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._database = Tracker(workspace).database
        uri = self._database.place.trail_uri
        self.trail = Trail.at(uri, sign=Signer.from_environment())

    def register(self, run: StudyRun, bundle_folder: Path, *, by: str) -> RegisteredModel:
        """Log a bundle through pyfunc as the study's next version: a candidate.

        The same bundle of the same run again is the version it became before.

        Parameters
        ----------
        run : StudyRun
            The open training.
        bundle_folder : Path
            What `write_bundle` wrote; copied.
        by : str
            Who trained.

        Raises
        ------
        RegistryError
            If the bundle is damaged or of another study, or MLflow gives a number that was used
            before (the registered model was deleted there).
        """
        bundle = read_bundle(bundle_folder)
        if bundle.study.digest != run.study.digest:
            raise RegistryError("answers another study than the run", where=bundle_folder)
        who = _name(by)
        for event in self.trail.events():
            made = (event.body.get("run_id"), event.body.get("bundle_digest"))
            if event.kind == "candidate" and made == (run.run_id, bundle.digest):
                self._mirror(str(event.body["model"]))
                return self.find(f"{event.body['model']}:{event.body['version']}")
        logged = create_version(self._database, bundle, run_id=run.run_id)
        body = {
            "model": bundle.study.study,
            "version": logged.version,
            "by": who,
            "bundle_digest": bundle.digest,
            "study_digest": bundle.study.digest,
            "files": digest_version(logged.folder),
            "folder": logged.name,
            "run_id": run.run_id,
            "model_id": logged.model_id,
        }
        return self._move("candidate", body)

    def find(self, reference: str, *, states: Collection[str] = STATES) -> RegisteredModel:
        """Load a version and verify every byte of it against the trail.

        Parameters
        ----------
        reference : str
            ``name:version``; ``name@state``, the latest version in that state; or ``name``, the
            latest version in one of ``states``.
        states : collection of str
            States to accept.

        Raises
        ------
        RegistryError
            If there is no such version, it is in another state, or a file of it was changed.
        """
        events = self.trail.events()
        name, version = resolve_reference(reference, events, states=states)
        return load_version(self._database.files, events, name, version)

    def versions(self) -> list[VersionState]:
        """Every version of every model by its last move, in order of name and version."""
        events = self.trail.events()
        found = sorted({(str(e.body["model"]), int(e.body["version"])) for e in events})
        moves = [last_move(history_of(events, name, version)) for name, version in found]
        return [
            VersionState(name, version, move.kind, move.by, move.when)
            for (name, version), move in zip(found, moves, strict=True)
            if move is not None
        ]

    def trained_in(self, run_id: str) -> RegisteredModel:
        """The version that a training registered, in whatever state it is by now.

        Raises
        ------
        RegistryError
            If that run registered none, or a file of it was changed.
        """
        for event in reversed(self.trail.events()):
            if event.kind == "candidate" and event.body["run_id"] == run_id:
                return self.find(f"{event.body['model']}:{event.body['version']}")
        raise RegistryError(f"run {run_id} registered no model", where="trail")

    def lock(self, reference: str, *, by: str) -> RegisteredModel:
        """Move candidate → locked: weights, preprocessing, thresholds and claims are frozen.

        Parameters
        ----------
        reference : str
            As `find` takes it; a bare name is its latest version.
        by : str
            Who locks, by name.

        Raises
        ------
        RegistryError
            If the version is not a candidate (one that is locked cannot be locked again), its
            files are not those that were registered, it has no clinical comparator, or it was
            trained on a cohort that is to validate it.
        """
        who = _name(by)
        model = self.find(reference)
        _require_lockable(model)
        study = model.bundle.study
        body = {
            "model": model.name,
            "version": model.version,
            "by": who,
            "bundle_digest": model.bundle.digest,
            "study_digest": study.digest,
            "models": list(required_models(study)),
            "claims": [claim.model_dump(mode="json", exclude_none=True) for claim in study.claims],
            "validation": list(study.validation),
        }
        return self._move("locked", body)

    def locked_model(self, reference: str) -> RegisteredModel:
        """Load a version that is locked, or was approved since, and verify it against the lock.

        A bare name is its latest such version.

        Raises
        ------
        RegistryError
            If there is none, or a file of it was changed.
        """
        return self.find(reference, states=FROZEN)

    def seal_predictions(
        self, model: RegisteredModel, *, cohort: str, predictions_digest: str, by: str
    ) -> Event:
        """Record the digest of a cohort's predictions before any outcome is read.

        The same digest again returns the first seal, so that a validation that was interrupted
        can go on; another digest is refused.

        Raises
        ------
        RegistryError
            If the version is not locked, the cohort was not named before locking, or it was
            scored before with other predictions.
        """
        body = _about(model, cohort, by) | {
            "event": "predictions_sealed",
            "predictions_digest": predictions_digest,
        }
        if cohort not in model.bundle.study.validation:
            named = ", ".join(model.bundle.study.validation) or "none"
            raise RegistryError(
                f"{cohort!r} is no validation cohort of this model; named before locking: {named}",
                where=model.reference,
            )
        earlier = _find_seal(model, cohort, self.trail.events())
        if earlier is not None and earlier.body["predictions_digest"] == predictions_digest:
            return earlier

        def allowed(events: Sequence[Event]) -> None:
            _require_frozen(model, events)
            if _find_seal(model, cohort, events) is not None:
                raise RegistryError(
                    f"{cohort} was scored before with other predictions; a locked model scores a "
                    "cohort once",
                    where=model.reference,
                )

        return self.trail.append(body, allowed=allowed)

    def record_validation(
        self, model: RegisteredModel, *, cohort: str, evidence_digest: str, run_id: str, by: str
    ) -> Event:
        """Record the digest of a cohort's evidence, once, after its predictions were sealed.

        Parameters
        ----------
        model : RegisteredModel
            As `locked_model` gave it.
        cohort : str
            The cohort that was scored.
        evidence_digest : str
            SHA-256 of ``evidence.json``.
        run_id : str
            MLflow's run that holds predictions and evidence.
        by : str
            Who validated.

        Raises
        ------
        RegistryError
            If the version is not locked, the predictions were not sealed, or the cohort was
            validated before.
        """
        body = _about(model, cohort, by) | {
            "event": "validated",
            "evidence_digest": evidence_digest,
            "run_id": run_id,
        }

        def allowed(events: Sequence[Event]) -> None:
            _require_frozen(model, events)
            if _find_seal(model, cohort, events) is None:
                raise RegistryError(
                    f"predictions on {cohort} were not sealed before outcomes were read",
                    where=model.reference,
                )
            for event in history_of(events, model.name, model.version):
                if event.kind == "validated" and event.body["cohort"] == cohort:
                    raise RegistryError(
                        f"was validated on {cohort} by {event.by} on {event.when:%Y-%m-%d}; "
                        "a model is validated once on a cohort",
                        where=model.reference,
                    )

        return self.trail.append(body, allowed=allowed)

    def _move(self, state: str, body: dict[str, Any]) -> RegisteredModel:
        """Append the event of a move, which is its commit, then mirror it to MLflow."""
        name, version = str(body["model"]), int(body["version"])

        def allowed(events: Sequence[Event]) -> None:
            _require_move(history_of(events, name, version), state, body)

        self.trail.append({"event": state, **body}, allowed=allowed)
        self._mirror(name)
        return self.find(f"{name}:{version}")

    def _mirror(self, name: str) -> None:
        try:
            mirror_states(self._database, name, states_of(self.trail.events(), name))
        except StorageError as error:
            _log.warning(
                "The move is made and recorded; MLflow's tags and aliases lag behind until the "
                "next one (%s).",
                error,
            )


def _require_frozen(model: RegisteredModel, events: Sequence[Event]) -> None:
    move = last_move(history_of(events, model.name, model.version))
    if move is None or move.kind not in FROZEN:
        raise RegistryError(
            f"is {move.kind if move else 'not registered'}, not locked",
            where=model.reference,
            fix="Lock it before validating.",
        )


def _find_seal(model: RegisteredModel, cohort: str, events: Sequence[Event]) -> Event | None:
    for event in history_of(events, model.name, model.version):
        if event.kind == "predictions_sealed" and event.body["cohort"] == cohort:
            return event
    return None


def _require_lockable(model: RegisteredModel) -> None:
    study = model.bundle.study
    if study.comparator is None:
        raise RegistryError(
            "no model of the study sees clinical covariates alone, so that nothing could show "
            "what the candidate adds",
            where=model.reference,
            fix="Add a model with inputs: [clinical] to the study and train again.",
        )
    missing = sorted(set(required_models(study)) - set(model.bundle.models))
    if missing:
        raise RegistryError(
            f"lacks {', '.join(missing)}, which is compared with", where=model.reference
        )
    seen = sorted(set(model.bundle.manifest.training) & set(study.validation))
    if seen:
        raise RegistryError(
            f"was trained on {', '.join(seen)}, which is to validate it", where=model.reference
        )


def _about(model: RegisteredModel, cohort: str, by: str) -> dict[str, Any]:
    return {"model": model.name, "version": model.version, "cohort": cohort, "by": _name(by)}


def _require_move(history: Sequence[Event], state: str, body: Mapping[str, Any]) -> None:
    """Refuse a move that the table does not have, or that names another bundle than before."""
    reference = f"{body['model']}:{body['version']}"
    last = last_move(history)
    current = last.kind if last else None
    if state not in MOVES[current]:
        since = f" since {last.when:%Y-%m-%d} by {last.by}" if last else ""
        possible = " or ".join(sorted(MOVES[current])) or "nothing else"
        raise RegistryError(
            f"is {current or 'not registered'}{since}; from there it can become {possible}, "
            f"not {state}",
            where=reference,
        )
    if last and last.body["bundle_digest"] != body["bundle_digest"]:
        raise RegistryError("is another bundle than was registered", where=reference)


def _name(by: str) -> str:
    if not by.strip() or not by.isprintable() or len(by) > _LONGEST_NAME:
        raise RegistryError(f"{by!r} is no name of a person", where="by", fix="Write e.g. a.weber.")
    return by.strip()
