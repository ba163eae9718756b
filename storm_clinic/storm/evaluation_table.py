"""What an evaluation says: per gene and section, per row of the table, and per gene for a card.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from storm_clinic.storm.array_places import grid_places
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.map_agreement import (
    gene_correlation,
    kept_morans_i,
    map_ssim,
    mean_squared_error,
    morans_i,
)
from storm_clinic.storm.neighbourhood import grid_angle, neighbourhoods
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.reliability import GeneReliability

_LEAST_SECTIONS = 3  # an interval over fewer says nothing
_LEVEL = 0.95


def by_gene(found: Sequence[HeldOut], sections: Mapping[str, PairedSection]) -> pd.DataFrame:
    """One row a recipe, seed, left-out section and gene.

    Columns ``recipe``, ``seed``, ``section``, ``patient``, ``gene``, ``r`` (Pearson over the
    section's spots; NaN where either side is constant), ``mse`` (log1p CP10k, squared), ``ssim`` of
    the two maps, ``moran_measured``, ``moran_imputed``.

    Parameters
    ----------
    found : sequence of HeldOut
        Of any recipes.
    sections : mapping of name to PairedSection
        With measured spots only, in the order of the rows of ``found``.
    """
    tables = []
    for one in found:
        section = sections[one.section]
        pitch = section.pitch_um
        angle = grid_angle(section.centres_um, pitch_um=pitch, grid=section.grid)
        places = grid_places(section.centres_um, pitch, angle, grid=section.grid)
        near = neighbourhoods(
            section.centres_um, pitch_um=pitch, grid=section.grid, side=3, angle=angle
        ).rows
        tables.append(
            pd.DataFrame(
                {
                    "recipe": one.recipe,
                    "seed": one.seed,
                    "section": one.section,
                    "patient": one.patient,
                    "gene": list(one.genes),
                    "r": gene_correlation(one.measured, one.imputed),
                    "mse": mean_squared_error(one.measured, one.imputed),
                    "ssim": map_ssim(one.measured, one.imputed, places),
                    "moran_measured": morans_i(one.measured, near),
                    "moran_imputed": morans_i(one.imputed, near),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def summary(genes: pd.DataFrame, *, rival: str | None) -> pd.DataFrame:
    """One row a recipe, in the order in which they come.

    Columns: ``r``, the mean over sections and genes, then over seeds; ``lower``, ``upper``, its 95%
    t interval over seeds (teaching anew, on the same sections: not over patients; NaN for one
    seed); ``worst``, ``best`` section's mean; ``mse``, ``ssim``, ``moran_kept`` (correlation over
    genes of measured and imputed Moran's I, mean over sections); ``not_defined``, pairs of gene and
    section without r, which are in no mean; ``ahead``, genes whose mean r exceeds the rival's, and
    ``of``, genes that both have.

    Parameters
    ----------
    genes : DataFrame
        From `by_gene`.
    rival : str, optional
        The recipe that others are counted against.
    """
    rows = []
    per_gene = genes.groupby(["recipe", "gene"])["r"].mean().unstack("recipe")
    for name, own in genes.groupby("recipe", sort=False):
        seeds = own.groupby("seed")["r"].mean()
        per_section = own.groupby("section")["r"].mean()
        half = np.nan
        if len(seeds) > 1 and seeds.notna().all():
            half = float(stats.t.ppf((1 + _LEVEL) / 2, len(seeds) - 1) * seeds.sem())
        ahead, both = np.nan, np.nan
        if rival is not None and rival in per_gene and name != rival:
            pairs = per_gene[[name, rival]].dropna()
            both, ahead = len(pairs), int((pairs[name] > pairs[rival]).sum())
        rows.append(
            {
                "recipe": name,
                "r": seeds.mean(),
                "lower": seeds.mean() - half,
                "upper": seeds.mean() + half,
                "worst": per_section.min(),
                "best": per_section.max(),
                "mse": own["mse"].mean(),
                "ssim": own["ssim"].mean(),
                "moran_kept": _kept(own),
                "not_defined": int(own["r"].isna().sum()),
                "ahead": ahead,
                "of": both,
            }
        )
    return pd.DataFrame(rows)


def reliability_of(
    genes: pd.DataFrame, recipe: str, vocabulary: GeneVocabulary, how: str
) -> GeneReliability:
    """Each gene's held-out correlation with a 95% interval over left-out sections.

    Fisher's z of each section's mean r over seeds, and Student's t over sections. Sections whose
    networks share most of their training data are not independent, and those of one patient say
    nothing of another: ``how`` must say what was left out. Genes that fewer than three sections
    were asked for are not evaluated.

    Parameters
    ----------
    genes : DataFrame
        From `by_gene`.
    recipe : str
        Whose.
    vocabulary : GeneVocabulary
        The checkpoint's.
    how : str
        See `GeneReliability`.

    References
    ----------
    Fisher, Metron 1 (1921) 3-32 (the transformation).
    """
    own = genes[genes["recipe"] == recipe]
    per_section = own.groupby(["gene", "section"])["r"].mean().dropna()
    size = len(vocabulary)
    r, lower, upper = (np.full(size, np.nan) for _ in range(3))
    places = {symbol: place for place, symbol in enumerate(vocabulary.symbols)}
    for gene, values in per_section.groupby("gene"):
        if gene not in places or len(values) < _LEAST_SECTIONS:
            continue
        z: NDArray[np.float64] = np.arctanh(values.to_numpy(dtype=np.float64).clip(-0.999, 0.999))
        half = stats.t.ppf((1 + _LEVEL) / 2, len(z) - 1) * stats.sem(z)
        place = places[str(gene)]
        r[place] = np.tanh(z.mean())
        lower[place], upper[place] = np.tanh(z.mean() - half), np.tanh(z.mean() + half)
    return GeneReliability(r, lower, upper, how)


def _kept(own: pd.DataFrame) -> float:
    values = [
        kept_morans_i(one["moran_measured"].to_numpy(), one["moran_imputed"].to_numpy())
        for _, one in own.groupby(["seed", "section"])
    ]
    known = np.array(values)[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan
