"""``storm-clinic slides``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from storm_clinic.cli.arguments import (
    ALL_PROCESSORS,
    HERE,
    JobsOption,
    JsonOption,
    WorkspaceOption,
    workspace_at,
)
from storm_clinic.cli.console import bars, print_json, print_table, say

group = typer.Typer(help="Whole-slide images.", no_args_is_help=True)


@group.command("check")
def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Slides or folders; without any, those of the cohort's slides table."),
    ] = None,
    cohort: Annotated[
        str | None,
        typer.Option(help="A declared cohort, whose slides table states mpp and checksums."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel that hold for all of them.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of tissue masks, <slide id>.png.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for QC pictures and contact sheets.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the table, as .csv or .json.")
    ] = None,
    jobs: JobsOption = ALL_PROCESSORS,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Look at slides as extraction would: size, mpp and its source, tissue, focus, problems.

    With --cohort files are also held against the checksums of its slides table.

    Example: storm-clinic slides check slides/ --pictures qc/ --out slides.csv
    """
    from storm_clinic.steps.slide_check import check_slides

    with bars() as progress:
        result = check_slides(
            paths or None,
            cohort=cohort,
            workspace=workspace_at(workspace),
            mpp_override=mpp,
            masks=masks,
            pictures=pictures,
            processes=jobs,
            progress=progress,
        )
    if out is not None:
        result.write(out)
    if json:
        print_json(result.records)
    else:
        print_table(result.table.drop(columns=["path", "digest", "picture"]))
        for suffix, n in result.ignored.items():
            say(f"{n} files {suffix} are no slides and were not looked at.")
    raise typer.Exit(result.exit_code)
