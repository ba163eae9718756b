"""The check of whether slides look like what STORM was trained on: SC128."""

from __future__ import annotations

from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.check_words import check
from storm_clinic.validation.domain_warnings import DomainWarnings
from storm_clinic.validation.evidence import Check

_WARN = 0.1  # of the slides; of slides like the training sections a few are outside by chance


def slides_in_domain(analyses: Analyses) -> Check:
    """Warns where over a tenth of a cohort's slides look unlike the checkpoint's training data.

    Parameters
    ----------
    analyses : Analyses
        Of the evaluated cohorts.
    """
    place = ("SC128", "Slides look like what STORM was trained on")
    found = analyses.domain
    judged = [item for item in found if item.n_judged]
    if not judged:
        reasons = "; ".join(f"{item.cohort}: {item.note}" for item in found if item.note)
        return check(place, "not applicable", reasons or "no model sees anything from STORM")
    beyond = [item for item in judged if item.n_outside > _WARN * item.n_judged]
    listed = "; ".join(map(_counted, beyond or judged))
    if beyond:
        return check(place, "warn", f"{listed}; what STORM says of them was not shown to hold")
    return check(place, "pass", listed)


def _counted(item: DomainWarnings) -> str:
    return (
        f"{item.n_outside} of {item.n_judged} slides of {item.cohort} ({item.n_patients_outside} "
        f"patients) look unlike the training data of {item.checkpoint}"
    )
