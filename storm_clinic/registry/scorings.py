"""Which cohorts a locked model scored, when, and what came out: the events between two moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storm_clinic.errors import RegistryError
from storm_clinic.files import safe_name
from storm_clinic.registry.people import named, stated
from storm_clinic.registry.rules import Attempt, attempts_on, cohorts_of, require_frozen
from storm_clinic.registry.trail import Event, Trail
from storm_clinic.registry.versions import RegisteredModel


class Scorings:
    """Predictions and evidence of locked models in the trail.

    Parameters
    ----------
    trail : Trail
    """

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    def add_cohort(
        self,
        model: RegisteredModel,
        cohort: str,
        *,
        plan: str,
        by: str,
        plan_digest: str | None = None,
    ) -> Event:
        """Name one more validation cohort after the lock; the study stays as it was locked.

        Parameters
        ----------
        model : RegisteredModel
            Locked or approved.
        cohort : str
            Not trained on, and not named before.
        plan : str
            Which plan says so, in a sentence.
        by : str
            Who adds it.
        plan_digest : str, optional
            SHA-256 of the plan's file.

        Raises
        ------
        RegistryError
            If the version is not locked, or the cohort was trained on or named before.
        """
        safe_name(cohort, what="cohort")
        if cohort in model.bundle.manifest.training:
            raise RegistryError(
                f"was trained on {cohort}, which cannot validate it", where=model.reference
            )
        body = _about(model, cohort, by) | {
            "event": "cohort_added",
            "plan": stated(plan, where="plan"),
            "plan_digest": plan_digest,
        }

        def allowed(events: Sequence[Event]) -> None:
            if cohort in cohorts_of(model, require_frozen(model, events)):
                raise RegistryError(f"{cohort} is named already", where=model.reference)

        return self._trail.append(body, allowed=allowed)

    def attempts(self, model: RegisteredModel, cohort: str) -> tuple[Attempt, ...]:
        """Every scoring of a cohort by that version, oldest first."""
        return attempts_on(require_frozen(model, self._trail.events()), cohort)

    def cohorts(self, model: RegisteredModel) -> tuple[str, ...]:
        """Cohorts to validate on, as the trail has them now."""
        return cohorts_of(model, require_frozen(model, self._trail.events()))

    def seal(
        self,
        model: RegisteredModel,
        *,
        cohort: str,
        predictions_digest: str,
        run_id: str,
        inputs: Mapping[str, str],
        by: str,
        rerun: str | None = None,
    ) -> Event:
        """Record the digest of a cohort's predictions before any outcome is read.

        Parameters
        ----------
        model : RegisteredModel
            As `Registry.locked_model` gave it.
        cohort : str
            Named in the study or added since.
        predictions_digest : str
            SHA-256 of the file of predictions.
        run_id : str
            MLflow's run that holds it.
        inputs : dict of str to str
            SHA-256 of what was read to make them, by names that hold no id.
        by : str
            Who validates.
        rerun : str, optional
            Why the cohort is scored again, although it was before; both stay.

        Raises
        ------
        RegistryError
            If the version is not locked, the cohort was never named, it was scored before and no
            reason for another run is given, or a reason is given where nothing was scored.
        """
        body = _about(model, cohort, by) | {
            "event": "predictions_sealed",
            "predictions_digest": predictions_digest,
            "run_id": run_id,
            "inputs": dict(inputs),
        }
        if rerun is not None:
            body["rerun"] = stated(rerun, where="reason of the re-run")

        def allowed(events: Sequence[Event]) -> None:
            history = require_frozen(model, events)
            names = cohorts_of(model, history)
            if cohort not in names:
                raise RegistryError(
                    f"{cohort!r} is no validation cohort of this model; named are: "
                    f"{', '.join(names) or 'none'}",
                    where=model.reference,
                )
            require_first_or_reason(attempts_on(history, cohort), rerun, model, cohort)

        return self._trail.append(body, allowed=allowed)

    def record(
        self,
        model: RegisteredModel,
        *,
        cohort: str,
        evidence_digest: str,
        run_id: str,
        run_files: Mapping[str, Mapping[str, str]],
        by: str,
    ) -> Event:
        """Record the digest of a cohort's evidence, once a scoring, after predictions were sealed.

        Parameters
        ----------
        model : RegisteredModel
            As `Registry.locked_model` gave it.
        cohort : str
            The cohort that was scored.
        evidence_digest : str
            SHA-256 of ``evidence.json``.
        run_id : str
            MLflow's run that holds predictions and evidence.
        run_files : dict of run id to dict of path to str
            SHA-256 of every file of that run, as `RunLog.file_digests` gives them.
        by : str
            Who validated.

        Raises
        ------
        RegistryError
            If the version is not locked, the predictions were not sealed, or their outcomes were
            joined before.
        """
        body = _about(model, cohort, by) | {
            "event": "validated",
            "evidence_digest": evidence_digest,
            "run_id": run_id,
            "run_files": {run: dict(files) for run, files in run_files.items()},
        }

        def allowed(events: Sequence[Event]) -> None:
            attempts = attempts_on(require_frozen(model, events), cohort)
            if not attempts:
                raise RegistryError(
                    f"predictions on {cohort} were not sealed before outcomes were read",
                    where=model.reference,
                )
            done = attempts[-1].validated
            if done is not None:
                raise RegistryError(
                    f"was validated on {cohort} by {done.by} on {done.when:%Y-%m-%d}; "
                    "a model is validated once on a cohort",
                    where=model.reference,
                )

        return self._trail.append(body, allowed=allowed)


def require_first_or_reason(
    attempts: Sequence[Attempt], rerun: str | None, model: RegisteredModel, cohort: str
) -> None:
    """Refuse a second scoring without a reason, and a reason without a first scoring.

    Raises
    ------
    RegistryError
    """
    if attempts and rerun is None:
        seal = attempts[-1].seal
        raise RegistryError(
            f"{cohort} was scored before, by {seal.by} on {seal.when:%Y-%m-%d}; a locked model "
            "scores a cohort once",
            where=model.reference,
            fix="To score it again, say why; both scorings stay on record.",
        )
    if rerun is not None and not attempts:
        raise RegistryError(
            f"{cohort} was not scored before, so that this is no re-run", where=model.reference
        )


def _about(model: RegisteredModel, cohort: str, by: str) -> dict[str, Any]:
    return {"model": model.name, "version": model.version, "cohort": cohort, "by": named(by)}
