from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import CheckpointError
from storm_clinic.storm.reliability import GeneReliability

NAN = np.nan


def test_a_gene_without_evidence_exceeds_no_threshold():
    reliability = GeneReliability([0.5, 0.2, NAN], [0.3, -0.1, NAN], [0.6, 0.4, NAN], "guess")
    assert reliability.exceeds(0.0).tolist() == [True, False, False]
    assert reliability.exceeds(-1.0).tolist() == [True, True, False]
    # The bound itself is no evidence above it.
    assert reliability.exceeds(float(np.float32(0.3))).tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("r", "lower", "upper", "message"),
    [
        ([0.5, 0.1], [0.3], [0.6], "one length"),
        ([0.5, NAN], [0.3, 0.1], [0.6, NAN], "lower is known for other genes"),
        ([0.5, 0.1], [0.3, 0.2], [0.6, 0.3], "gene 1: r 0.1, lower 0.2"),
        ([0.5], [0.3], [1.2], "gene 0"),
    ],
)
def test_numbers_that_are_no_correlations_are_refused(r, lower, upper, message):
    with pytest.raises(CheckpointError, match=message):
        GeneReliability(r, lower, upper, "guess")


def test_evidence_must_say_how_it_was_measured():
    with pytest.raises(CheckpointError, match="nothing says how"):
        GeneReliability([0.5], [0.3], [0.6], " ")
