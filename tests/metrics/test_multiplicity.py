"""Adjusted p values equal R's p.adjust."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.multiplicity import benjamini_hochberg, holm

_GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "missing.json").read_text())


def test_both_equal_r():
    golden = _GOLDEN["adjusted"]
    np.testing.assert_allclose(holm(golden["p"]), golden["holm"], rtol=1e-12)
    np.testing.assert_allclose(benjamini_hochberg(golden["p"]), golden["bh"], rtol=1e-12)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_one_test_is_not_adjusted_and_none_gives_none(adjust):
    np.testing.assert_allclose(adjust([0.03]), [0.03])
    assert len(adjust([])) == 0


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p", [[0.1, np.nan], [1.2], [-0.1], [[0.1, 0.2]]])
def test_what_is_no_p_value_is_refused(adjust, p):
    with pytest.raises(StatisticsError, match="p values"):
        adjust(p)


def test_holm_keeps_the_chance_of_any_false_rejection():
    p = np.random.default_rng(1).random((4000, 7))
    any_rejected = np.mean([(holm(row) <= 0.05).any() for row in p])
    # The standard error of this share is 0.0034.
    assert any_rejected == pytest.approx(1 - (1 - 0.05 / 7) ** 7, abs=0.012)
