"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from storm_clinic.files import Workspace

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder with cohorts/ pipelines/ features/ mlruns/ reports/.",
        file_okay=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=1, help="Processes; results do not depend on it.")
]

HERE = Path()
ALL_PROCESSORS = os.cpu_count() or 1


def workspace_at(path: Path) -> Workspace:
    """The workspace a command was pointed to."""
    return Workspace(path)


ModelArgument = Annotated[str, typer.Argument(help="name (the latest version) or name:version.")]
