"""What is on record of a locked model's validations, held against the trail."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from storm_clinic.errors import RegistryError
from storm_clinic.registry.rules import Attempt, attempts_on, cohorts_of
from storm_clinic.registry.versions import RegisteredModel
from storm_clinic.steps.training_files import EVIDENCE
from storm_clinic.tracking import Tracker
from storm_clinic.validation.evidence import Evidence


@dataclass(frozen=True, eq=False)
class Validation:
    """What a locked model showed on one cohort.

    Attributes
    ----------
    model : RegisteredModel
    cohort : str
    evidence : Evidence
    folder : Path
        Files of the validation's MLflow run.
    """

    model: RegisteredModel
    cohort: str
    evidence: Evidence
    folder: Path


def stored_validations(model: RegisteredModel, tracker: Tracker) -> list[Validation]:
    """The latest validation on each cohort, in the order in which cohorts were named."""
    found = (stored_validation(model, tracker, name) for name in cohorts_of(model, model.events))
    return [validation for validation in found if validation is not None]


def stored_validation(model: RegisteredModel, tracker: Tracker, cohort: str) -> Validation | None:
    """The latest validation on a cohort; None where predictions have no outcome yet.

    Raises
    ------
    RegistryError
        If the evidence is not that which was recorded.
    """
    attempts = attempts_on(model.events, cohort)
    event = attempts[-1].validated if attempts else None
    if event is None:
        return None
    run = tracker.read_run(str(event.body["run_id"]))
    path = run.artifacts / EVIDENCE
    evidence = Evidence.read(path)
    if evidence.digest != event.body["evidence_digest"]:
        raise RegistryError(
            "is not the evidence that was recorded", where=path, fix="Restore it from a backup."
        )
    return Validation(model, cohort, evidence, run.artifacts)


def reruns_of(model: RegisteredModel) -> tuple[str, ...]:
    """One sentence on each cohort that was scored more than once."""
    found = []
    for cohort in cohorts_of(model, model.events):
        attempts = attempts_on(model.events, cohort)
        found += [_rerun(cohort, *pair) for pair in pairwise(attempts)]
    return tuple(found)


def _rerun(cohort: str, first: Attempt, second: Attempt) -> str:
    before, after = (seal.body.get("inputs", {}) for seal in (first.seal, second.seal))
    differ = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    changed = f"other {', '.join(differ)}" if differ else "the same inputs"
    seen = "outcomes were known" if first.validated else "before outcomes were joined"
    return (
        f"{cohort} was scored again by {second.seal.by} on {second.seal.when:%Y-%m-%d} ({seen}): "
        f"{second.seal.body['rerun']}; {changed}"
    )
