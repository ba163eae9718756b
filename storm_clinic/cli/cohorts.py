"""``storm-clinic init`` and ``storm-clinic cohort``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from storm_clinic.cli.arguments import HERE, JsonOption, WorkspaceOption, workspace_at
from storm_clinic.cli.console import print_json, print_table, say

group = typer.Typer(help="Patients, slides and outcomes.", no_args_is_help=True)


def init(
    name: Annotated[str, typer.Argument(help="Name of the new cohort.")],
    clinical: Annotated[Path, typer.Option(help="Table with one row a patient.")],
    slides: Annotated[Path | None, typer.Option(help="Table with one row a slide.")] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write a first cohort.yaml from a clinical table; what cannot be seen is left to decide.

    Example: storm-clinic init site_x --clinical patients.csv --slides slides.csv
    """
    from storm_clinic.steps.new_cohort import init_cohort

    new = init_cohort(name, clinical, slides, workspace=workspace_at(workspace))
    say(f"Written: {new.path}")
    for column, reason in new.left_out:
        say(f"not declared: {column}: {reason}")
    if new.undecided:
        say(f"{len(new.undecided)} lines to decide before the cohort can be read:")
    for line in new.undecided:
        say(f"  {line}")


@group.command("check")
def check(
    cohort: Annotated[str, typer.Argument(help="Name of a cohort, or path of its cohort.yaml.")],
    excluded: Annotated[
        bool, typer.Option("--excluded", help="Also list who and what was left out, by id.")
    ] = False,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Read a cohort and say what is in it: columns, missing values, endpoints, sites, attrition.

    Example: storm-clinic cohort check tcga_kirc
    """
    from storm_clinic.steps.cohort_check import check_cohort

    found = check_cohort(cohort, workspace=workspace_at(workspace))
    if json:
        print_json(found.to_json())
        return
    print_table(found.tables, title="Tables")
    print_table(found.columns, title="Columns")
    print_table(found.endpoints, title="Endpoints")
    if len(found.measurements):
        print_table(found.measurements, title="Measurements")
    print_table(found.sites, title="Sites")
    print_table(found.attrition, title="Attrition")
    if excluded:
        print_table(found.excluded, title="Left out")
    for note in found.notes:
        say(f"note: {note}")
