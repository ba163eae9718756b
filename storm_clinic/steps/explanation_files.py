"""What `explain` writes: maps on slides, and tables of tiles, genes, inputs and curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.errors import SlideError
from storm_clinic.explanations.maps import SlideMap, write_geojson, write_ome_tiff, write_overlay
from storm_clinic.files import csv_text, safe_name, write_text
from storm_clinic.steps.patient_maps import PatientMaps, Sheet, sheets
from storm_clinic.steps.study_patients import StudyPatients
from storm_clinic.study import VIRTUAL

_PICTURE_PX = 1200  # longer side of the thumbnail under a map
_KINDS = ("attention", "occlusion", "attribution")
_SLIDE_COLUMNS = ("slide_id", "patient_key", "n_tiles", "inputs", *_KINDS, "overlay", "reason")
_INPUT_COLUMNS = (
    "patient_key",
    "input",
    "n_tiles",
    "adds_to_risk",
    "risk",
    "baseline_risk",
    "gap",
    "n_steps",
    "complete",
    "reason",
)
_GENE_COLUMNS = (
    "patient_key",
    "expression",
    "gene",
    "adds_to_risk",
    "heldout_r",
    "heldout_r_lower",
    "heldout_r_upper",
)


def write_maps(folder: Path, scored: StudyPatients, item: PatientMaps) -> list[dict[str, Any]]:
    """Write one patient's maps on slides; returns what was written of each, one row a sheet."""
    paths = dict(zip(scored.cohort.slides["slide_id"], scored.cohort.slides["path"], strict=True))
    rows: list[dict[str, Any]] = []
    mapped: set[str] = set()
    for sheet in sheets(item):
        slide = sheet.layout
        why_no_picture: str | None
        if slide.coords is None or slide.side_px is None or slide.slide_mpp is None:
            why_no_picture = "the position of tiles on the slide is not known"
        else:
            map_ = SlideMap(
                slide.slide_id, slide.coords, slide.side_px, slide.slide_mpp, sheet.values
            )
            # A slide whose inputs lie on different tiles has files of its own for the later ones.
            suffix = f"-{sheet.inputs[0]}" if slide.slide_id in mapped else ""
            mapped.add(slide.slide_id)
            why_no_picture = write_slide(folder, map_, paths.get(slide.slide_id), suffix=suffix)
        reasons = [why_no_picture]
        shown = {kind: _shown(sheet, kind) for kind in _KINDS}
        if not shown["occlusion"]:
            reasons.append("a single tile cannot be left out")
        if not shown["attribution"]:
            reasons.append(f"nothing is attributed: {item.why_none}")
        rows.append(
            {
                "slide_id": slide.slide_id,
                "patient_key": scored.keys[item.at],
                "n_tiles": slide.n_tiles,
                "inputs": ", ".join(sheet.inputs),
                **shown,
                "overlay": why_no_picture is None,
                "reason": "; ".join(filter(None, reasons)) or None,
            }
        )
    return rows


def slide_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """What `write_maps` wrote of all patients, as one table."""
    return pd.DataFrame(rows, columns=list(_SLIDE_COLUMNS))


def write_slide(folder: Path, map_: SlideMap, slide_path: Any, *, suffix: str = "") -> str | None:
    """Write one slide's files; returns why there is no picture, if there is none."""
    from storm_clinic.slides.reader import open_slide

    name = safe_name(map_.slide_id, what="slide")
    write_geojson(folder / f"{name}{suffix}.geojson", map_)
    write_ome_tiff(folder / f"{name}{suffix}.ome.tiff", map_)
    if not isinstance(slide_path, str) or not Path(slide_path).is_file():
        return "the slide is not on this machine, so there is no picture"
    try:
        with open_slide(slide_path, mpp_override=map_.slide_mpp) as slide:
            side_um = max(slide.size) * map_.slide_mpp
            thumbnail, mpp = slide.thumbnail(max(side_um / _PICTURE_PX, map_.slide_mpp))
    except SlideError as error:
        return f"no picture: {error}"
    for which in map_.values:
        write_overlay(folder / f"{name}-{which}.png", map_, which, thumbnail, mpp)
    return None


def input_table(scored: StudyPatients, explained: Sequence[PatientMaps]) -> pd.DataFrame:
    """What each input of tiles adds to each patient's risk; blank, with the reason, where unknown.

    Of a patient the ``adds_to_risk`` of all inputs sum to ``risk`` minus ``baseline_risk`` plus
    ``gap``.
    """
    rows = []
    for item in explained:
        found = item.attribution
        for name, slides in item.layouts.items():
            row: dict[str, Any] = {
                "patient_key": scored.keys[item.at],
                "input": name,
                "n_tiles": sum(slide.n_tiles for slide in slides),
                "complete": False,
                "reason": item.why_none,
            }
            if found is not None:
                row |= {
                    "adds_to_risk": found.by_input[name] if found.complete else None,
                    "risk": found.risk,
                    "baseline_risk": found.baseline_risk,
                    "gap": found.gap,
                    "n_steps": found.n_steps,
                    "complete": found.complete,
                }
            rows.append(row)
    table = pd.DataFrame(rows, columns=list(_INPUT_COLUMNS))
    return table.astype({"n_steps": "Int64"})


def write_tables(folder: Path, scored: StudyPatients, explained: Sequence[PatientMaps]) -> None:
    """Write ``tiles.csv``, ``inputs.csv``, ``genes.csv`` and ``deletion.csv``."""
    _write_csv(folder / "tiles.csv", _joined(_tiles(scored, explained)))
    _write_csv(folder / "inputs.csv", input_table(scored, explained))
    if any(VIRTUAL in item.layouts for item in explained):
        genes = _joined(_genes(scored, explained))
        _write_csv(folder / "genes.csv", genes.reindex(columns=list(_GENE_COLUMNS)))
    _write_csv(folder / "deletion.csv", _joined(_steps(scored, explained)))


def _shown(sheet: Sheet, kind: str) -> bool:
    """Whether there is a map of this kind, of every tile."""
    found = [values for name, values in sheet.values.items() if name.partition("-")[0] == kind]
    return bool(found) and all(pd.notna(values).all() for values in found)


def _tiles(scored: StudyPatients, explained: Sequence[PatientMaps]) -> Iterator[pd.DataFrame]:
    for item in explained:
        for sheet in sheets(item):
            table = pd.DataFrame(sheet.values)
            table.insert(0, "patient_key", scored.keys[item.at])
            table.insert(1, "slide_id", sheet.layout.slide_id)
            table.insert(2, "inputs", ", ".join(sheet.inputs))
            if sheet.layout.coords is not None:
                table[["x", "y"]] = sheet.layout.coords
            yield table


def _genes(scored: StudyPatients, explained: Sequence[PatientMaps]) -> Iterator[pd.DataFrame]:
    """Each gene with how well it is imputed; of patients whose attribution is complete."""
    for item in explained:
        found = item.attribution
        if found is None or not found.complete or VIRTUAL not in found.values:
            continue
        assert scored.virtual is not None  # the model sees it
        known = scored.virtual.evidence.loc[list(found.columns[VIRTUAL])]
        table = known.rename_axis("gene").reset_index()
        table["patient_key"] = scored.keys[item.at]
        table["expression"] = "imputed"
        table["adds_to_risk"] = found.by_column(VIRTUAL)
        order = table["adds_to_risk"].abs().sort_values(ascending=False, kind="stable").index
        yield table.loc[order]


def _steps(scored: StudyPatients, explained: Sequence[PatientMaps]) -> Iterator[pd.DataFrame]:
    names = dict.fromkeys(name for item in explained for name in item.curves)
    for name in names:
        for number, item in enumerate(explained):
            curve = item.curves.get(name)
            if curve is not None:
                yield pd.DataFrame(
                    {
                        "map": name,
                        "patient": number,
                        "patient_key": scored.keys[item.at],
                        "share_gone": curve.share,
                        "highest_first": curve.highest,
                        "lowest_first": curve.lowest,
                        "random": curve.random,
                    }
                )


def _joined(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    tables = list(parts)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, csv_text(table))
