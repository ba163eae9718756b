"""Which slides each patient has, and what is wrong with some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from storm_clinic.simulate.hospitals import Hospital
from storm_clinic.simulate.patients import Patients

Condition = Literal["whole", "blank", "truncated"]

_SECOND_SLIDE, _INKED = 0.22, 0.08
_SLIDE_SPREAD = 0.3  # how far a slide's share lies from its patient's, on the logit scale


@dataclass(frozen=True)
class SlidePlan:
    """One slide to be made.

    Attributes
    ----------
    slide_id, patient : str
    planted_share : float
        Of its tumour.
    inked : bool
    condition : {"whole", "blank", "truncated"}
    """

    slide_id: str
    patient: str
    planted_share: float
    inked: bool
    condition: Condition


def plan_slides(
    hospital: Hospital, patients: Patients, rng: np.random.Generator
) -> tuple[SlidePlan, ...]:
    """Give each patient a slide or two, some of them none, and spoil a few.

    The blank slide is its patient's only one, so that the patient drops out; the truncated one
    has a sound sister.
    """
    names = patients.table["patient"].tolist()
    n_slides = 1 + (rng.random(len(names)) < _SECOND_SLIDE)
    special = rng.permutation(len(names)).tolist()
    without, blank, truncated = (
        {special.pop() for _ in range(count)}
        for count in (hospital.n_without_slides, hospital.n_blank, hospital.n_truncated)
    )
    n_slides[list(without)] = 0
    n_slides[list(blank)] = 1
    n_slides[list(truncated)] = 2
    plans = []
    for number, name in enumerate(names):
        for k in range(n_slides[number]):
            condition: Condition = "whole"
            if number in blank:
                condition = "blank"
            elif number in truncated and k == 1:
                condition = "truncated"
            plans.append(_plan(name, k, float(patients.planted_share[number]), condition, rng))
    for k in range(hospital.n_orphans):
        plans.append(_plan(f"{names[0][0]}{900 + k}", 0, 0.5, "whole", rng))
    return tuple(plans)


def slides_table(hospital: Hospital, plans: tuple[SlidePlan, ...]) -> pd.DataFrame:
    """The hospital's list of slides; paths start at the workspace.

    One hospital states the scanner's microns per pixel, the other leaves it to the files.
    """
    stated = f"{hospital.mpp:g}" if hospital.time_unit == "days" else ""
    return pd.DataFrame(
        {
            "slide": [plan.slide_id for plan in plans],
            "patient": [plan.patient for plan in plans],
            "path": [f"slides/{hospital.cohort}/{plan.slide_id}.tiff" for plan in plans],
            "mpp": stated,
            "scanner": f"simulated {0.5 / hospital.mpp * 20:g}x",
        }
    )


def _plan(
    patient: str, k: int, share: float, condition: Condition, rng: np.random.Generator
) -> SlidePlan:
    logit = np.log(share / (1 - share)) + rng.normal(0, _SLIDE_SPREAD)
    return SlidePlan(
        slide_id=f"{patient}-{k + 1}",
        patient=patient,
        planted_share=float(1 / (1 + np.exp(-logit))),
        inked=bool(rng.random() < _INKED),
        condition=condition,
    )
