"""``storm-clinic promote``, ``registry retire`` and ``registry add-cohort``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from storm_clinic.cli.arguments import (
    HERE,
    JsonOption,
    ModelArgument,
    WorkspaceOption,
    workspace_at,
)
from storm_clinic.cli.console import print_json, say


def promote(
    model: ModelArgument,
    by: Annotated[str, typer.Option("--by", help="Who approves; neither trained nor locked it.")],
    accept_reruns: Annotated[
        bool, typer.Option("--accept-reruns", help="Accept cohorts that were scored again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the verdict would be; record nothing.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Hold claims against evidence: approved, rejected, or refused; recorded with all reasons.

    Exits with 1 unless approved. Example: storm-clinic promote kirc-pfi --by d.chen --dry-run
    """
    from storm_clinic.steps.promotion import promote as run_promotion

    done = run_promotion(
        model,
        by=by,
        accept_reruns=accept_reruns,
        dry_run=dry_run,
        workspace=workspace_at(workspace),
    )
    decision = done.decision
    if json:
        found = {"model": done.reference, "state": done.model.state, "recorded": done.recorded}
        print_json(found | decision.model_dump(mode="json"))
    else:
        for reason in decision.reasons:
            say(f"{reason.standing:>7}  {reason.about}: {reason.text}")
        say(decision.sentence if decision.verdict == "approved" else decision.verdict.capitalize())
        say(f"{done.reference} is {done.model.state}" + ("" if done.recorded else " (dry run)"))
    if decision.verdict != "approved":
        raise typer.Exit(1)


def retire(
    model: ModelArgument,
    by: Annotated[str, typer.Option("--by", help="Who retires it; recorded for good.")],
    reason: Annotated[str, typer.Option(help="Why, in a sentence.")],
    workspace: WorkspaceOption = HERE,
) -> None:
    """Take an approved model out of use.

    Example: storm-clinic registry retire kirc-pfi --by d.chen --reason "Superseded by version 4"
    """
    from storm_clinic.steps.promotion import retire as run_retirement

    retired = run_retirement(model, by=by, reason=reason, workspace=workspace_at(workspace))
    say(f"{retired.reference} is retired")


def add_cohort(
    model: ModelArgument,
    cohort: Annotated[str, typer.Argument(help="Its name under cohorts/.")],
    plan: Annotated[str, typer.Option(help="Which plan says so, in a sentence.")],
    by: Annotated[str, typer.Option("--by", help="Who adds it; recorded for good.")],
    plan_file: Annotated[
        Path | None, typer.Option(help="The plan; its SHA-256 is recorded.")
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Name one more validation cohort of a locked model; claims must hold there too.

    Example: storm-clinic registry add-cohort kirc-pfi site_x --plan "Protocol v2" --by a.weber
    """
    from storm_clinic.steps.promotion import add_cohort as run_addition

    event = run_addition(
        model, cohort, plan=plan, by=by, plan_file=plan_file, workspace=workspace_at(workspace)
    )
    say(f"{cohort} is named as event {event.seq}; validate next")
