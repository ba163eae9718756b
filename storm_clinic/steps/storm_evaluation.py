"""``storm evaluate`` and ``storm finetune``: left-out sections, then a checkpoint from all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.files import Workspace, write_json, write_text
from storm_clinic.progress import Progress, silent
from storm_clinic.provenance import environment
from storm_clinic.slides.reader import open_slide
from storm_clinic.steps.storm_pictures import GeneMaps, draw_gene_maps
from storm_clinic.storm.checkpoint import Inputs, save_checkpoint
from storm_clinic.storm.domain import TrainingDomain
from storm_clinic.storm.evaluate import Recipe, Seen, folds, hold_out, taught_network
from storm_clinic.storm.evaluation_file import EvaluationFile, read_evaluation
from storm_clinic.storm.evaluation_table import by_gene, reliability_of, summary
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.lattice import with_points_between
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.rivals import RivalView, hold_out_rival
from storm_clinic.storm.section_sources import read_sources
from storm_clinic.storm.spot_cache import cached_embeddings

RIDGE = "ridge"
_EMBEDDING, _FITTING = "embed sections", "leave out and impute"


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
    """

    table: pd.DataFrame
    genes: pd.DataFrame
    how: str
    folder: Path


@dataclass(frozen=True)
class FinetuningResult:
    """What a fine-tuning left.

    Attributes
    ----------
    checkpoint : Path
        Folder for `load_checkpoint`.
    digest : str
    n_genes, n_with_evidence : int
        Genes it imputes, and those whose held-out r has a lower bound above 0.
    table : DataFrame
        Its row of held-out figures, over all genes it knows.
    """

    checkpoint: Path
    digest: str
    n_genes: int
    n_with_evidence: int
    table: pd.DataFrame


def evaluate_storm(
    config_path: str | Path,
    *,
    workspace: Workspace | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Leave sections out, and compare what a YAML names on them.

    Parameters
    ----------
    config_path : str or Path
        Such as ``pipelines/storm_her2st.yaml``; relative to the workspace.
    workspace : Workspace, optional
        The current folder by default. Embeddings are kept under ``storm/spots``, results go to
        ``storm/<name>/evaluation``.
    jobs : int
        Processes; results do not depend on it.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    InputError, SectionError, EncoderError, TrainingError
        Naming what is wrong, where, and what to do.
    """
    workspace, progress = workspace or Workspace(), progress or silent
    asked = read_evaluation(workspace.path(config_path))
    data = _read(asked, asked.recipes, workspace, progress, rivals=bool(asked.baselines))
    groups = folds(data.measured, asked.leave_out)
    networks: list[_Work] = [
        _Network(data.seen, group, recipe, seed, asked.top_genes, data.pitch_um)
        for recipe in asked.recipes
        for seed in asked.seeds
        for group in groups
    ]
    rivals: list[_Work] = [
        _Rival(data.views, group, name, asked.top_genes)
        for name in asked.baselines
        for group in groups
    ]
    # Rivals take seconds: what they refuse is known before the networks' minutes.
    beside = _in_processes(rivals, jobs, progress)
    found = _in_processes(networks, jobs, progress) + beside
    genes = by_gene(found, {section.name: section for section in data.measured})
    rival = RIDGE if RIDGE in asked.baselines else None
    table, how = summary(genes, rival=rival), _how(asked, data.measured)
    folder = workspace.root / "storm" / asked.name / "evaluation"
    draw_gene_maps(_maps(asked, data, found, genes, how), folder / "maps.png")
    write_text(folder / "genes.csv", genes.to_csv(index=False))
    write_text(folder / "table.csv", table.to_csv(index=False))
    left_out = {section.name: dict(section.left_out) for section in data.measured}
    facts = {
        "how": how,
        "left_out": left_out,
        "settings": asked.resolved(),
        "environment": environment(),
    }
    write_json(folder / "evaluation.json", {**facts, "encoder_digest": data.encoder.digest})
    return EvaluationResult(table, genes, how, folder)


def finetune_storm(
    config_path: str | Path,
    *,
    workspace: Workspace | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> FinetuningResult:
    """Make a checkpoint of a YAML's network, taught on all sections, with each gene's evidence.

    Held-out figures come first and from networks that did not see the section; the checkpoint is
    one more network by the same recipe, with the first seed, that saw all. Arguments and errors as
    `evaluate_storm`; the checkpoint goes to ``storm/<name>/checkpoint``.
    """
    workspace, progress = workspace or Workspace(), progress or silent
    asked = read_evaluation(workspace.path(config_path))
    recipe = asked.network.recipe
    data = _read(asked, [recipe], workspace, progress, rivals=False)
    work: list[_Work] = [
        _Network(data.seen, group, recipe, seed, recipe.n_genes, data.pitch_um)
        for seed in asked.seeds
        for group in folds(data.measured, asked.leave_out)
    ]
    found = _in_processes(work, jobs, progress)
    genes = by_gene(found, {section.name: section for section in data.measured})
    model, vocabulary = taught_network(
        data.seen, recipe, seed=asked.seeds[0], pitch_um=data.pitch_um
    )
    how = _how(asked, data.measured)
    reliability = reliability_of(genes, recipe.name, vocabulary, how)
    row = summary(genes, rival=None)
    folder = workspace.root / "storm" / asked.name / "checkpoint"
    digest = save_checkpoint(
        folder,
        model,
        inputs=Inputs(
            encoder=data.encoder.card.name,
            encoder_digest=data.encoder.digest,
            tile_um=asked.encoder.tile_um,
            side=recipe.side,
        ),
        vocabulary=vocabulary,
        reliability=reliability,
        domain=TrainingDomain.fit(
            {one.section.name: one.images[recipe.encoder] for one in data.seen}
        ),
        card=_card(asked, data.measured, row),
    )
    evident = int(reliability.exceeds(0.0).sum())
    return FinetuningResult(folder, digest, len(vocabulary), evident, row)


@dataclass(frozen=True, eq=False)
class _Data:
    measured: list[PairedSection]
    seen: list[Seen]
    views: list[RivalView]
    encoder: LoadedEncoder
    pitch_um: float


def _read(
    asked: EvaluationFile,
    recipes: Sequence[Recipe],
    workspace: Workspace,
    progress: Progress,
    *,
    rivals: bool,
) -> _Data:
    """Sections and all embeddings that rows and rivals need."""
    encoder = load_encoder(asked.encoder.name, device="cpu")
    kinds = {"plain": encoder}
    if any(recipe.encoder == "random" for recipe in recipes):
        kinds["random"] = _random(asked.encoder.name)
    measured, seen, views = [], [], []
    sections = list(read_sources(asked.sections, workspace))
    for section in sections:
        counts = np.asarray(section.counts.sum(axis=1)).reshape(-1)
        section = section.subset(
            counts >= asked.least_counts, why=f"fewer than {asked.least_counts} counts"
        )
        lattice = with_points_between(section, asked.points_per_pitch)
        images = {
            kind: _embed(lattice, one, asked.encoder.tile_um, workspace)
            for kind, one in kinds.items()
        }
        measured.append(section)
        seen.append(Seen(lattice, images))
        if rivals:
            wide = _embed(section, encoder, asked.wide_um, workspace)
            group = section.patient if asked.leave_out == "patient" else section.name
            views.append(RivalView(section, lattice, images["plain"], wide, group))
        progress(_EMBEDDING, len(measured), len(sections))
    return _Data(measured, seen, views, encoder, seen[0].section.pitch_um)


def _embed(
    section: PairedSection, encoder: LoadedEncoder, tile_um: float, workspace: Workspace
) -> NDArray[np.float32]:
    folder = workspace.root / "storm" / "spots" / encoder.card.name
    return cached_embeddings(section, encoder, tile_um=tile_um, folder=folder)


def _random(name: str) -> LoadedEncoder:
    """The encoder's network with weights drawn anew, by one seed."""
    loaded = load_encoder(name, device="cpu")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for module in loaded.model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return replace(loaded, digest=f"random:{loaded.digest}")


@dataclass(frozen=True, eq=False)
class _Network:
    seen: list[Seen]
    left_out: tuple[str, ...]
    recipe: Recipe
    seed: int
    n_genes: int
    pitch_um: float

    def run(self) -> list[HeldOut]:
        return hold_out(
            self.seen,
            self.left_out,
            self.recipe,
            seed=self.seed,
            n_genes=self.n_genes,
            pitch_um=self.pitch_um,
        )


@dataclass(frozen=True, eq=False)
class _Rival:
    views: list[RivalView]
    left_out: tuple[str, ...]
    name: str
    n_genes: int

    def run(self) -> list[HeldOut]:
        return hold_out_rival(self.name, self.views, self.left_out, n_genes=self.n_genes)


_Work = _Network | _Rival


def _in_processes(work: list[_Work], jobs: int, progress: Progress) -> list[HeldOut]:
    found: list[HeldOut] = []
    if not work:
        return found
    pool = joblib.Parallel(n_jobs=min(jobs, len(work)), return_as="generator")
    run: Callable[[Any], Any] = joblib.delayed(_run)
    for done, part in enumerate(pool(run(one) for one in work), 1):
        found += part
        progress(_FITTING, done, len(work))
    return found


def _run(work: _Work) -> list[HeldOut]:
    """One thread a process: sums then do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work.run()
    finally:
        torch.set_num_threads(threads)


def _maps(
    asked: EvaluationFile, data: _Data, found: list[HeldOut], genes: pd.DataFrame, how: str
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


def _how(asked: EvaluationFile, sections: list[PairedSection]) -> str:
    patients = {section.patient for section in sections}
    of = "one patient" if len(patients) == 1 else f"{len(patients)} patients"
    return (
        f"leave one {asked.leave_out} out, {len(sections)} sections of {of}, "
        f"{len(asked.seeds)} seeds"
    )


def _card(
    asked: EvaluationFile, sections: list[PairedSection], row: pd.DataFrame
) -> dict[str, Any]:
    figures = {name: round(float(row[name].iloc[0]), 4) for name in ("r", "lower", "upper", "mse")}
    return {
        "name": asked.name,
        **asked.card.model_dump(),
        "n_sections": len(sections),
        "n_patients": len({section.patient for section in sections}),
        "n_spots": sum(section.n_spots for section in sections),
        "left_out": dict(sum((Counter(section.left_out) for section in sections), Counter())),
        "technologies": sorted({section.technology for section in sections}),
        "held_out": {"how": _how(asked, sections), "over_all_genes": figures},
        "settings_digest": asked.digest,
    }
