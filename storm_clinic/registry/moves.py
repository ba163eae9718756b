"""The governed life of a model version: every move, and where it is written.

The trail says what is true. Files are written before their event and count for nothing without
it; MLflow's tags and aliases are rewritten after it and are read by nobody here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from storm_clinic.bundle import read_bundle, required_models
from storm_clinic.errors import RegistryError, StorageError
from storm_clinic.files import Workspace
from storm_clinic.registry.decide import Approval, Decision
from storm_clinic.registry.mirror import create_version, digest_version, mirror_states
from storm_clinic.registry.people import named, stated
from storm_clinic.registry.rules import (
    cohorts_of,
    judged_on,
    licence_conflicts,
    require_independent,
    require_lockable,
    require_move,
)
from storm_clinic.registry.scorings import Scorings
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
    scorings : Scorings
        Predictions and evidence of locked models.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._database = Tracker(workspace).database
        uri = self._database.place.trail_uri
        self.trail = Trail.at(uri, sign=Signer.from_environment())
        self.scorings = Scorings(self.trail)

    def register(
        self, run: StudyRun, bundle_folder: Path, *, evidence_digest: str, by: str
    ) -> RegisteredModel:
        """Log a bundle through pyfunc as the study's next version: a candidate.

        The same bundle of the same run again is the version it became before.

        Parameters
        ----------
        run : StudyRun
            The open training.
        bundle_folder : Path
            What `write_bundle` wrote; copied.
        evidence_digest : str
            SHA-256 of what cross-validation found, which lies in the run.
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
        who = named(by)
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
            "evidence_digest": evidence_digest,
            "files": digest_version(logged.folder),
            "folder": logged.name,
            "run_id": run.run_id,
            "run_files": run.file_digests(),
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

    def find_in(self, reference: str, state: str) -> RegisteredModel:
        """A bare name's latest version in that state; any other reference as `find` takes it.

        So the message about a version in another state says which one it is in.

        Raises
        ------
        RegistryError
            As `find` does.
        """
        bare = not set(reference) & {":", "@"}
        return self.find(reference, states=(state,) if bare else STATES)

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
            files are not those that were registered, it has no clinical comparator, it was
            trained on a cohort that is to validate it or in a way that nobody can repeat, or a
            licence forbids what the study is for.
        """
        who = named(by)
        model = self.find(reference)
        require_lockable(model)
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
            "intended_use": study.intended_use,
            "licences_to_ask_about": [str(found) for found in licence_conflicts(model)],
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

    def promote(
        self, model: RegisteredModel, decision: Decision, approval: Approval
    ) -> RegisteredModel:
        """Record a decision; one that settles it moves locked → approved or rejected.

        Parameters
        ----------
        model : RegisteredModel
            Locked.
        decision : Decision
            What `decide` gave for the evidence on record and this approval.
        approval : Approval
            Who decides.

        Raises
        ------
        RegistryError
            If the version is not locked any more, something was validated or added since the
            decision, or an approval is by who trained or locked the model.
        """
        body = {
            "model": model.name,
            "version": model.version,
            "by": named(approval.by),
            "bundle_digest": model.bundle.digest,
            "decision": decision.model_dump(mode="json"),
            "accepts_reruns": approval.accepts_reruns,
        }

        def unchanged(events: Sequence[Event]) -> None:
            history = history_of(events, model.name, model.version)
            # A refusal is no move, but only what may be moved can be refused.
            settles = decision.verdict != "refused"
            require_move(history, decision.verdict if settles else "approved", body)
            if settles:
                require_independent(history, approval.by, where=model.reference)
            cohorts = cohorts_of(model, history)
            if judged_on(history, cohorts) != decision.evidence or approval.cohorts != cohorts:
                raise RegistryError(
                    "was validated on something else since the decision was made",
                    where=model.reference,
                    fix="Decide again.",
                )

        kind = "promotion_refused" if decision.verdict == "refused" else decision.verdict
        self.trail.append({"event": kind, **body}, allowed=unchanged)
        self._mirror(model.name)
        return self.find(model.reference)

    def retire(self, reference: str, *, by: str, reason: str) -> RegisteredModel:
        """Move approved → retired: it scores no more unless asked for it by that name.

        Parameters
        ----------
        reference : str
            As `find_in` takes it: a bare name is its latest approved version.
        by : str
            Who retires it.
        reason : str
            Why, in a sentence.

        Raises
        ------
        RegistryError
            If the version is not approved, or a file of it was changed.
        """
        model = self.find_in(reference, "approved")
        body = {
            "model": model.name,
            "version": model.version,
            "by": named(by),
            "bundle_digest": model.bundle.digest,
            "reason": stated(reason, where="reason"),
        }
        return self._move("retired", body)

    def _move(self, state: str, body: dict[str, Any]) -> RegisteredModel:
        """Append the event of a move, which is its commit, then mirror it to MLflow."""
        name, version = str(body["model"]), int(body["version"])

        def allowed(events: Sequence[Event]) -> None:
            require_move(history_of(events, name, version), state, body)

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
