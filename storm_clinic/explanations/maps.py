"""One slide's map for people and programs: GeoJSON, OME-TIFF, and a picture over the slide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storm_clinic.files import atomic_write, write_text
from storm_clinic.study import VIRTUAL

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_OPACITY = 0.55
_SAYS = {  # of a tile, by the kind of map
    "attention": "attention (1 = an equal share)",
    "occlusion": "change of risk by a tile",
    "attribution": "what a tile adds to the risk",
}
_SIGNED = ("occlusion", "attribution")  # of these 0 means nothing, and stands in the middle
_OF = {"image": "image", "storm": "STORM context", VIRTUAL: "imputed expression"}


@dataclass(frozen=True, eq=False)
class SlideMap:
    """What a model says of one slide's tiles.

    Attributes
    ----------
    slide_id : str
    coords : int64 array, shape (n_tiles, 2)
        Top-left corners, level-0 px.
    side_px : float
        Side of a tile, level-0 px.
    slide_mpp : float
        µm per level-0 px.
    values : dict of str to float64 array, shape (n_tiles,)
        ``attention`` (times the patient's tiles: 1 is an equal share), ``occlusion`` (change
        of the risk a tile makes; NaN where it cannot be told) and ``attribution`` (what a tile
        adds to the risk), as far as they are known. Where tiles are not the image's alone, a dash
        and the input follow: ``occlusion-storm``.
    """

    slide_id: str
    coords: NDArray[np.int64]
    side_px: float
    slide_mpp: float
    values: Mapping[str, Floats]

    def grid(self, name: str) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Values on the grid of tiles, NaN where there is none, and its corner in level-0 px.

        A cell is a tile wide. Tiles that overlap share cells, which then hold their mean.
        """
        corner = self.coords.min(axis=0)
        cells = np.floor((self.coords - corner) / self.side_px + 0.5).astype(np.int64)
        width, height = cells.max(axis=0) + 1
        total, count = np.zeros((height, width)), np.zeros((height, width))
        known = np.isfinite(self.values[name])
        at = (cells[known, 1], cells[known, 0])
        np.add.at(total, at, self.values[name][known])
        np.add.at(count, at, 1)
        found = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        return found.astype(np.float32), (int(corner[0]), int(corner[1]))


def write_geojson(path: Path, map_: SlideMap) -> None:
    """Tiles as squares in level-0 px with their values as measurements, as QuPath reads them.

    Import it there by dropping the file on the slide.
    """
    features = []
    for row, (x, y) in enumerate(map_.coords.tolist()):
        right, bottom = x + map_.side_px, y + map_.side_px
        ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
        measured = {
            name: float(values[row])
            for name, values in map_.values.items()
            if np.isfinite(values[row])
        }
        features.append(
            {
                "type": "Feature",
                "id": f"tile-{row}",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "tile", "measurements": measured},
            }
        )
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}) + "\n")


def write_ome_tiff(path: Path, map_: SlideMap) -> None:
    """The map as OME-TIFF: one float32 channel a map, a pixel a tile, NaN where there is none.

    Pixel sizes are in µm; the plane's position is that of the first pixel's corner on the slide.
    """
    import tifffile

    names = list(map_.values)
    planes = [map_.grid(name)[0] for name in names]
    _, corner = map_.grid(names[0])
    side_um = map_.side_px * map_.slide_mpp
    position = {
        "PositionX": [corner[0] * map_.slide_mpp] * len(names),
        "PositionXUnit": ["µm"] * len(names),
        "PositionY": [corner[1] * map_.slide_mpp] * len(names),
        "PositionYUnit": ["µm"] * len(names),
    }
    metadata = {
        "axes": "CYX",
        "Name": map_.slide_id,
        "Channel": {"Name": names},
        "PhysicalSizeX": side_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": side_um,
        "PhysicalSizeYUnit": "µm",
        "Plane": position,
    }
    with atomic_write(path) as part:
        tifffile.imwrite(
            part, np.stack(planes), ome=True, metadata=metadata, photometric="minisblack"
        )


def write_overlay(
    path: Path, map_: SlideMap, name: str, thumbnail: Pixels, thumbnail_mpp: float
) -> None:
    """The map over the slide's thumbnail, with a colour bar; grey scales stay readable in print.

    Parameters
    ----------
    path : Path
        A PNG.
    map_ : SlideMap
        What is drawn.
    name : str
        Of its values: attention from low to high, others from lowering to raising, 0 in the middle.
    thumbnail : uint8 array, shape (height, width, 3)
        Of the whole slide.
    thumbnail_mpp : float
        µm per pixel of it.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    values = map_.values[name]
    limit = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    kind, _, input_name = name.partition("-")
    signed = kind in _SIGNED
    # Both maps are told apart by colour-blind readers: cividis, and blue against orange-brown.
    colours = colormaps["PuOr_r" if signed else "cividis"]
    scale = Normalize(-(limit or 1.0) if signed else 0.0, limit or 1.0)
    pixels = draw_tiles(thumbnail, map_, colours(scale(values))[:, :3], thumbnail_mpp)
    height, width = pixels.shape[:2]
    figure = Figure(
        figsize=(6.4 + 1.2, max(1.6, 6.4 * height / width)), dpi=130, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(pixels)
    axes.set_axis_off()
    label = f"{_SAYS[kind]}, {_OF[input_name]}" if input_name else _SAYS[kind]
    figure.colorbar(ScalarMappable(scale, colours), ax=axes, label=label, shrink=0.8)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", metadata={"Software": "storm_clinic"})


def draw_tiles(thumbnail: Pixels, map_: SlideMap, colours: Floats, thumbnail_mpp: float) -> Pixels:
    """The thumbnail with each tile's square tinted; colours of 0 to 1, shape (n_tiles, 3)."""
    tint = np.zeros((*thumbnail.shape[:2], 3))
    count = np.zeros(thumbnail.shape[:2])
    factor = map_.slide_mpp / thumbnail_mpp
    starts = np.rint(map_.coords * factor).astype(np.int64)
    stops = np.rint((map_.coords + map_.side_px) * factor).astype(np.int64)
    for (x0, y0), (x1, y1), colour in zip(starts, stops, colours, strict=True):
        tint[y0:y1, x0:x1] += colour
        count[y0:y1, x0:x1] += 1
    seen = count > 0
    drawn = thumbnail.astype(np.float64)
    mean = tint[seen] / count[seen][:, None] * 255
    drawn[seen] = (1 - _OPACITY) * drawn[seen] + _OPACITY * mean
    return np.rint(drawn).astype(np.uint8)
