"""Expression embedded by a frozen Novae, through a graph that holds no masked spot.

Untested with real weights: the package ``novae`` is heavy and its weights must be downloaded. What
is tested here is the graph, and that nothing but visible spots is handed over.

Novae reads a spot's neighbours and their neighbours. Were a masked spot in its graph, its counts
would stand in the embedding of spots two steps away, and the network could read there what it is to
predict. So the graph is built anew for each set of visible spots, from these alone. Novae also
measures each gene's mean and spread on what it is given; these too are the visible spots' only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import PairedSection

MODEL = "MICS-Lab/novae-human-0"
REACH = 1.25  # pitches: nearest neighbours of a square or hexagonal grid, not the diagonal ones


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


def embed_visible(
    section: PairedSection, visible: NDArray[np.bool_], *, model: str = MODEL
) -> NDArray[np.float32]:
    """Novae's embedding of each visible spot of a section.

    Parameters
    ----------
    section : PairedSection
        Its raw counts are normalised by Novae itself.
    visible : bool array, shape (n_spots,)
        False where a spot is masked.
    model : str
        Name on the hub, or a folder.

    Returns
    -------
    float32 array, shape (n_spots, width)
        NaN where a spot is masked.

    Raises
    ------
    SectionError
        If Novae is not installed, or nothing is visible.
    """
    graph = visible_graph(section.centres_um, visible, reach_um=REACH * section.pitch_um)
    try:
        import anndata
        import novae
    except ImportError as error:
        raise SectionError(
            f"Novae's embeddings need a package that is missing: {error}",
            where=f"section {section.name}",
            fix="Install it with: pip install novae; or use the network's own gene encoder.",
        ) from error
    shown = section.subset(visible, why="masked")
    table = anndata.AnnData(sparse.csr_matrix(shown.counts, dtype=np.float32))
    table.obs_names, table.var_names = list(shown.spots), list(shown.symbols)
    table.obsm["spatial"] = shown.centres_um
    # Novae's own function also names the slide; its graph is then replaced by ours.
    novae.spatial_neighbors(table, radius=REACH * section.pitch_um)
    table.obsp["spatial_distances"] = sparse.csr_matrix(graph)
    table.obsp["spatial_connectivities"] = sparse.csr_matrix(graph > 0, dtype=np.float64)
    novae.Novae.from_pretrained(model).compute_representations(table, zero_shot=True)
    found = np.asarray(table.obsm["novae_latent"], dtype=np.float32)
    embedded = np.full((section.n_spots, found.shape[1]), np.nan, dtype=np.float32)
    embedded[visible] = found
    return embedded
