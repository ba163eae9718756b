"""Read sections of the her2st layout: ``images/``, ``counts/`` and ``spots/``, one file each."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import PairedSection

# Andersson et al., Nat. Commun. 12 (2021) 6012: arrays of 100 µm spots, 200 µm from centre to
# centre; a spot's diameter in the images gives their scale.
SPOT_UM = 100.0
PITCH_UM = 200.0
MPP = 0.688
_SECTION = re.compile(r"([A-Z]+)\d+")
_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def her2st_sections(folder: str | Path) -> tuple[str, ...]:
    """Names of the sections in a folder, sorted: those with a table of spots."""
    return tuple(sorted(path.stem for path in (Path(folder) / "spots").glob("*.tsv")))


def read_her2st(folder: str | Path, section: str, *, mpp: float = MPP) -> PairedSection:
    """Read one section, such as ``C2``; its letter is the patient.

    A spot is named by its place on the array (``10x21``). Spots that only one of the two tables
    has, and those marked as not under tissue, are left out and counted.

    Parameters
    ----------
    folder : str or Path
        Holds ``images/<section>.jpg``, ``counts/<section>.tsv.gz``, ``spots/<section>.tsv``.
    section : str
        Its name.
    mpp : float
        Microns per pixel of the image; that of the published images by default.

    Raises
    ------
    SectionError
        If a file is missing or damaged, or no spot is in both tables.
    """
    folder = Path(folder)
    match = _SECTION.fullmatch(section)
    if match is None:
        raise SectionError(
            f"{section!r} is no section: a letter for the patient and a number", where=folder
        )
    spots_path = folder / "spots" / f"{section}.tsv"
    counts_path = folder / "counts" / f"{section}.tsv.gz"
    spots, counts = _table(spots_path), _table(counts_path, index=True)
    absent = {"x", "y", "pixel_x", "pixel_y"} - set(spots.columns)
    if absent:
        raise SectionError(f"has no column {', '.join(sorted(absent))}", where=spots_path)
    names = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    for path, index in ((spots_path, pd.Index(names)), (counts_path, counts.index)):
        if index.has_duplicates:
            raise SectionError(f"spot {index[index.duplicated()][0]} occurs twice", where=path)
    selected = spots.get("selected", pd.Series(1, index=spots.index)) == 1
    counted = names.isin(counts.index)
    left_out = {
        "not under tissue": int((~selected).sum()),
        "no counts": int((selected & ~counted).sum()),
        "no place on the image": int((~counts.index.isin(names)).sum()),
    }
    both = (selected & counted).to_numpy()
    if not both.any():
        raise SectionError("no spot has both a place and counts", where=spots_path)
    chosen = tuple(names[both])
    return PairedSection(
        name=section,
        patient=match.group(1),
        technology="st",
        grid="square",
        spot_um=SPOT_UM,
        pitch_um=PITCH_UM,
        image=_image(folder, section),
        mpp=mpp,
        centres_px=spots.loc[both, ["pixel_x", "pixel_y"]].to_numpy(dtype=float),
        counts=counts.loc[list(chosen)].to_numpy(),
        symbols=tuple(map(str, counts.columns)),
        spots=chosen,
        left_out={why: n for why, n in left_out.items() if n},
    )


def _image(folder: Path, section: str) -> Path:
    found = [folder / "images" / f"{section}{suffix}" for suffix in _IMAGES]
    for path in found:
        if path.is_file():
            return path
    raise SectionError("there is no image of this section", where=found[0])


def _table(path: Path, *, index: bool = False) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t", index_col=0 if index else None)
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise SectionError(f"cannot be read as a table: {error}", where=path) from error
