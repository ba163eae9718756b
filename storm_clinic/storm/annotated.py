"""Read sections from ``.h5ad``: the layout of HEST-1k, and any file with ``obsm["spatial"]``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import Grid, PairedSection
from storm_clinic.storm.section_reading import read_apart

# How HEST-1k's metadata name technologies.
_TECHNOLOGIES: dict[str, tuple[str, Grid]] = {
    "Visium": ("visium", "hexagonal"),
    "Visium HD": ("visium_hd", "square"),
    "Spatial Transcriptomics": ("st", "square"),
    "Xenium": ("xenium", "square"),
}
_PIXEL_SIZES = ("pixel_size_um_estimated", "pixel_size_um_embedded")


def read_h5ad(
    path: str | Path,
    *,
    patient: str,
    technology: str,
    grid: Grid,
    spot_um: float,
    pitch_um: float,
    mpp: float,
    name: str | None = None,
    image: str | Path | None = None,
    layer: str | None = None,
) -> PairedSection:
    """Read any AnnData file whose ``obsm["spatial"]`` holds centres (x, y) in level-0 pixels.

    Nothing physical is in the format itself, so all of it is asked for.

    Parameters
    ----------
    path : str or Path
        The file.
    patient, technology, grid, spot_um, pitch_um, mpp, image
        See `PairedSection`.
    name : str, optional
        The file's name without its ending by default.
    layer : str, optional
        Where raw counts are, if not in ``X``.

    Raises
    ------
    SectionError
        If anndata is not installed, the file is damaged, has no ``obsm["spatial"]`` or layer, or
        its values are no raw counts; or if the process that reads it dies or hangs.
    """
    path = Path(path)
    if find_spec("anndata") is None:
        raise SectionError(
            "needs the package anndata",
            where=path,
            fix="Install it with: pip install 'storm-clinic[storm]'",
        )
    table = read_apart(_read, path, layer=layer)
    return PairedSection(
        name=name or path.stem,
        patient=patient,
        technology=technology,
        grid=grid,
        spot_um=spot_um,
        pitch_um=pitch_um,
        image=None if image is None else Path(image),
        mpp=mpp,
        centres_px=table.centres_px,
        counts=table.counts,
        symbols=table.symbols,
        spots=table.spots,
    )


def read_hest(folder: str | Path, sample: str) -> PairedSection:
    """Read one sample of HEST-1k: ``st/<id>.h5ad``, ``wsis/<id>.tif``, ``metadata/<id>.json``.

    The pixel size that HEST estimated from the spots is preferred to the one that the slide's file
    states. A sample without a patient is its own patient.

    Raises
    ------
    SectionError
        As `read_h5ad`, or if the metadata lack pixel size, spot size or pitch.

    References
    ----------
    Jaume et al., HEST-1k, NeurIPS 2024 (datasets and benchmarks).
    """
    folder = Path(folder)
    about = folder / "metadata" / f"{sample}.json"
    try:
        facts = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SectionError(f"cannot be read: {error}", where=about) from error
    stated = str(facts.get("st_technology"))
    if stated not in _TECHNOLOGIES:
        raise SectionError(
            f"st_technology is {stated!r}, not one of {', '.join(_TECHNOLOGIES)}", where=about
        )
    technology, grid = _TECHNOLOGIES[stated]
    image = folder / "wsis" / f"{sample}.tif"
    return read_h5ad(
        folder / "st" / f"{sample}.h5ad",
        name=sample,
        patient=str(facts.get("patient") or sample),
        technology=technology,
        grid=grid,
        spot_um=_length(facts, ("spot_diameter",), about),
        pitch_um=_length(facts, ("inter_spot_dist",), about),
        mpp=_length(facts, _PIXEL_SIZES, about),
        image=image if image.is_file() else None,
    )


def _length(facts: dict[str, Any], keys: tuple[str, ...], where: Path) -> float:
    for key in keys:
        value = facts.get(key)
        # Metadata made from a table hold NaN where a value is missing, which is not itself.
        if isinstance(value, int | float) and value == value and value > 0:
            return float(value)
    raise SectionError(f"states no {' or '.join(keys)}", where=where)


@dataclass(frozen=True, eq=False)
class _Table:
    """What a section takes of an AnnData file."""

    centres_px: Any
    counts: Any
    symbols: tuple[str, ...]
    spots: tuple[str, ...]


def _read(path: Path, *, layer: str | None) -> _Table:
    import anndata

    try:
        table = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise SectionError(f"is no readable .h5ad: {error}", where=path) from error
    if "spatial" not in table.obsm:
        raise SectionError('has no obsm["spatial"]', where=path)
    if layer is not None and layer not in table.layers:
        raise SectionError(f"has no layer {layer!r}", where=path)
    return _Table(
        centres_px=table.obsm["spatial"][:, :2],
        counts=table.X if layer is None else table.layers[layer],
        symbols=tuple(map(str, table.var_names)),
        spots=tuple(map(str, table.obs_names)),
    )
