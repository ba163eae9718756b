"""``storm-clinic storm``: pretrain, fine-tune and evaluate STORM from YAML files."""

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

group = typer.Typer(
    help="STORM: learn from paired H&E and spatial transcriptomics.", no_args_is_help=True
)

ConfigArgument = Annotated[
    Path, typer.Argument(help="A YAML, such as pipelines/storm_her2st.yaml.")
]


@group.command()
def pretrain(
    config: ConfigArgument,
    anew: Annotated[
        bool, typer.Option("--anew", help="Begin anew instead of going on where it stopped.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Pretrain by masked modelling; goes on where it was interrupted. Several GPUs: torchrun.

    Example: storm-clinic storm pretrain pipelines/storm_pretrain_her2st.yaml
    """
    from storm_clinic.steps.storm_pretraining import pretrain_storm

    with bars() as progress:
        made = pretrain_storm(
            config,
            workspace=workspace_at(workspace),
            resume=not anew,
            device=device,
            progress=progress,
        )
    if made is None:
        return
    if json:
        print_json({"checkpoint": str(made.checkpoint), "digest": made.digest, "run": made.run_id})
        return
    say(
        f"Pretrained on {made.n_spots} spots of {made.n_sections} sections "
        f"({made.n_patients} patients): {made.checkpoint}"
    )
    say("No gene was held out: its expression is not written until `storm finetune` has measured.")


@group.command()
def finetune(
    config: ConfigArgument,
    jobs: JobsOption = ALL_PROCESSORS,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Make a checkpoint that imputes expression, with each gene's held-out correlation in it.

    Example: storm-clinic storm finetune pipelines/storm_her2st.yaml
    """
    from storm_clinic.steps.storm_finetuning import finetune_storm

    with bars() as progress:
        made = finetune_storm(
            config, workspace=workspace_at(workspace), jobs=jobs, progress=progress
        )
    if json:
        print_json(
            {
                "checkpoint": str(made.checkpoint),
                "digest": made.digest,
                "n_genes": made.n_genes,
                "n_with_evidence": made.n_with_evidence,
                "n_kept": made.n_kept,
                "n_new": made.n_new,
            }
        )
        return
    if made.table is None:
        say(
            "The checkpoint that it started from, or its encoder, had seen what would be left out: "
            f"{', '.join(made.seen_by_start)}. No gene has evidence."
        )
    else:
        print_table(made.table.round(3), title="Held out, over all genes taught")
        say(_fits(made.n_kept, made.n_new))
    say(f"{made.n_with_evidence} of {made.n_genes} genes have evidence: {made.checkpoint}")


@group.command()
def evaluate(
    config: ConfigArgument,
    jobs: JobsOption = ALL_PROCESSORS,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Leave sections out; compare STORM, its ablations and its rivals on them.

    Fits are kept in the workspace: interrupted or changed, it makes only those that are missing.

    Example: storm-clinic storm evaluate pipelines/storm_her2st.yaml
    """
    from storm_clinic.steps.storm_evaluation import evaluate_storm

    with bars() as progress:
        found = evaluate_storm(
            config, workspace=workspace_at(workspace), jobs=jobs, progress=progress
        )
    if json:
        print_json(found.table.to_dict(orient="records"))
        return
    print_table(found.table.round(3), title=f"Imputed expression: {found.how}")
    say(_fits(found.n_kept, found.n_new))
    say(
        "r: Pearson a gene over spots, mean over genes and sections; its interval is over seeds, "
        "not over patients. library sees each spot's own counts: a control, no rival."
    )
    say(f"Every gene of every section: {found.folder / 'genes.csv'}")


def _fits(n_kept: int, n_new: int) -> str:
    return f"Fits on left-out sections: {n_kept} kept from before, {n_new} new."
