"""The text files of a simulated cohort: what its columns mean, and what it is."""

from __future__ import annotations

from storm_clinic.simulate.hospitals import Hospital
from storm_clinic.simulate.patients import (
    AGE_EFFECT,
    MORPHOLOGY_EFFECT,
    RESPONSE_EFFECT,
    STAGE_EFFECT,
)

_MANIFEST = """\
# SIMULATED. No patient stands behind any row.
format: 1
cohort: {cohort}
data_root: .
tables:
  clinical: {{path: cohorts/{cohort}/clinical.csv, patient_id: patient}}
  slides: {{path: cohorts/{cohort}/slides.csv, patient_id: patient, slide_id: slide}}
site: hospital_site
columns:
  age: {{from: age, kind: continuous, unit: years}}
  age_band: {{kind: binned, from: age, cuts: [55, 65]}}
  stage: {{from: stage, kind: ordinal, levels: [I, II, III, IV]}}
  sex: {{from: sex, kind: nominal, levels: [female, male]}}
endpoints:
  pfs: {{kind: survival, time: pfs_{unit}, unit: {unit}, event: pfs_status, codes: {codes}}}
  control: {{kind: survival, time: control_{unit}, unit: {unit}, event: control_status, \
codes: {codes}}}
  response: {{kind: classes, from: response, levels: ["no", "yes"]}}
missing: ["", unknown]
origin:
  source: simulated by storm_clinic, seed {seed}
  licence: free for any use
  simulated: true
"""

_README = """\
# {cohort}: SIMULATED

A program made these patients, outcomes and pictures (`storm_clinic.simulate`, seed {seed}). Nothing
that is found here is a finding about people. It shows what the program does and tests that it finds
what is there and nothing else.

| | |
| --- | --- |
| patients | {n_patients}, at {n_sites} sites |
| slides | {n_slides} files: {width:g} x {height:g} µm at {mpp:g} µm/px, pyramidal JPEG TIFF |
| unit of times | {unit}; visits are monthly, so times are tied |
| patients without slides | {n_without} |
| blank slides | {n_blank} |
| truncated slides | {n_truncated} |
| slides of unknown patients | {n_orphans} |
| also | ages and stages missing; ink on some slides; several slides for some patients |

## What is planted

A share of each tumour, hidden from every table, has large, dark, crowded, unequal nuclei; the rest
has small, round, even ones. The difference is visible at 20x. `truth/{cohort}/<slide_id>.png` marks
it (the whole slide at 8 µm/px, 255 = planted; read it with
`storm_clinic.simulate.slide_file.read_truth`). Lymphocytes, fat, fibres, ink and the strength of
the stain mean nothing.

The share follows a hidden score of mean 0 and standard deviation 1; slides of one patient differ a
little.

| endpoint | follows |
| --- | --- |
| `pfs` | log hazard ratios: unit of the score {morphology:g}, ten years {age:g}, stage {stage:g} |
| `control` | nothing: an honest model reaches C = 0.5 but for chance |
| `response` | log odds ratio {response:g} a unit of the score |

The hospitals `demo_a` and `demo_b` differ in stain, scanner (0.5 and 0.25 µm/px), sites and the
words of their tables; the rules above are the same.
"""


def manifest_text(hospital: Hospital, seed: int) -> str:
    """The cohort.yaml of a simulated cohort."""
    codes = "{0: censored, 1: event}"
    if hospital.time_unit == "days":
        codes = "{alive: censored, event: event}"
    return _MANIFEST.format(cohort=hospital.cohort, unit=hospital.time_unit, codes=codes, seed=seed)


def datasheet_text(hospital: Hospital, n_slides: int, seed: int) -> str:
    """The README.md of a simulated cohort."""
    return _README.format(
        cohort=hospital.cohort,
        seed=seed,
        n_patients=hospital.n_patients,
        n_sites=len(hospital.sites),
        n_slides=n_slides,
        width=hospital.size_um[0],
        height=hospital.size_um[1],
        mpp=hospital.mpp,
        unit=hospital.time_unit,
        n_without=hospital.n_without_slides,
        n_blank=hospital.n_blank,
        n_truncated=hospital.n_truncated,
        n_orphans=hospital.n_orphans,
        morphology=MORPHOLOGY_EFFECT,
        age=AGE_EFFECT,
        stage=STAGE_EFFECT,
        response=-RESPONSE_EFFECT,
    )
