"""What evaluation and fine-tuning share: sections, their embeddings, and what is said of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.encoders.runtimes import use_runtime
from storm_clinic.files import Workspace, csv_text, write_json, write_text
from storm_clinic.progress import Progress
from storm_clinic.storm.evaluate import Looks, Recipe, Seen
from storm_clinic.storm.evaluation_file import EvaluationFile
from storm_clinic.storm.lattice import with_points_between
from storm_clinic.storm.own_encoder import seen_by_encoder
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.rivals import RivalView
from storm_clinic.storm.section_sources import read_sources
from storm_clinic.storm.spot_cache import cached_embeddings, cached_views, spots_folder
from storm_clinic.storm.tile_views import tile_views
from storm_clinic.storm.trained_on import TrainedSection
from storm_clinic.tracking import Metric, RunLog

_EMBEDDING = "embed sections"
_STAIN_SEED = 0  # of the dyes of other looks: every seed of an evaluation is taught by the same


@dataclass(frozen=True, eq=False)
class PairedData:
    """Sections with all embeddings that networks and rivals need.

    Attributes
    ----------
    measured : list of PairedSection
        Measured spots alone.
    seen : list of Seen
        The same on their lattices.
    views : list of RivalView
        The same for rivals; empty where there are none.
    encoders : mapping of str to LoadedEncoder
        By the kinds of `Recipe.encoder`; "plain" is always there.
    pitch_um : float
        Step of the lattices.
    seen_by_encoder : tuple of TrainedSection
        What the encoder was trained on here.
    """

    measured: list[PairedSection]
    seen: list[Seen]
    views: list[RivalView]
    encoders: Mapping[str, LoadedEncoder]
    pitch_um: float
    seen_by_encoder: tuple[TrainedSection, ...]

    @property
    def encoder(self) -> LoadedEncoder:
        """With the catalogue's weights."""
        return self.encoders["plain"]


def read_paired(
    asked: EvaluationFile,
    recipes: Sequence[Recipe],
    workspace: Workspace,
    progress: Progress,
    *,
    rivals: bool,
) -> PairedData:
    """Read the sections of a YAML and embed them; embeddings are kept in the workspace.

    Parameters
    ----------
    asked : EvaluationFile
        Whose sections.
    recipes : sequence of Recipe
        Which networks are to see them.
    workspace : Workspace
        Where embeddings are kept.
    progress : callable
        See `Progress`.
    rivals : bool
        Whether rivals are to see them too.
    """
    weights = asked.encoder.weights_path(workspace)
    encoder = load_encoder(asked.encoder.name, weights=weights, device="cpu")
    seen_before = seen_by_encoder(weights, encoder.digest)
    kinds = {"plain": encoder}
    if any(recipe.encoder == "random" for recipe in recipes):
        kinds["random"] = _random(asked.encoder.name, weights)
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
        others = {
            looks: _embed_looks(lattice, kinds[looks.encoder], looks, asked, workspace)
            for looks in {recipe.looks for recipe in recipes}
            if looks.n_looks > 1
        }
        measured.append(section)
        seen.append(Seen(lattice, images, others))
        if rivals:
            wide = _embed(section, encoder, asked.wide_um, workspace)
            group = section.patient if asked.leave_out == "patient" else section.name
            views.append(RivalView(section, lattice, images["plain"], wide, group))
        progress(_EMBEDDING, len(measured), len(sections))
    return PairedData(measured, seen, views, kinds, seen[0].section.pitch_um, seen_before)


def _embed(
    section: PairedSection, encoder: LoadedEncoder, tile_um: float, workspace: Workspace
) -> NDArray[np.float32]:
    folder = spots_folder(workspace, encoder)
    return cached_embeddings(section, encoder, tile_um=tile_um, folder=folder)


def _embed_looks(
    section: PairedSection,
    encoder: LoadedEncoder,
    looks: Looks,
    asked: EvaluationFile,
    workspace: Workspace,
) -> NDArray[np.float32]:
    """All looks but the first, by the fastest runtime at hand: nothing at inference is like them.

    It differs from the others' by rounding alone, see `storm_clinic.encoders.runtimes`.
    """
    fastest, _ = use_runtime(encoder, "auto")
    return cached_views(
        section,
        fastest,
        tile_views(looks.n_looks, stain=looks.stain, seed=_STAIN_SEED)[1:],
        tile_um=asked.encoder.tile_um,
        folder=spots_folder(workspace, encoder),
    )


def _random(name: str, weights: Path | None) -> LoadedEncoder:
    """The encoder's network with weights drawn anew, by one seed."""
    loaded = load_encoder(name, weights=weights, device="cpu")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for module in loaded.model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return replace(loaded, digest=f"random:{loaded.digest}")


def how_left_out(asked: EvaluationFile, sections: list[PairedSection]) -> str:
    """What was left out, as a sentence."""
    patients = {section.patient for section in sections}
    of = "one patient" if len(patients) == 1 else f"{len(patients)} patients"
    return (
        f"leave one {asked.leave_out} out, {len(sections)} sections of {of}, "
        f"{len(asked.seeds)} seeds"
    )


def log_held_out(
    run: RunLog, asked: EvaluationFile, table: pd.DataFrame | None, tags: Mapping[str, str]
) -> None:
    """Keep settings, the network's figures and the table; sections are counted, not named.

    The table is None where nothing was left out.
    """
    settings = asked.resolved()
    settings.pop("sections")
    figures = ("r", "lower", "upper", "worst", "best", "mse", "ssim", "moran_kept")
    metrics = []
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        write_json(files / "settings.json", settings)
        if table is not None:
            own = table[table["recipe"] == asked.network.name].iloc[0]
            metrics = [Metric(name, float(own[name]), 0) for name in figures]
            write_text(files / "table.csv", csv_text(table))
        run.log(
            metrics=metrics,
            params={f"network.{name}": value for name, value in settings["network"].items()},
            tags=tags,
            artifacts=files,
        )
