"""What a feature file of another program says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storm_clinic.errors import FeatureError


@dataclass(frozen=True)
class ForeignFile:
    """One file of somebody else's, as it describes itself; None where it says nothing.

    ``tile_level0_px`` is a tile's side in level-0 px, ``magnification`` the nominal objective the
    tiles were read at. ``slide_mpp`` is the slide's own µm/px. ``row`` is the slide's row in a file
    whose rows are slides.
    """

    path: Path
    slide_id: str
    n_tiles: int
    width: int
    dtype: str
    mpp: float | None = None
    tile_px: int | None = None
    overlap_px: int | None = None
    tile_level0_px: float | None = None
    magnification: float | None = None
    encoder: str | None = None
    slide_mpp: float | None = None
    row: int | None = None
    licence: str | None = None

    def stated(self) -> str:
        """What the file says of encoder and geometry, for people."""
        names = ("encoder", "mpp", "tile_px", "overlap_px", "magnification")
        found = ((name, getattr(self, name)) for name in names)
        return ", ".join(f"{name} {value}" for name, value in found if value is not None)


def tile_shape(shape: Any, path: Path) -> tuple[int, int]:
    """(n_tiles, width) of embeddings of shape (n, d) or (1, n, d).

    Raises
    ------
    FeatureError
        If it is neither, or there is no tile; names file and key.
    """
    if shape is not None and len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if shape is None or 0 in shape:
        raise refusal(path, "features", "there is no tile")
    if len(shape) == 1:
        raise refusal(path, "features", f"is one vector of {shape[0]}, not one a tile")
    if len(shape) != 2:
        raise refusal(path, "features", f"must be (n_tiles, width), is {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def refusal(path: Path, key: str, problem: str) -> FeatureError:
    """An error that names the file and what in it is at fault."""
    return FeatureError(problem, where=f"{path}: {key}")
