"""The check of whether features look like those of development: SC127."""

from __future__ import annotations

from collections.abc import Callable

from storm_clinic.validation.analyses import Analyses, DriftComparison, FeatureDrift
from storm_clinic.validation.check_words import LEVEL, check
from storm_clinic.validation.evidence import Check

# Shares of patients outside; of development's own kind one in a hundred is.
_FAIL, _WARN = 0.5, 0.1
_LISTED = 3  # of a longer list the worst; the table has all

Pair = tuple[FeatureDrift, DriftComparison]


def features_alike(analyses: Analyses) -> Check:
    """Fails where over half of a cohort lies outside; warns where drift is shown in any group.

    Parameters
    ----------
    analyses : Analyses
        Of the evaluated cohorts.
    """
    place = ("SC127", "Features look like those of development")
    found = analyses.drift
    judged = [
        (item, group) for item in found for group in item.comparisons if group.n_outside is not None
    ]
    if not judged:
        reasons = "; ".join(
            dict.fromkeys(
                f"{item.cohort}: {reason}"
                for item in found
                for reason in (item.note, *(group.note for group in item.comparisons[:1]))
                if reason
            )
        )
        nothing = "no model sees slides, or these are the patients of development"
        return check(place, "not applicable", reasons or nothing)
    beyond = [pair for pair in judged if _share(pair) > _WARN]
    apart = [pair for pair in judged if _p(pair) < LEVEL]
    said = []
    if beyond:
        said.append(f"outside of what development has shown: {_worst(beyond, _outside, _share)}")
    if apart:
        said.append(f"differing as a group: {_worst(apart, _tested, _distance)}")
    if not said:
        whole = "; ".join(_outside(pair) for pair in judged if pair[1].division == "all")
        return check(place, "pass", f"no difference was shown; outside: {whole}")
    failed = any(_share(pair) > _FAIL for pair in judged if pair[1].division == "all")
    return check(place, "fail" if failed else "warn", "; ".join(said))


def _share(pair: Pair) -> float:
    return pair[1].share_outside or 0.0


def _distance(pair: Pair) -> float:
    return pair[1].distance or 0.0


def _p(pair: Pair) -> float:
    """Adjusted where there is a family."""
    p = pair[1].p if pair[1].p_adjusted is None else pair[1].p_adjusted
    return 1.0 if p is None else p


def _worst(pairs: list[Pair], words: Callable[[Pair], str], size: Callable[[Pair], float]) -> str:
    """All patients first, then the largest."""
    ordered = sorted(pairs, key=lambda pair: (pair[1].division != "all", -size(pair)))
    more = len(ordered) - _LISTED
    text = ", ".join(words(pair) for pair in ordered[:_LISTED])
    return text + (f" and {more} more" if more > 0 else "")


def _named(pair: Pair) -> str:
    item, group = pair
    name = item.cohort if group.division == "all" else f"{group.label} in {item.cohort}"
    return name if item.features == "image" else f"{name} (by {item.features})"


def _outside(pair: Pair) -> str:
    return f"{pair[1].n_outside} of {pair[1].n_patients} patients of {_named(pair)}"


def _tested(pair: Pair) -> str:
    p = "< 0.001" if _p(pair) < 0.001 else f"= {_p(pair):.3f}"
    return f"{_named(pair)} (energy distance {_distance(pair):.2f}, p {p})"
