"""``storm-clinic demo`` and ``storm-clinic doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from storm_clinic.cli.arguments import (
    ALL_PROCESSORS,
    HERE,
    JobsOption,
    JsonOption,
    WorkspaceOption,
    workspace_at,
)
from storm_clinic.cli.console import EXIT_ERROR, bars, print_json, print_table, say


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to make; must be new or a demo's own.")],
    jobs: JobsOption = ALL_PROCESSORS,
) -> None:
    """Simulate three hospitals and walk the whole flow, from slides to reports and decisions.

    Example: storm-clinic demo demo
    """
    from storm_clinic.steps.demonstration import demo as run_demo

    with bars() as progress:
        result = run_demo(folder, n_jobs=jobs, progress=progress)
    for line in result.lines():
        say(line)


def doctor(
    encoders: Annotated[
        bool, typer.Option("--encoders", help="List every encoder: can it run here, else why not.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Say what can run here, and why the rest cannot.

    Example: storm-clinic doctor
    """
    if encoders:
        _encoders(json=json)
        return
    from storm_clinic.steps.diagnosis import doctor as examine
    from storm_clinic.steps.diagnosis import healthy

    findings = examine(workspace=workspace_at(workspace))
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(pd.DataFrame([asdict(finding) for finding in findings]))
    if not healthy(findings):
        raise typer.Exit(EXIT_ERROR)


def _encoders(*, json: bool) -> None:
    from storm_clinic.steps.diagnosis import diagnose_encoders

    rows = [asdict(row) for row in diagnose_encoders()]
    if json:
        print_json(rows)
        return
    table = pd.DataFrame(rows)
    print_table(table[["name", "kind", "state", "width", "licence", "allows", "reason"]])
