"""The text files of a simulated cohort: what its columns mean, and what it is."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.simulate.competing import (
    CAUSES,
    DEATH_AGE_EFFECT,
    DEATH_SCORE_EFFECT,
    RELAPSE_SCORE_EFFECT,
)
from storm_clinic.simulate.expression import (
    GENES,
    SCORE_GENES,
    SCORE_LOADING,
    SHARED_GENES,
    SHARED_LOADING,
)
from storm_clinic.simulate.grade import GRADE_EFFECT, GRADES
from storm_clinic.simulate.hospitals import Hospital
from storm_clinic.simulate.patients import (
    AGE_EFFECT,
    MORPHOLOGY_EFFECT,
    RESPONSE_EFFECT,
    STAGE_EFFECT,
)
from storm_clinic.simulate.truth import expected_ceilings

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
  grade: {{kind: classes, from: grade, levels: [{grades}]{grade_codes}}}
  outcome: {{kind: competing, time: outcome_{unit}, unit: {unit}, event: outcome_status, \
causes: [{causes}], codes: {first_codes}}}
measurements:
  rna: {{path: cohorts/{cohort}/rna.csv, patient_id: patient, unit: simulated log expression}}
missing: ["", unknown]
origin:
  source: simulated by storm_clinic, seed {seed}
  licence: CC0-1.0
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
| patients without expression | {n_unmeasured} |
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
| `grade` | of three levels; log odds ratio of a higher one {grade:g} a unit of the score |
| `outcome` | the first of two causes; a log hazard ratio each, below |

| cause of `outcome` | unit of the score | ten years |
| --- | --- | --- |
| `relapse`, of interest | {relapse:g} | 0 |
| `death` | {death_score:g} | {death_age:g} |

| genes in `rna.csv`, of {n_genes} that do not exist | each is noise of standard deviation 1, and |
| --- | --- |
| {score_genes} | {score_loading:g} a unit of the score |
| {shared_genes} | {shared_loading:g} a unit of another hidden factor, which means nothing |
| the others | nothing |

Whose expression is known is chance. No gene tells of an outcome what the slides do not.

The hospitals `demo_a` and `demo_b` differ in stain, scanner (0.5 and 0.25 µm/px), sites and the
words of their tables; `demo_c` stains much like `demo_a`. The rules above are the same.

## What can be reached

Who knew the score, age and stage of every patient would reach, on average over many patients
(`storm_clinic.simulate.truth`):

| endpoint | metric | value |
| --- | --- | --- |
{ceilings}

No model can be expected to do better; on as few patients as these, one may by chance.
"""


def manifest_text(hospital: Hospital, seed: int) -> str:
    """The cohort.yaml of a simulated cohort."""
    words = hospital.words
    grade_codes = f", codes: {_codes(words.grade, GRADES)}" if words.grade != GRADES else ""
    return _MANIFEST.format(
        cohort=hospital.cohort,
        unit=hospital.time_unit,
        codes=_codes(words.event, ("censored", "event")),
        grades=", ".join(GRADES),
        grade_codes=grade_codes,
        causes=", ".join(CAUSES),
        first_codes=_codes(words.first_event, ("censored", *CAUSES)),
        seed=seed,
    )


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
        n_unmeasured=hospital.n_patients // 3,
        n_genes=len(GENES),
        score_genes=f"`{SCORE_GENES[0]}` to `{SCORE_GENES[-1]}`",
        score_loading=SCORE_LOADING,
        shared_loading=SHARED_LOADING,
        shared_genes=f"`{SHARED_GENES[0]}` to `{SHARED_GENES[-1]}`",
        morphology=MORPHOLOGY_EFFECT,
        age=AGE_EFFECT,
        stage=STAGE_EFFECT,
        response=-RESPONSE_EFFECT,
        grade=GRADE_EFFECT,
        relapse=RELAPSE_SCORE_EFFECT,
        death_score=DEATH_SCORE_EFFECT,
        death_age=DEATH_AGE_EFFECT,
        ceilings=_ceilings(),
    )


def _codes(words: Sequence[str], meanings: Sequence[str]) -> str:
    pairs = [f"{word}: {meaning}" for word, meaning in zip(words, meanings, strict=True)]
    return f"{{{', '.join(pairs)}}}"


def _ceilings() -> str:
    """A row an endpoint and metric without a horizon."""
    return "\n".join(
        f"| `{ceiling.endpoint}` | `{ceiling.metric}` | {ceiling.value:.2f} |"
        for ceiling in expected_ceilings()
        if ceiling.knows == "everything" and ceiling.horizon_months is None
    )
