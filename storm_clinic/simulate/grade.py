"""A simulated grade of three levels: proportional odds in the hidden score, and nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRADES = ("low", "intermediate", "high")
GRADE_EFFECT = 2.5  # log odds ratio, of a higher grade, of one unit of the score
GRADE_CUTS = (-1.3, 1.3)  # log odds of at most low, and of at most intermediate, at score 0


def grade_probabilities(score: Floats) -> Floats:
    """True probability (n_patients, 3) of each grade.

    References
    ----------
    McCullagh, J. R. Stat. Soc. B 42 (1980) 109-142 (proportional odds).
    """
    at_most = 1 / (1 + np.exp(GRADE_EFFECT * score[:, None] - np.array(GRADE_CUTS)))
    edges = np.column_stack([np.zeros(len(score)), at_most, np.ones(len(score))])
    return np.diff(edges, axis=1)


def draw_grade(score: Floats, rng: np.random.Generator) -> Ints:
    """Position in `GRADES` of each patient's grade."""
    at_most = grade_probabilities(score).cumsum(axis=1)[:, :-1]
    grade: Ints = (rng.random(len(score))[:, None] > at_most).sum(axis=1)
    return grade
