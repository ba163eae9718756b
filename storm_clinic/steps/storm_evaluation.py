"""``storm evaluate``: leave sections out; compare networks and rivals on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from storm_clinic.files import Workspace, csv_text, write_json, write_text
from storm_clinic.progress import Progress, silent
from storm_clinic.provenance import environment
from storm_clinic.slides.reader import open_slide
from storm_clinic.steps.storm_fits import (
    done_or_kept,
    kept_fits,
    network_work,
    rival_work,
)
from storm_clinic.steps.storm_folds import (
    PairedData,
    how_left_out,
    log_held_out,
    read_paired,
)
from storm_clinic.steps.storm_pictures import GeneMaps, draw_gene_maps
from storm_clinic.steps.storm_starts import refuse_seen, starts_of
from storm_clinic.storm.evaluate import folds
from storm_clinic.storm.evaluation_file import EvaluationFile, read_evaluation
from storm_clinic.storm.evaluation_table import by_gene, summary
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.tracking import Tracker

RIDGE = "ridge"


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What an evaluation found.

    Attributes
    ----------
    table : DataFrame
        One row a network or rival; see `evaluation_table.summary`.
    genes : DataFrame
        One row a network or rival, seed, section and gene; see `evaluation_table.by_gene`.
    how : str
        What was left out, as a sentence.
    folder : Path
        Both as CSV, ``evaluation.json`` with settings and versions, and ``maps.png``: six genes of
        one section, two best, two in the middle and two worst by their r in it.
    n_kept, n_new : int
        Fits that were there from an earlier run, and those made by this one.
    """

    table: pd.DataFrame
    genes: pd.DataFrame
    how: str
    folder: Path
    n_kept: int
    n_new: int


def evaluate_storm(
    config_path: str | Path,
    *,
    workspace: Workspace | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Leave sections out, and compare what a YAML names on them.

    Each fit is kept as soon as it is done, and made only where the same was not kept before: an
    evaluation that was interrupted goes on, and a changed row refits that row alone.

    Parameters
    ----------
    config_path : str or Path
        Such as ``pipelines/storm_her2st.yaml``; relative to the workspace.
    workspace : Workspace, optional
        The current folder by default. Embeddings are kept under ``storm/spots``, fits under
        ``storm/fits``; results go to ``storm/<name>/evaluation``.
    jobs : int
        Processes; results do not depend on it.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    LeakageError
        If a network starts from a checkpoint that was trained on a section that is left out, or
        the encoder was.
    InputError, SectionError, EncoderError, CheckpointError, TrainingError
        Naming what is wrong, where, and what to do.
    """
    workspace, progress = workspace or Workspace(), progress or silent
    asked = read_evaluation(workspace.path(config_path))
    tracker = Tracker(workspace)
    with tracker.start_storm(asked.name, kind="evaluation", digest=asked.digest) as run:
        data = read_paired(asked, asked.recipes, workspace, progress, rivals=bool(asked.baselines))
        starts = starts_of(asked, asked.recipes, data, workspace)
        refuse_seen(asked, starts, data)
        groups, fits = folds(data.measured, asked.leave_out), kept_fits(workspace)
        networks = network_work(asked, data, asked.recipes, groups, asked.top_genes, starts)
        rivals = rival_work(asked, data, groups)
        # Rivals take seconds: what they refuse is known before the networks' minutes.
        beside = done_or_kept(rivals, fits, jobs, progress)
        done = done_or_kept(networks, fits, jobs, progress)
        found = done.found + beside.found
        genes = by_gene(found, {section.name: section for section in data.measured})
        rival = RIDGE if RIDGE in asked.baselines else None
        table, how = summary(genes, rival=rival), how_left_out(asked, data.measured)
        folder = workspace.root / "storm" / asked.name / "evaluation"
        draw_gene_maps(_maps(asked, data, found, genes, how), folder / "maps.png")
        write_text(folder / "genes.csv", csv_text(genes))
        write_text(folder / "table.csv", csv_text(table))
        left_out = {section.name: dict(section.left_out) for section in data.measured}
        facts = {
            "how": how,
            "left_out": left_out,
            "settings": asked.resolved(),
            "starts": {name: start.digest for name, start in starts.items()},
            "environment": environment(),
        }
        write_json(folder / "evaluation.json", {**facts, "encoder_digest": data.encoder.digest})
        log_held_out(run, asked, table, {"encoder_digest": data.encoder.digest})
    n_kept, n_new = done.n_kept + beside.n_kept, done.n_new + beside.n_new
    return EvaluationResult(table, genes, how, folder, n_kept, n_new)


def _maps(
    asked: EvaluationFile, data: PairedData, found: list[HeldOut], genes: pd.DataFrame, how: str
) -> GeneMaps:
    """Six genes of the section whose mean r is in the middle, by the network's first seed."""
    recipe, seed = asked.network.name, asked.seeds[0]
    own = genes[(genes["recipe"] == recipe) & (genes["seed"] == seed)].dropna(subset=["r"])
    means = own.groupby("section")["r"].mean().sort_values()
    name = str(means.index[len(means) // 2])
    ranked = own[own["section"] == name].sort_values("r", ascending=False)
    middle = len(ranked) // 2
    chosen = ranked.iloc[sorted({0, 1, middle - 1, middle, len(ranked) - 2, len(ranked) - 1})]
    one = next(one for one in found if (one.recipe, one.section, one.seed) == (recipe, name, seed))
    section = next(section for section in data.measured if section.name == name)
    columns = [one.genes.index(gene) for gene in chosen["gene"]]
    assert section.image is not None  # it was embedded
    with open_slide(section.image, mpp_override=section.mpp) as slide:
        tissue, tissue_mpp = slide.thumbnail()
    return GeneMaps(
        title=f"{recipe}, section {name} left out ({how}); log1p of counts per 10,000",
        tissue=tissue,
        tissue_mpp=tissue_mpp,
        xy_um=section.centres_um,
        genes=tuple(
            f"{gene}, r {r:.2f}" for gene, r in zip(chosen["gene"], chosen["r"], strict=True)
        ),
        measured=one.measured[:, columns],
        imputed=one.imputed[:, columns],
    )
