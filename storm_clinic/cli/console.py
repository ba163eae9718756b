"""What the command line prints: tables, JSON, bars; and how an error ends a command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from storm_clinic.errors import StormClinicError
from storm_clinic.progress import split_note

# Away from a terminal rich assumes 80 columns, which breaks tables that go to a file.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

EXIT_ERROR = 1


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print an error of ours as its message, without a traceback, and end with code 1.

    Anything else is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except StormClinicError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print a message as an error and end with code 1."""
    err.print(f"[bold red]error[/] {escape(message)}", soft_wrap=True)
    sys.exit(EXIT_ERROR)


def say(message: str) -> None:
    """One line of plain text."""
    out.print(escape(message), soft_wrap=True)


def print_json(value: Any) -> None:
    """Machine-readable output, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")


def print_table(frame: pd.DataFrame, *, title: str | None = None) -> None:
    """A data frame as a table; what is missing is left blank."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(escape(str(name)), justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return escape(str(value))


class Bars:
    """Progress bars by name; a step says what it does, how far it is and how far it goes.

    A bar is known by what it does without the note that may follow; one with a note disappears
    when it is full, so that of many folds only those are seen that are being fitted. Away from a
    terminal each piece of work is one line when it ends, so that logs stay short.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` pieces of ``what`` are finished."""
        name, note = split_note(what)
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(escape(name), total=total)
        shown = escape(f"{name}: {note}" if note else name)
        seen = not note or done < total
        self._progress.update(
            self._tasks[name], description=shown, completed=done, total=total, visible=seen
        )
        if done >= total and not self._progress.console.is_terminal:
            err.print(shown if note else f"{shown}: {total} of {total}", highlight=False)


class _SpeedColumn(ProgressColumn):
    """Pieces a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


@contextmanager
def bars() -> Iterator[Bars]:
    """Open a set of progress bars on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        yield Bars(progress)
