"""``storm-clinic score``, and ``registry export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from storm_clinic.cli.arguments import HERE, JsonOption, WorkspaceOption, workspace_at
from storm_clinic.cli.console import bars, print_json, say


def score(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SLIDES_OR_STORE]",
            help="Slides, a feature store, STORM files, or the folder of both; without it, the "
            "stores of --cohort.",
        ),
    ] = None,
    *,
    model: Annotated[
        str,
        typer.Option(help="name@approved, name:version, name (latest approved), or an archive."),
    ],
    out: Annotated[Path, typer.Option(help="The CSV file with one row a patient.")],
    cohort: Annotated[
        str | None, typer.Option(help="A declared cohort: patients, slides, covariates.")
    ] = None,
    clinical: Annotated[
        Path | None, typer.Option(help="Table with patient_id and the model's columns.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="Table patient_id, slide_id; else one slide a patient.")
    ] = None,
    allow_retired: Annotated[
        bool, typer.Option("--allow-retired", help="Score with a retired model; each row says so.")
    ] = False,
    allow_unapproved: Annotated[
        bool, typer.Option("--allow-unapproved", help="Score with a candidate or a rejected model.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Slides: file or folder with the encoder's weights.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Slides: microns per pixel, whatever they state.")
    ] = None,
    storm: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Slides: folder or name of the STORM checkpoint that the model learned from; by "
            "default the shipped one of that name.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Slides: auto, cpu, cuda, cuda:1.")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="Slides: torch, onnxruntime, openvino, auto; as in extract.")
    ] = "torch",
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """From slides or their features to one row of risk a patient. Code 3 if some were not scored.

    Example: storm-clinic score slides/ --model kirc-pfi@approved --clinical patients.csv
    --out risks.csv
    """
    from storm_clinic.steps.score_slides import Extraction
    from storm_clinic.steps.score_table import score as run_scoring

    with bars() as progress:
        done = run_scoring(
            model,
            source,
            out=out,
            cohort=cohort,
            clinical=clinical,
            patients=patients,
            allow_retired=allow_retired,
            allow_unapproved=allow_unapproved,
            extraction=Extraction(weights, mpp, device, storm, runtime),
            workspace=workspace_at(workspace),
            progress=progress,
        )
    if json:
        print_json(
            {
                "model": done.model.reference,
                "state": done.model.state,
                "bundle_digest": done.model.bundle.digest,
                "out": str(done.path),
                **done.counts,
                "notices": list(done.notices),
            }
        )
        raise typer.Exit(done.exit_code)
    say(f"{done.model.reference} ({done.model.state}), bundle {done.model.bundle.digest}")
    for notice in done.notices:
        say(f"Note: {notice}")
    counts = done.counts
    say(f"{counts['scored']} of {counts['patients']} patients scored")
    for name in list(counts)[2:]:
        if counts[name]:
            say(f"{counts[name]} {name.replace('_', ' ')}; the table says why")
    say(f"Risks: {done.path}")
    raise typer.Exit(done.exit_code)


def export(
    model: Annotated[str, typer.Argument(help="name:version, name@state, or name.")],
    out: Annotated[Path, typer.Option(help="The archive, FILE.zip.")],
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Write one archive with which to score where there is no registry and no network.

    Example: storm-clinic registry export kirc-pfi@approved --out kirc_pfi.zip
    """
    from storm_clinic.steps.model_export import export_model

    done = export_model(model, out, workspace=workspace_at(workspace))
    if json:
        print_json(
            {
                "model": done.reference,
                "state": done.state,
                "out": str(done.path),
                "digest": done.digest,
                "head": done.facts.head_digest,
            }
        )
        return
    say(f"{done.reference}, {done.state} as of row {done.facts.head_seq} of the trail")
    say(f"Archive: {done.path}")
    say(f"Its SHA-256, to be kept elsewhere: {done.digest}")
