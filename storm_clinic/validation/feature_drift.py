"""Whether a cohort's features look like development's: overall, by scanner, by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats
from storm_clinic.features.reference import FeatureReference
from storm_clinic.inference.energy_distance import energy_test
from storm_clinic.metrics.multiplicity import holm
from storm_clinic.validation.analyses import DriftComparison, FeatureDrift

FEWEST_PATIENTS = 10
MOST_COMPARED = 512  # as many as development's sample has; time grows with the square
PERMUTATIONS = 9_999

Division = Literal["all", "scanner", "site"]
Features = Literal["image", "storm", "virtual_expression", "imputed_expression"]


def feature_drift(
    reference: FeatureReference,
    means: ArrayLike,
    *,
    cohort: str,
    features: Features,
    divisions: Mapping[Literal["scanner", "site"], Sequence[str | None]],
    seed: int,
) -> FeatureDrift:
    """Hold a cohort and its groups against development; needs no outcome.

    Parameters
    ----------
    reference : FeatureReference
        How development's patients look.
    means : float array, shape (n_patients, n_features)
        Mean embedding of each patient, or imputed expression; rows with NaN (no tiles) are left out
        and counted.
    cohort : str
        Its name.
    features : {"image", "storm", "virtual_expression", "imputed_expression"}
        What is compared.
    divisions : mapping of "scanner" and "site" to labels, one a patient
        None where a patient has none. A division that does not divide is left out.
    seed : int
        Of permutations, and of the sample of more than 512 patients.
    """
    x = np.asarray(means, dtype=np.float64)
    seen = np.isfinite(x).all(axis=1)
    x, notes = x[seen], []
    if not seen.all():
        notes.append(f"{int((~seen).sum())} patients without these features are left out")
    groups: list[tuple[Division, str, Floats]] = [("all", cohort, x)]
    for division, given in divisions.items():
        labels = np.array(given, dtype=object)[seen]
        known = sorted(
            {label for label in labels if label is not None},
            key=lambda label: (-int((labels == label).sum()), label),
        )
        n_unknown = int(sum(label is None for label in labels))
        if len(known) == 1 and not n_unknown:
            notes.append(f"all patients are of one {division}, {known[0]}")
            continue
        if known and n_unknown:
            notes.append(f"{n_unknown} patients without a known {division} are in no group of it")
        groups += [(division, label, x[labels == label]) for label in known]
    if len(groups) > 1:
        notes.append(
            "a scanner or site is more alike in itself than the mixture of development, so that a "
            "small p of one is the rule where development has several"
        )
    found = _adjusted([_compared(reference, *group, seed=seed) for group in groups])
    return FeatureDrift(
        cohort=cohort,
        features=features,
        n_development=reference.n_patients,
        n_sampled=len(reference.sample),
        n_axes=len(reference.eigenvalues),
        comparisons=tuple(found),
        method=f"energy distance on {len(reference.eigenvalues)} standardised principal axes from "
        f"{len(reference.sample)} patients of development, p from {PERMUTATIONS:,} permutations; "
        "outside: beyond the distance (probabilistic principal components) that 99% of "
        f"development's {reference.n_patients} patients do not exceed, by axes made of others",
        note="; ".join(notes),
    )


def _compared(
    reference: FeatureReference, division: Division, label: str, x: Floats, *, seed: int
) -> DriftComparison:
    about: dict[str, Any] = {"division": division, "label": label, "n_patients": len(x)}
    if len(x) < FEWEST_PATIENTS:
        reason = f"fewer than {FEWEST_PATIENTS} patients are not compared"
        return DriftComparison(**about, note=reason)
    compared = x
    if len(x) > MOST_COMPARED:
        # The test's own draws must not be those of the sample, hence a seed of its own.
        at = np.random.default_rng([seed, len(x)]).choice(len(x), MOST_COMPARED, replace=False)
        compared = x[at]
        about["note"] = f"p and distance are of {MOST_COMPARED} patients at random"
    test = energy_test(
        reference.sample, reference.project(compared), permutations=PERMUTATIONS, seed=seed
    )
    return DriftComparison(
        distance=test.distance,
        coefficient=min(1.0, test.coefficient),
        p=test.p,
        n_outside=int(reference.is_outside(x).sum()),
        **about,
    )


def _adjusted(found: list[DriftComparison]) -> list[DriftComparison]:
    """All comparisons of a cohort are one family."""
    tested = [item.p for item in found if item.p is not None]
    if len(tested) < 2:
        return found
    adjusted = iter(holm(tested).tolist())
    return [
        item if item.p is None else item.model_copy(update={"p_adjusted": next(adjusted)})
        for item in found
    ]
