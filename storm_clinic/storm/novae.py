"""Expression embedded by a frozen Novae, through a graph that holds no masked spot.

Untested with real weights: the package ``novae`` is heavy and its weights must be downloaded. What
is tested here is the graph, and that nothing but visible spots is handed over.

Novae reads a spot's neighbours and their neighbours. Were a masked spot in its graph, its counts
would stand in the embedding of spots two steps away, and the network could read there what it is to
predict. So the graph is built anew for each set of visible spots, from these alone; what Novae
measures over all spots (depth, variable genes, mean and spread of each) is theirs only as well.

An embedding is therefore good for *one* set of visible spots: a context made from it masks all
others, and those alone. Pretraining draws some sets a section, embeds each once, and takes one of
them for each batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from storm_clinic.encoders.weights import weights_digest
from storm_clinic.errors import SectionError
from storm_clinic.files import digest_value
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.paired import PairedSection

MODEL = "MICS-Lab/novae-human-0"
REACH = 1.25  # pitches: nearest neighbours of a square or hexagonal grid, not the diagonal ones


@dataclass(frozen=True, eq=False)
class NovaeDraws:
    """Novae's embeddings of a section for some sets of visible spots.

    Attributes
    ----------
    novae : float32 array, shape (n_draws, n_spots, width)
        NaN where a spot is masked or Novae has no embedding of it.
    visible : bool array, shape (n_draws, n_spots)
        The sets.
    """

    novae: NDArray[np.float32]
    visible: NDArray[np.bool_]


def embed_draws(
    section: PairedSection, novae: LoadedNovae, *, n_draws: int, visible_share: float, seed: int
) -> NovaeDraws:
    """Embed a section for sets of visible spots that are drawn.

    Parameters
    ----------
    section : PairedSection
        With raw counts; spots without any are never visible.
    novae : LoadedNovae
        From `load_novae`.
    n_draws : int
        How many sets.
    visible_share : float
        Chance of a spot to be visible.
    seed : int
        With the section's name and the set's number it decides a set.

    Raises
    ------
    SectionError
        See `embed_visible`.
    """
    counted = np.asarray(section.counts.sum(axis=1)).reshape(-1) > 0
    visible = np.empty((n_draws, section.n_spots), dtype=bool)
    for draw in range(n_draws):
        number = int(digest_value([seed, section.name, draw])[:15], 16)
        chance = np.random.default_rng(number).random(section.n_spots)
        visible[draw] = counted & (chance < visible_share)
    embedded = [embed_visible(section, one, novae) for one in visible]
    return NovaeDraws(np.stack(embedded), visible)


@dataclass(frozen=True, eq=False)
class LoadedNovae:
    """A Novae with its weights.

    Attributes
    ----------
    digest : str
        SHA-256 of its weights; see `weights_digest`.
    network : novae.Novae
    """

    digest: str
    network: Any


def load_novae(model: str = MODEL) -> LoadedNovae:
    """Load a Novae.

    Parameters
    ----------
    model : str
        Name on the hub, or a folder.

    Raises
    ------
    SectionError
        If Novae is not installed.
    """
    network = _novae().Novae.from_pretrained(model)
    return LoadedNovae(weights_digest(dict(network.state_dict())), network)


def visible_graph(
    centres_um: NDArray[Any], visible: NDArray[np.bool_], *, reach_um: float
) -> sparse.csr_array:
    """Distances between visible spots that are near each other.

    Parameters
    ----------
    centres_um : float array, shape (n_spots, 2)
        Of all spots.
    visible : bool array, shape (n_spots,)
        False where a spot is masked.
    reach_um : float
        How far apart neighbours may be.

    Returns
    -------
    sparse CSR array of float64, shape (n_visible, n_visible)
        µm between neighbours, in the order of the visible spots; masked spots are no nodes of it,
        so that no path leads through one.

    Raises
    ------
    SectionError
        If sizes do not go together, nothing is visible, or the reach is no length.
    """
    centres = np.asarray(centres_um, dtype=np.float64)
    problem = None
    if centres.shape != (len(visible), 2) or visible.dtype != bool:
        problem = f"{visible.dtype} flags of {visible.shape} do not go with {centres.shape} centres"
    elif not visible.any():
        problem = "no spot is visible"
    elif not 0 < reach_um < np.inf:
        problem = f"a reach of {reach_um} µm cannot be"
    if problem:
        raise SectionError(problem, where="graph of visible spots")
    shown = centres[visible]
    pairs = cKDTree(shown).query_pairs(reach_um, output_type="ndarray")
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    lengths = np.linalg.norm(shown[rows] - shown[columns], axis=1)
    return sparse.csr_array((lengths, (rows, columns)), shape=(len(shown), len(shown)))


def within_two_steps(graph: sparse.csr_array) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Which spots lie one step from each other, and which exactly two.

    Parameters
    ----------
    graph : sparse array, shape (n, n)
        From `visible_graph`.

    Returns
    -------
    two sparse CSR arrays of bool, shape (n, n)
        Their union is what Novae reads beside the spot itself.
    """
    one = sparse.csr_array(graph > 0)
    paths = sparse.csr_array(one.astype(np.int64) @ one.astype(np.int64)).tocoo()
    apart = paths.row != paths.col
    flags = (np.ones(int(apart.sum()), dtype=bool), (paths.row[apart], paths.col[apart]))
    reached = sparse.csr_array(flags, shape=paths.shape)
    two = sparse.csr_array(reached > one)
    two.eliminate_zeros()
    return one, two


def embed_visible(
    section: PairedSection, visible: NDArray[np.bool_], novae: LoadedNovae
) -> NDArray[np.float32]:
    """Novae's embedding of each visible spot of a section.

    Parameters
    ----------
    section : PairedSection
        With raw counts.
    visible : bool array, shape (n_spots,)
        False where a spot is masked.
    novae : LoadedNovae
        From `load_novae`.

    Returns
    -------
    float32 array, shape (n_spots, width)
        NaN where a spot is masked, and where no visible spot lies exactly two steps away: Novae
        embeds no such spot, and puts zeros there. On a square grid of which a fifth is visible
        seven in ten visible spots have none, where two fifths are visible one in four.

    Raises
    ------
    SectionError
        If Novae refuses the spots, would embed none of them, or gives numbers that are not finite.
    """
    where = f"section {section.name}"
    if not visible.any():
        raise SectionError("no spot is visible", where=where, fix="Mask fewer spots.")
    reach_um = REACH * section.pitch_um
    graph = visible_graph(section.centres_um, visible, reach_um=reach_um)
    has_one = within_two_steps(graph)[1].sum(axis=1) > 0
    if not has_one.any():
        raise SectionError(
            "no visible spot has another two steps away, so that Novae embeds none",
            where=where,
            fix="Mask fewer spots.",
        )
    import anndata

    shown = section.subset(visible, why="masked")
    genes = GeneVocabulary.of_panels([shown.symbols], {})  # one column a symbol, as Novae needs
    table = anndata.AnnData(_log_counts(genes.panel(shown.symbols).gather(shown.counts)))
    table.obs_names, table.var_names = list(shown.spots), list(genes.symbols)
    table.obsm["spatial"] = shown.centres_um
    try:
        # Novae's own function also names the slide; its graph is then replaced by the tested one.
        # Without Delaunay, which cannot be where few spots are visible or all lie in one row.
        _novae().spatial_neighbors(table, radius=reach_um, delaunay=False)
        table.obsp["spatial_distances"] = sparse.csr_matrix(graph)
        table.obsp["spatial_connectivities"] = sparse.csr_matrix(graph > 0, dtype=np.float64)
        # Not zero-shot: that adds clusters, which need 512 spots, and changes no embedding.
        novae.network.compute_representations(table)
    except (AssertionError, ValueError) as error:
        raise SectionError(f"Novae refuses these spots: {error}", where=where) from error
    found = np.asarray(table.obsm["novae_latent"], dtype=np.float32)
    if not np.isfinite(found[has_one]).all():
        raise SectionError("Novae gives numbers that are not finite", where=where)
    embedded = np.full((section.n_spots, found.shape[1]), np.nan, dtype=np.float32)
    embedded[np.flatnonzero(visible)[has_one]] = found[has_one]
    return embedded


def _novae() -> Any:
    try:
        import novae
    except ImportError as error:
        raise SectionError(
            f"Novae's embeddings need a package that is missing: {error}",
            where="Novae",
            fix="Install it with: pip install novae; or use the network's own gene encoder.",
        ) from error
    return novae


def _log_counts(counts: Any) -> sparse.csr_matrix:
    """log1p of counts at the spots' median depth, as Novae makes it of counts it recognises.

    It takes a table whose highest value is below 10 for one that is logged, raw or not.
    """
    library = np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1)
    found = library[library > 0]
    depth = float(np.median(found)) if len(found) else 1.0
    scaled = sparse.csr_array(counts, dtype=np.float64)
    scaled = sparse.csr_array(sparse.diags_array(depth / np.maximum(library, 1)) @ scaled)
    return sparse.csr_matrix(scaled.log1p(), dtype=np.float32)
