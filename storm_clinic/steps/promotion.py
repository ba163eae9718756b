"""The verbs `promote` and `retire`, and cohorts that are added after a lock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storm_clinic.errors import InputError, RegistryError
from storm_clinic.files import Workspace, digest_file
from storm_clinic.registry.decide import Approval, Decision, decide
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.rules import cohorts_of, licence_conflicts
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import Referring, RegisteredModel, reference_of
from storm_clinic.steps.stored_validations import reruns_of, stored_validations
from storm_clinic.study import Claim
from storm_clinic.tracking import Tracker


@dataclass(frozen=True, eq=False)
class Promotion:
    """What came of asking for a promotion.

    Attributes
    ----------
    model : RegisteredModel
        As it is now.
    decision : Decision
    recorded : bool
        False for a dry run, which leaves nothing behind.
    """

    model: RegisteredModel
    decision: Decision
    recorded: bool

    @property
    def reference(self) -> str:
        """``name:version``."""
        return self.model.reference


def promote(
    model: str | Referring,
    *,
    by: str,
    accept_reruns: bool = False,
    dry_run: bool = False,
    workspace: Workspace | None = None,
) -> Promotion:
    """Hold what a locked model claimed against what its validations showed, and record the verdict.

    Approved: every claim is met on every cohort by the worst end of its interval, no automatic
    check fails, and the approver neither trained nor locked the model. Rejected, for good: a claim
    is not met. Refused: something is open that can be put right; the model stays locked. All three
    stay on record with their reasons.

    Parameters
    ----------
    model : str, or what `lock` or `validate` gave
        ``name`` (its latest locked version) or ``name:version``.
    by : str
        Who approves; recorded for good.
    accept_reruns : bool
        Accept cohorts that were scored more than once, having read why.
    dry_run : bool
        Say what the verdict would be, and record nothing.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    RegistryError
        If the model is not locked, or something stored of it was changed.
    """
    workspace = workspace or Workspace()
    registry = Registry(workspace)
    locked = registry.find_in(reference_of(model), "locked")
    decision, approval = _decide(locked, workspace, by=by, accept_reruns=accept_reruns)
    if dry_run:
        return Promotion(locked, decision, recorded=False)
    return Promotion(registry.promote(locked, decision, approval), decision, recorded=True)


def _decide(
    model: RegisteredModel, workspace: Workspace, *, by: str, accept_reruns: bool
) -> tuple[Decision, Approval]:
    locked = model.find_event("locked")
    if locked is None:
        raise RegistryError(
            f"is {model.state}, not locked",
            where=model.reference,
            fix="Lock and validate it before promoting.",
        )
    claims = tuple(Claim.model_validate(claim) for claim in locked.body["claims"])
    if claims != model.bundle.study.claims:
        raise RegistryError(
            "the claims of its study are not those that were locked", where=model.reference
        )
    approval = approval_of(model, by=by, accept_reruns=accept_reruns)
    found = stored_validations(model, Tracker(workspace))
    return decide([item.evidence for item in found], claims, approval), approval


def approval_of(model: RegisteredModel, *, by: str, accept_reruns: bool) -> Approval:
    """Who asks, and what the trail and the bundle say beside the evidence.

    Parameters
    ----------
    model : RegisteredModel
        Locked once; its events up to the decision.
    by : str
        Who decides.
    accept_reruns : bool
        Whether cohorts that were scored more than once are accepted.
    """
    trained, locked = model.find_event("candidate"), model.find_event("locked")
    return Approval(
        by=by,
        trained_by="" if trained is None else trained.by,
        locked_by="" if locked is None else locked.by,
        cohorts=cohorts_of(model, model.events),
        reruns=reruns_of(model),
        accepts_reruns=accept_reruns,
        conflicts=licence_conflicts(model),
    )


def retire(
    model: str | Referring, *, by: str, reason: str, workspace: Workspace | None = None
) -> RegisteredModel:
    """Take an approved model out of use, with a reason that every later score repeats.

    Parameters
    ----------
    model : str
        ``name`` (its latest approved version) or ``name:version``.
    by : str
        Who retires it; recorded for good.
    reason : str
        Why, in a sentence.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    RegistryError
        If it is not approved, or no reason is given.
    """
    return Registry(workspace or Workspace()).retire(reference_of(model), by=by, reason=reason)


def add_cohort(
    model: str | Referring,
    cohort: str,
    *,
    plan: str,
    by: str,
    plan_file: Path | None = None,
    workspace: Workspace | None = None,
) -> Event:
    """Name one more validation cohort of a locked model; claims must hold there too.

    Parameters
    ----------
    model : str
        ``name`` (its latest locked version) or ``name:version``.
    cohort : str
        Not trained on, and not named before.
    plan : str
        Which plan says so, in a sentence.
    by : str
        Who adds it; recorded for good.
    plan_file : Path, optional
        The plan itself; its SHA-256 is recorded, its content is not.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    RegistryError
        If the model is not locked, or the cohort was trained on or named before.
    InputError
        If the plan's file cannot be read.
    """
    registry = Registry(workspace or Workspace())
    locked = registry.locked_model(reference_of(model))
    digest = None
    if plan_file is not None:
        if not plan_file.is_file():
            raise InputError("there is no such file", where=plan_file, fix="Name the plan's file.")
        digest = digest_file(plan_file)
    return registry.scorings.add_cohort(locked, cohort, plan=plan, by=by, plan_digest=digest)
