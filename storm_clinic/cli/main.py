"""``storm-clinic``: verbs along the data flow, and groups of things to look at."""

from __future__ import annotations

import logging
import warnings

import typer

from storm_clinic.cli import (
    cohorts,
    features,
    models,
    promotion,
    registry,
    scoring,
    slides,
    storm,
    workspaces,
)
from storm_clinic.cli.console import errors_as_messages

app = typer.Typer(
    name="storm-clinic",
    help="From routine H&E slides to a validated, versioned clinical model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(features.extract)
app.command()(models.train)
app.command()(models.lock)
app.command()(models.validate)
app.command()(promotion.promote)
app.command()(models.report)
app.command()(models.run)
app.command()(models.explain)
app.command()(scoring.score)
app.command()(workspaces.demo)
app.command()(cohorts.init)
app.command()(workspaces.doctor)
app.add_typer(slides.group, name="slides")
app.add_typer(features.group, name="features")
app.add_typer(cohorts.group, name="cohort")
app.add_typer(storm.group, name="storm")
registry.group.command("retire")(promotion.retire)
registry.group.command("add-cohort")(promotion.add_cohort)
registry.group.command()(scoring.export)
app.add_typer(registry.group, name="registry")


def run() -> None:
    """Entry point of the installed command."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Warnings of libraries are for us, not for who runs a study; tests turn them into errors.
    warnings.simplefilter("ignore")
    with errors_as_messages():
        app()
