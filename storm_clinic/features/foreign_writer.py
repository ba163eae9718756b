"""One slide's embeddings in the layouts of other programs: TRIDENT, CLAM, STAMP, AnnData.

What their formats have no place for goes into attributes whose names begin with ``storm_clinic_``;
other programs ignore them, and `storm_clinic.features.foreign_file` reads them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from storm_clinic.errors import FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.files import atomic_write

Layout = Literal["trident", "clam", "stamp", "anndata"]

OURS = "storm_clinic_"
# The first version of STAMP whose files say tile_size_um; newer programs read older files.
_STAMP_VERSION = "2.1.0"
_UNKNOWN_PX = -1  # what TRIDENT writes where it does not know


def place_of(layout: Layout, slide_id: str, contract: FeatureContract) -> Path:
    """Where a slide's file belongs, relative to the folder that the other program is given."""
    if layout == "trident" and contract.mpp is not None:
        grid = (
            f"{_magnification(contract.mpp)}x_{contract.tile_px}px_{contract.overlap_px}px_overlap"
        )
        return Path(grid) / f"features_{contract.encoder}" / f"{slide_id}.h5"
    if layout == "clam":
        return Path("h5_files") / f"{slide_id}.h5"
    return Path(f"{slide_id}.h5ad" if layout == "anndata" else f"{slide_id}.h5")


def write_foreign(
    path: Path, layout: Layout, slide: SlideFeatures, contract: FeatureContract
) -> None:
    """Write one slide.

    Parameters
    ----------
    path : Path
        Appears whole or not at all. For CLAM the tensor of ``pt_files`` is written beside it.
    layout : str
        Whose format.
    slide : SlideFeatures
        What is written.
    contract : FeatureContract
        Of its store.

    Raises
    ------
    FeatureError
        If the layout needs something that is not known of this slide.
    """
    _WRITERS[layout](path, slide, contract)


def own_attributes(slide: SlideFeatures, contract: FeatureContract) -> dict[str, Any]:
    """What other formats have no place for; nothing that is not known."""
    known = {
        "encoder": contract.encoder,
        "encoder_digest": contract.encoder_digest,
        "pooling": contract.pooling,
        "licence": contract.licence,
        "mpp": contract.mpp,
        "tile_px": contract.tile_px,
        "overlap_px": contract.overlap_px if contract.geometry_known else None,
        "slide_mpp": slide.slide_mpp,
        "slide_mpp_source": slide.slide_mpp_source,
        "slide_digest": slide.slide_digest,
        "vendor": slide.vendor,
    }
    return {f"{OURS}{name}": value for name, value in known.items() if value is not None}


def _trident(path: Path, slide: SlideFeatures, contract: FeatureContract) -> None:
    coords, slide_mpp, mpp, tile_px = _located(slide, contract, "TRIDENT")
    of_coords: dict[str, Any] = {
        "patch_size": tile_px,
        "patch_size_level0": round(tile_px * mpp / slide_mpp),
        "level0_magnification": _magnification(slide_mpp),
        "target_magnification": _magnification(mpp),
        "overlap": contract.overlap_px,
        "name": slide.slide_id,
        "savetodir": "",
        "level0_width": _UNKNOWN_PX,
        "level0_height": _UNKNOWN_PX,
    }
    of_features = {"name": slide.slide_id, "savetodir": "", "encoder": contract.encoder}
    datasets: dict[str, tuple[Any, Mapping[str, Any]]] = {
        "features": (slide.features, of_features),
        "coords": (coords, of_coords),
    }
    _write_hdf5(path, datasets, own_attributes(slide, contract))


def _clam(path: Path, slide: SlideFeatures, contract: FeatureContract) -> None:
    import torch

    datasets: dict[str, tuple[Any, Mapping[str, Any]]] = {"features": (slide.features, {})}
    if slide.coords is not None:
        datasets["coords"] = (slide.coords, {})
    _write_hdf5(path, datasets, own_attributes(slide, contract))
    tensor = path.parent.with_name("pt_files") / f"{slide.slide_id}.pt"
    with atomic_write(tensor) as part:
        # CLAM's own models multiply it with float32 weights.
        torch.save(torch.from_numpy(np.array(slide.features, dtype=np.float32)), part)


def _stamp(path: Path, slide: SlideFeatures, contract: FeatureContract) -> None:
    coords, slide_mpp, mpp, tile_px = _located(slide, contract, "STAMP")
    root = {
        "stamp_version": _STAMP_VERSION,
        "extractor": contract.encoder,
        "unit": "um",
        "tile_size_um": float(tile_px * mpp),
        "tile_size_px": tile_px,
        "code_hash": "",
        "feat_type": "tile",
    }
    micrometres = (coords * slide_mpp).astype(np.float32)
    datasets: dict[str, tuple[Any, Mapping[str, Any]]] = {
        "coords": (micrometres, {}),
        "feats": (slide.features, {}),
    }
    _write_hdf5(path, datasets, root | own_attributes(slide, contract))


def _anndata(path: Path, slide: SlideFeatures, contract: FeatureContract) -> None:
    import pandas as pd

    tiles = pd.Index([f"tile {row}" for row in range(slide.n_tiles)])
    obs = pd.DataFrame(index=tiles)
    if slide.tissue is not None:
        obs["tissue"] = slide.tissue.astype(np.float32)
    obsm = {} if slide.coords is None else {"spatial": slide.coords}
    own = own_attributes(slide, contract) | {f"{OURS}obs": "tiles"}
    write_anndata(path, slide.features, obs, obsm, own)


def write_anndata(
    path: Path, values: Any, obs: Any, obsm: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    """Write one ``.h5ad``; ``own`` becomes ``uns["storm_clinic"]`` without the names' beginning.

    Raises
    ------
    FeatureError
        If the package anndata is not installed.
    """
    try:
        import anndata
    except ImportError as error:
        raise FeatureError(
            f"needs the package anndata: {error}",
            where=path,
            fix="Install it with: pip install 'storm-clinic[interop]'",
        ) from error
    table = anndata.AnnData(
        X=np.array(values),
        obs=obs,
        obsm=dict(obsm),
        uns={"storm_clinic": {name.removeprefix(OURS): value for name, value in own.items()}},
    )
    with atomic_write(path) as part:
        table.write_h5ad(part)


def _write_hdf5(
    path: Path,
    datasets: Mapping[str, tuple[Any, Mapping[str, Any]]],
    attributes: Mapping[str, Any],
) -> None:
    with atomic_write(path) as part, h5py.File(part, "w", track_order=False) as file:
        file.attrs.update(attributes)
        for name, (values, of_dataset) in datasets.items():
            file.create_dataset(name, data=values).attrs.update(of_dataset)


def _located(
    slide: SlideFeatures, contract: FeatureContract, program: str
) -> tuple[Any, float, float, int]:
    """Coordinates, the slide's µm/px, and mpp and side of the tiles; refused if not known."""
    missing = None
    if slide.coords is None:
        missing = "where its tiles lie"
    elif contract.mpp is None or contract.tile_px is None:
        missing = "the size of its tiles"
    elif slide.slide_mpp is None:
        missing = "the slide's own µm per pixel"
    if missing:
        raise FeatureError(
            f"{program}'s files state {missing}, and that is not known",
            where=f"slide {slide.slide_id}",
            fix="Extract the slide here, or export to clam or anndata, which can do without.",
        )
    assert slide.slide_mpp is not None
    assert contract.mpp is not None
    assert contract.tile_px is not None
    return slide.coords, slide.slide_mpp, contract.mpp, contract.tile_px


def _magnification(mpp: float) -> int:
    """Nominal objective of a pixel size, as 20 for 0.5 µm; at least 1."""
    return max(1, round(10 / mpp))


_WRITERS: dict[Layout, Callable[[Path, SlideFeatures, FeatureContract], None]] = {
    "trident": _trident,
    "clam": _clam,
    "stamp": _stamp,
    "anndata": _anndata,
}
