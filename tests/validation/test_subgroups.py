"""Numbers by subgroup: each as by itself, with what is too small, unknown or different told."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from storm_clinic.cohort.outcome import Survival
from storm_clinic.metrics.discrimination import auroc, concordance
from storm_clinic.metrics.multiplicity import holm
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.strata import FEWEST_EVENTS
from storm_clinic.validation.subgroups import UNKNOWN, subgroup_analyses


def _loaded() -> Callable[..., EvaluationData]:
    path = Path(__file__).with_name("site_data.py")
    spec = importlib.util.spec_from_file_location("site_data_subgroups", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.made_data


made_data = _loaded()


def _column(values, levels):
    return pd.DataFrame({"sex": pd.Categorical(values, categories=levels)})


def _halves(n=240):
    return _column(["f", "m"] * (n // 2), ["f", "m"])


def _find(found, metric, *, variable="sex", model="fusion"):
    return next(
        item
        for item in found
        if (item.metric, item.variable, item.model) == (metric, variable, model)
    )


@pytest.fixture(scope="module")
def plain():
    return made_data(subgroups=_halves())


@pytest.fixture(scope="module")
def found(plain):
    return subgroup_analyses(plain)


def test_a_subgroup_is_judged_as_a_cohort_of_its_own(plain, found):
    women = plain.outcome.take(np.arange(0, 240, 2))
    risk = plain.model("fusion").risk[0][::2]
    alone = concordance(women, risk, tau_months=60).interval()
    first = _find(found, "c_index").strata[0]
    assert (first.label, first.n_patients, first.n_events) == ("f", 120, women.n_events)
    assert (first.value, first.lower, first.upper) == (alone.value, alone.lower, alone.upper)


def test_a_gain_is_paired_inside_the_subgroup(plain, found):
    women = plain.outcome.take(np.arange(0, 240, 2))
    both = [
        concordance(women, plain.model(m).risk[0][::2], tau_months=60)
        for m in ("fusion", "clinical")
    ]
    gain = _find(found, "c_index_gain")
    assert gain.over == "clinical"
    assert gain.strata[0].value == pytest.approx(both[0].value - both[1].value)
    assert gain.strata[0].lower == pytest.approx((both[0] - both[1]).interval().lower)


def test_every_headline_is_there(found):
    metrics = {item.metric for item in found if item.model == "fusion"}
    assert metrics >= {"c_index", "c_index_gain", "auc", "auc_gain", "o_e", "calibration_slope"}


def test_heterogeneity_is_cochrans_q_on_the_logit_scale(plain, found):
    y, v = [], []
    for first in (0, 1):
        index = np.arange(first, 240, 2)
        c = concordance(
            plain.outcome.take(index), plain.model("fusion").risk[0][index], tau_months=60
        )
        y.append(np.log(c.value / (1 - c.value)))
        v.append((c.se / c.value / (1 - c.value)) ** 2)
    q = (y[0] - y[1]) ** 2 / (v[0] + v[1])
    test = _find(found, "c_index").heterogeneity
    assert (test.statistic, test.df) == (pytest.approx(q), 1)
    assert test.p == pytest.approx(chi2.sf(q, 1))
    assert "logit" in test.method


def test_a_planted_difference_between_subgroups_is_found():
    data = made_data(400, subgroups=_halves(400))
    model = data.model("fusion")
    # In men the risk is another patient's, so that it tells nothing.
    risk = model.risk[0].copy()
    risk[1::2] = np.roll(risk[1::2], 7)
    data = replace(data, models=(data.models[0], replace(model, risk=(risk,))))
    assert _find(subgroup_analyses(data), "c_index").heterogeneity.p < 1e-4


def test_an_unknown_level_is_a_group_of_its_own_that_takes_no_part_in_the_test():
    values = ["f", "m", None] * 80
    found = subgroup_analyses(made_data(subgroups=_column(values, ["f", "m"])))
    c = _find(found, "c_index")
    assert [item.label for item in c.strata] == ["f", "m", UNKNOWN]
    assert [item.n_patients for item in c.strata] == [80, 80, 80]
    assert c.strata[2].value is not None
    assert c.heterogeneity.df == 1
    assert "1 of 3" in c.heterogeneity.note


def test_a_subgroup_too_small_to_say_shows_its_numbers_and_no_estimate():
    values = ["f"] * 225 + ["m"] * 15
    c = _find(subgroup_analyses(made_data(subgroups=_column(values, ["f", "m"]))), "c_index")
    few = c.strata[1]
    assert (few.value, few.lower, few.n_patients) == (None, None, 15)
    assert "too small to say" in few.note
    assert c.heterogeneity.p is None
    assert "1 of 2" in c.heterogeneity.note


def test_a_subgroup_without_an_event_shows_that():
    data = made_data(subgroups=_halves())
    event = data.outcome.event.copy()
    event[1::2] = False
    data = replace(data, outcome=Survival(data.outcome.time_months, event))
    for item in subgroup_analyses(data):
        assert item.strata[1].n_events == 0
        assert item.strata[1].value is None


def test_a_level_that_nobody_has_is_not_shown():
    values = ["f", "m"] * 120
    found = subgroup_analyses(made_data(subgroups=_column(values, ["f", "m", "x"])))
    assert [item.label for item in _find(found, "c_index").strata] == ["f", "m"]


def test_holm_adjusts_over_the_variables_of_one_measure():
    table = _halves()
    rng = np.random.default_rng(2)
    for name in ("stage", "scanner"):
        table[name] = pd.Categorical(rng.choice(["1", "2"], 240))
    found = subgroup_analyses(made_data(subgroups=table))
    for metric in ("c_index", "o_e", "c_index_gain"):
        tests = [
            item.heterogeneity for item in found if item.metric == metric and item.model == "fusion"
        ]
        assert len(tests) == 3
        assert [t.p_adjusted for t in tests] == pytest.approx(holm([t.p for t in tests]))


def test_a_perfect_ranking_has_no_interval_and_enters_no_test():
    data = made_data(subgroups=_halves())
    risk = data.model("fusion").risk[0].copy()
    risk[::2] = -data.outcome.time_months[::2]
    changed = replace(data.model("fusion"), risk=(risk,))
    c = _find(subgroup_analyses(replace(data, models=(data.models[0], changed))), "c_index")
    assert (c.strata[0].value, c.strata[0].lower) == (1.0, None)
    assert "do not spread" in c.strata[0].note
    assert c.heterogeneity.p is None


def test_hospitals_are_one_more_variable_largest_first():
    sites = ["x"] * 60 + ["y"] * 100 + [None] * 30 + ["z"] * 50
    c = _find(subgroup_analyses(made_data(sites=sites)), "c_index", variable="site")
    assert [item.label for item in c.strata] == ["y", "x", "z", UNKNOWN]
    assert c.heterogeneity.df == 2


def test_one_hospital_is_no_variable():
    assert subgroup_analyses(made_data(sites=["x"] * 240)) == ()


def test_a_declared_site_is_not_shown_twice():
    table = pd.DataFrame({"site": pd.Categorical(["x", "y"] * 120)})
    found = subgroup_analyses(made_data(sites=["x", "y"] * 120, subgroups=table))
    places = [(item.metric, item.model, item.variable) for item in found]
    assert len(set(places)) == len(places)


def test_nothing_declared_gives_nothing():
    assert subgroup_analyses(made_data()) == ()


def test_cross_validated_risks_are_compared_inside_folds_of_the_subgroup():
    data = made_data(kind="cross-validation", subgroups=_halves())
    model = data.model("fusion")
    # A model that moves its whole fold changes nothing.
    moved = replace(
        model, risk=tuple(r + 100 * f for r, f in zip(model.risk, model.fold, strict=True))
    )
    shifted = replace(data, models=(data.models[0], moved))
    before, after = (_find(subgroup_analyses(d), "c_index") for d in (data, shifted))
    assert before.strata == after.strata
    index = np.arange(0, 240, 2)
    alone = [
        concordance(data.outcome.take(index), r[index], tau_months=60, within=f[index]).value
        for r, f in zip(model.risk, model.fold, strict=True)
    ]
    assert before.strata[0].value == pytest.approx(np.mean(alone))
    assert "supports no claim" in before.method


def test_two_classes_count_whichever_is_rarer():
    data = made_data(outcome="two classes", subgroups=_halves())
    label = data.outcome.label.copy()
    label[::2] = 1
    label[: 2 * (FEWEST_EVENTS - 1) : 2] = 0
    found = subgroup_analyses(replace(data, outcome=replace(data.outcome, label=label)))
    first, second = _find(found, "auroc").strata
    assert (first.value, first.n_events) == (None, 120 - FEWEST_EVENTS + 1)
    men = data.outcome.take(np.arange(1, 240, 2))
    p = data.model("fusion").column("p_yes")[0][1::2]
    assert second.value == pytest.approx(auroc(men, p).value)


def test_three_classes_and_competing_risks_are_judged_too():
    classes = subgroup_analyses(made_data(outcome="three classes", subgroups=_halves()))
    assert _find(classes, "auroc_macro").heterogeneity.p is not None
    causes = subgroup_analyses(made_data(outcome="competing", subgroups=_halves()))
    for metric in ("c_index", "auc", "o_e", "calibration_slope"):
        assert all(item.value is not None for item in _find(causes, metric).strata)


def test_ties_in_time_and_risk_do_not_matter():
    data = made_data(whole_months=True, subgroups=_halves())
    rounded = replace(data.model("fusion"), risk=(np.round(data.model("fusion").risk[0]),))
    c = _find(subgroup_analyses(replace(data, models=(data.models[0], rounded))), "c_index")
    assert all(0.5 < item.lower < item.upper < 1 for item in c.strata)
