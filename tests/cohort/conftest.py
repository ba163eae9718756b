"""A small hospital: seven patients whose every oddity a test can name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storm_clinic.cohort.table import Cohort
from storm_clinic.files import Workspace

CLINICAL = """\
id,age,stage,sex,days,died,centre
P1,61,I,F,300,1,North
P2,70.5,II,M,200,0,North
P3,,IV,F,100,1.0,South
P4,55,III,M,50,0,South
P5,49,NA,F,0,0,South
P6,80,I,M,,1,North
P7,66,II,F,400,,
"""
SLIDES = """\
case,slide,path,mpp,scanner
P1,S1,a/S1.svs,0.5,Aperio
P1,S2,a/S2.svs,,
P2,S3,/archive/S3.svs,0.25,Aperio
P9,S9,a/S9.svs,0.5,
"""
MANIFEST = """\
format: 1
cohort: hospital
tables:
  clinical: {path: clinical.csv, patient_id: id}
  slides: {path: slides.csv, patient_id: case, slide_id: slide}
site: centre
columns:
  age: {from: age, kind: continuous, unit: years}
  age_band: {kind: binned, from: age, cuts: [50, 65]}
  stage: {from: stage, kind: ordinal, levels: [I, II, III, IV]}
  sex: {from: sex, kind: nominal, levels: [F, M]}
endpoints:
  os: {kind: survival, time: days, unit: days, event: died, codes: {0: censored, 1: event}}
missing: ["", "NA"]
origin: {source: invented for tests, licence: none, simulated: true}
"""

CohortWriter = Callable[..., Workspace]


@pytest.fixture
def write_cohort(tmp_path: Path) -> CohortWriter:
    """Write the cohort ``hospital``; each text can be replaced, or edited by (old, new) pairs."""

    def write(
        *edits: tuple[str, str],
        clinical: str = CLINICAL,
        slides: str = SLIDES,
        manifest: str = MANIFEST,
    ) -> Workspace:
        folder = tmp_path / "cohorts" / "hospital"
        folder.mkdir(parents=True, exist_ok=True)
        texts = {"clinical.csv": clinical, "slides.csv": slides, "cohort.yaml": manifest}
        for old, new in edits:
            where = [name for name, text in texts.items() if old in text]
            assert len(where) == 1, f"{old!r} must stand in one file, stands in {where}"
            texts[where[0]] = texts[where[0]].replace(old, new)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return Workspace(tmp_path)

    return write


@pytest.fixture
def hospital(write_cohort: CohortWriter) -> Cohort:
    """The cohort as it is."""
    return Cohort.read("hospital", write_cohort())
