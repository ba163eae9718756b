"""What an extraction leaves beside its store: a record of the run, and a table of failures."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.features.extraction import RUNS
from storm_clinic.features.shard import Shard
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.files import csv_text, write_json, write_text
from storm_clinic.provenance import code_version, package_versions

_FORMAT = "storm_clinic/extraction-run"
_PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "openslide-python",
    "openslide-bin",
    "opencv-python-headless",
    "pillow",
    "timm",
    "torch",
    "torchvision",
    "transformers",
    "h5py",
)
_COLUMNS = ["slide_id", "path", "error", "reason"]


def failures_table(slides: Sequence[SlideResult]) -> pd.DataFrame:
    """One row a slide that failed: ``slide_id, path, error, reason``."""
    rows = [
        (slide.slide_id, _text(slide.path), slide.error, slide.reason)
        for slide in slides
        if slide.status == "failed"
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def write_failures(folder: Path, slides: Sequence[SlideResult], shard: Shard | None) -> Path | None:
    """Write ``failures.csv`` (of a shard: ``failures-2-of-8.csv``), or remove it if all is well.

    Returns
    -------
    Path or None
        The file, if there is one.
    """
    name = "failures.csv" if shard is None else f"failures-{shard.index}-of-{shard.count}.csv"
    path = folder / name
    table = failures_table(slides)
    if table.empty:
        path.unlink(missing_ok=True)
        return None
    write_text(path, csv_text(table))
    return path


def write_run_record(
    folder: Path,
    *,
    started: datetime,
    seconds: float,
    settings: Mapping[str, Any],
    slides: Sequence[SlideResult],
    storm: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``runs/<start>.json``: code, versions, settings, and what became of every slide.

    Parameters
    ----------
    folder : Path
        The store's.
    started : datetime
        With time zone.
    seconds : float
        Wall time.
    settings : mapping
        What was asked for and what ran, ready for JSON.
    slides : sequence of SlideResult
        Of all slides of the run.
    storm : mapping, optional
        The same of STORM files that were made of them, ready for JSON.
    """
    counts = Counter(slide.status for slide in slides)
    record = {
        "format": _FORMAT,
        "format_version": 1,
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "code": code_version().as_dict(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(_PACKAGES),
        "settings": dict(settings),
        "counts": {
            **{status: counts[status] for status in ("written", "unchanged", "failed")},
            "tiles": sum(slide.n_tiles for slide in slides),
            "failed_tiles": sum(slide.n_failed_tiles for slide in slides),
        },
        "slides": [slide_entry(slide) for slide in slides],
        **({} if storm is None else {"storm": dict(storm)}),
    }
    stamp = started.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = folder / RUNS / f"{stamp}.json"
    write_json(path, record)
    return path


def slide_entry(slide: SlideResult) -> dict[str, Any]:
    """What became of a slide, ready for JSON."""
    facts = {
        "slide_id": slide.slide_id,
        "path": _text(slide.path),
        "status": slide.status,
        "tiles": slide.n_tiles,
        "failed_tiles": slide.n_failed_tiles,
        "tissue_mm2": slide.tissue_mm2,
        "error": slide.error,
        "reason": slide.reason,
        "trace": slide.trace,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
