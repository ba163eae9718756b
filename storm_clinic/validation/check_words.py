"""How checks of analyses are put into words: p values, intervals, and what chance would give."""

from __future__ import annotations

from collections.abc import Iterable

from storm_clinic.validation.analyses import Bounded, HypothesisTest
from storm_clinic.validation.evidence import Check, Status
from storm_clinic.validation.measures import MEASURES, base_of

LEVEL = 0.05  # of every test that a check reads


def check(place: tuple[str, str], status: Status, reason: str) -> Check:
    """One check; ``place`` is its code and title."""
    return Check(code=place[0], title=place[1], status=status, reason=reason)


def deciding_p(test: HypothesisTest) -> float:
    """The p value that decides: adjusted inside its family where there is one."""
    found = test.p if test.p_adjusted is None else test.p_adjusted
    return 1.0 if found is None else found


def tests_listed(tests: Iterable[tuple[str, HypothesisTest]]) -> str:
    """Tests with what they are about and their p."""
    return "; ".join(
        f"{about} (p {'< 0.001' if deciding_p(test) < 0.001 else f'= {deciding_p(test):.3f}'})"
        for about, test in tests
    )


def intervals_listed(found: Iterable[tuple[str, Bounded]]) -> str:
    """Values with what they are about and their intervals."""
    return "; ".join(
        f"{about} {value.value:.3f} ({value.lower:.3f} to {value.upper:.3f})"
        for about, value in found
    )


def neutral_of(metric: str) -> float | None:
    """What a model gives that knows nothing, of measures of which more is better."""
    measure = MEASURES.get(base_of(metric))
    if measure is None or measure.better != "higher":
        return None
    return measure.neutral if metric in MEASURES else 0.0
