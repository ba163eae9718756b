"""A page of the tiles that a model weighs most and least, of the cohort and of each patient."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from storm_clinic.files import write_text
from storm_clinic.reporting.content import TileGallery, TilePicture

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "figure{display:inline-block;margin:.3rem;width:10rem;vertical-align:top}"
    "img{width:10rem;height:10rem}figcaption{font-size:.8rem;color:#444}"
    "h2{margin-top:2rem}"
)

Patient = tuple[str, Sequence[TilePicture], Sequence[TilePicture]]


def write_gallery(
    path: Path,
    model: str,
    cohort: str,
    gallery: TileGallery | None,
    why_none: str | None,
    patients: Sequence[Patient],
) -> None:
    """Write the page; patients are named by their keys.

    Parameters
    ----------
    path : Path
        Of the page; pictures are inside it.
    model, cohort : str
        Names.
    gallery : TileGallery, optional
        Of the cohort.
    why_none : str, optional
        Why there is no such gallery.
    patients : sequence of (key, highest tiles, lowest tiles)
        One a patient.
    """
    parts = [f"<h1>Tiles of {escape(cohort)} as model {escape(model)} weighs them</h1>"]
    if gallery is None:
        parts.append(f"<p>No tiles of the cohort are shown: {escape(str(why_none))}.</p>")
    else:
        parts.append(f"<h2>Cohort</h2><p>{escape(gallery.note)}</p>")
        parts += ["<h3>Most</h3>", _row(gallery.most), "<h3>Least</h3>", _row(gallery.least)]
    for key, most, least in patients:
        parts.append(f"<h2>Patient {escape(key[:12])}…</h2>")
        parts += ["<h3>Most</h3>", _row(most), "<h3>Least</h3>", _row(least)]
    head = f"<meta charset=utf-8><title>{escape(cohort)}: tiles</title><style>{_STYLE}</style>"
    write_text(path, f"<!doctype html><html lang=en>{head}<body>{''.join(parts)}</body></html>\n")


def _row(pictures: Sequence[TilePicture]) -> str:
    return "".join(
        f'<figure><img src="{escape(p.data_uri)}" alt="tile"><figcaption>{escape(p.caption)}'
        "</figcaption></figure>"
        for p in pictures
    )
