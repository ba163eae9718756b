"""Sentences about analyses never outrun the numbers: for any interval, in both directions."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storm_clinic.reporting.answer import answer
from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.drift_shown import drift_sentence
from storm_clinic.reporting.effects_shown import effects_sentence
from storm_clinic.reporting.findings import findings, not_for
from storm_clinic.reporting.groups_shown import contrast_sentence
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.regressions_shown import added_sentences
from storm_clinic.reporting.sites_shown import new_site_sentence, sites_shown
from storm_clinic.reporting.strata_shown import heterogeneity_sentence
from storm_clinic.reporting.tables import Table
from storm_clinic.reporting.utility_shown import utility_sentence
from storm_clinic.reporting.validity_shown import internal_sentences, probe_sentence
from storm_clinic.validation.analyses import (
    Bounded,
    Contrast,
    DecisionCurve,
    DriftComparison,
    FeatureDrift,
    GroupComparison,
    GroupSummary,
    HypothesisTest,
    InternalValidity,
    MetaAnalysis,
    Regression,
    SiteProbe,
    Stratum,
    SubgroupAnalysis,
)
from storm_clinic.validation.evidence import Estimate, Evidence

FAST = settings(max_examples=60, deadline=None)
probabilities = st.floats(0, 1)
# Ends that lie on both sides of nothing, touch it, or lie on one side.
ends = st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)).map(sorted)


def estimate(metric: str, lower: float, upper: float, n_events: int = 55, **more) -> Estimate:
    parts = {
        "value": (lower + upper) / 2,
        "n_patients": 270,
        "n_events": n_events,
        "method": "m",
        "cohort": "there",
        "model": "deep",
    }
    return Estimate(metric=metric, lower=lower, upper=upper, **(parts | more))


def content_of(*estimates: Estimate) -> ReportContent:
    evidence = Evidence(
        study="s",
        study_digest="d",
        kind="external",
        candidate="deep",
        comparator="clinic",
        estimates=estimates,
    )
    return ReportContent(
        question="q", candidate="deep", comparator="clinic", validation=(evidence,)
    )


@FAST
@given(ends, ends)
def test_better_is_said_only_where_the_whole_interval_lies_above(rank, gain):
    low, high = (0.5 + x for x in rank)
    content = content_of(
        estimate("c_index", low, high),
        estimate("c_index", 0.55, 0.65, model="clinic"),
        estimate("c_index_gain", *gain, over="clinic"),
    )
    text = answer(content)
    says_better = "better than the clinical comparator" in text
    assert says_better == (low > 0.5 and gain[0] > 0)
    assert ("worse than the clinical comparator" in text) == (low > 0.5 and gain[1] < 0)
    if low > 0.5 and gain[0] <= 0 <= gain[1]:
        assert "no gain of the model" in text
    assert any("In place of" in rule for rule in not_for(content)) == (not says_better)


@FAST
@given(st.integers(0, 300))
def test_few_events_are_called_few(n):
    content = content_of(estimate("c_index", 0.6, 0.7, n_events=n))
    assert any(f"only {n} events" in text for text in findings(content)) == (n < 100)


@FAST
@given(st.lists(ends, min_size=1, max_size=5))
def test_a_gain_in_net_benefit_is_shown_only_at_thresholds_where_it_is(gains):
    n = len(gains)
    curve = DecisionCurve(
        cohort="there",
        model="deep",
        horizon_months=36,
        thresholds=tuple(0.1 * (i + 1) for i in range(n)),
        net_benefit=(0.1,) * n,
        lower=(0.05,) * n,
        upper=(0.2,) * n,
        treat_all=(0.0,) * n,
        over="clinic",
        gain=tuple((low + high) / 2 for low, high in gains),
        gain_lower=tuple(low for low, _ in gains),
        gain_upper=tuple(high for _, high in gains),
        method="m",
    )
    text = utility_sentence(curve)
    wins, losses = any(low > 0 for low, _ in gains), any(high < 0 for _, high in gains)
    assert ("a gain in" in text) == wins
    assert ("a loss in" in text) == losses
    assert ("no gain in" in text) == (not wins and not losses)


def test_thresholds_are_named_as_ranges():
    curve = DecisionCurve(
        cohort="c",
        model="deep",
        thresholds=(0.1, 0.2, 0.3, 0.4, 0.5),
        net_benefit=(0.1,) * 5,
        lower=(0.05,) * 5,
        upper=(0.2,) * 5,
        treat_all=(0.0,) * 5,
        over="clinic",
        gain=(0.01,) * 5,
        gain_lower=(0.001, 0.002, -0.1, -0.1, 0.001),
        gain_upper=(0.1,) * 5,
        method="m",
    )
    assert "at 3 of 5 thresholds (10 to 20% and 50%)" in utility_sentence(curve)


@FAST
@given(ends)
def test_groups_differ_only_where_the_interval_excludes_nothing(interval):
    low, high = interval
    item = GroupComparison(
        cohort="c",
        model="deep",
        tau_months=60,
        groups=(GroupSummary(label="low", n_patients=9, n_events=3),),
        method="m",
    )
    contrast = Contrast(label="high", value=(low + high) / 2, lower=low, upper=high)
    text = contrast_sentence(contrast, item)
    assert ("fewer months" in text) == (high < 0)
    assert ("more months" in text) == (low > 0)
    assert text.startswith("No difference") == (low <= 0 <= high)


@pytest.mark.parametrize("value", [None, 4.0])
def test_a_difference_without_an_interval_has_no_direction(value):
    item = GroupComparison(
        cohort="c",
        model="deep",
        groups=(GroupSummary(label="low", n_patients=9, n_events=3),),
        method="m",
    )
    text = contrast_sentence(Contrast(label="high", value=value, note="too few"), item)
    assert "too few" in text
    assert "more" not in text
    assert "fewer" not in text


@FAST
@given(probabilities, st.one_of(st.none(), probabilities))
def test_words_on_a_test_rest_on_the_adjusted_p_where_there_is_one(p, adjusted):
    test = HypothesisTest(name="likelihood ratio of added value", p=p, p_adjusted=adjusted)
    shown = (p if adjusted is None else adjusted) < 0.05
    model = Regression(
        cohort="c",
        model="deep",
        kind="cox",
        title="t",
        missing="none",
        n_patients=50,
        n_events=12,
        terms=(),
        tests=(test,),
        method="m",
    )
    [text] = added_sentences(model)
    assert text.startswith("The risk of ‘deep’ adds") == shown
    assert text.startswith("It was not shown") == (not shown)
    assert "12 events" in text
    nothing = "No change is shown"
    assert effects_sentence([("age", test)], "changes", nothing).startswith(nothing) == (not shown)
    strata = (Stratum(label="a", n_patients=5, n_events=1, note="few"),)
    group = SubgroupAnalysis(
        cohort="c",
        variable="sex",
        metric="c_index",
        model="deep",
        strata=strata,
        heterogeneity=test,
        method="m",
    )
    said = heterogeneity_sentence([group])
    assert ("is shown to differ" in said) == shown
    assert "Too few patients to say anything: sex a." in said


@FAST
@given(ends, ends)
def test_a_new_site_is_promised_no_gain_that_its_interval_does_not_hold(pooled, expected):
    item = MetaAnalysis(
        cohort="c",
        metric="c_index_gain",
        model="deep",
        over="clinic",
        sites=(Stratum(label="a", n_patients=5, n_events=1, note="few"),),
        pooled=Bounded(value=sum(pooled) / 2, lower=pooled[0], upper=pooled[1]),
        prediction_lower=expected[0],
        prediction_upper=expected[1],
        method="m",
    )
    text = new_site_sentence(item)
    assert ("no gain or a loss is among" in text) == (expected[0] <= 0)


@FAST
@given(ends)
def test_a_site_is_told_only_where_the_interval_lies_above_chance(interval):
    low, high = (0.5 + x for x in interval)
    item = SiteProbe(
        cohort="c",
        what="risk",
        n_patients=50,
        n_sites=3,
        auroc=Bounded(value=(low + high) / 2, lower=low, upper=high),
        method="m",
    )
    text = probe_sentence(item)
    assert ("better than chance" in text) == (low > 0.5)
    assert ("was not shown" in text) == (low <= 0.5)


@FAST
@given(probabilities)
def test_more_than_chance_is_said_only_where_permutation_shows_it(p):
    item = InternalValidity(
        cohort="c", model="deep", metric="c_index", null_mean=0.5, null_p=p, method="m"
    )
    [text] = internal_sentences(item)
    assert text.startswith("‘deep’ found more than chance") == (p < 0.05)
    assert ("was not shown" in text) == (p >= 0.05)


def test_sites_without_a_number_are_not_counted_among_those_pooled(full):
    [evidence] = full.validation
    meta = evidence.analyses.sites[0]
    small = Stratum(label="tiny", n_patients=4, n_events=1, note="fewer than 10 events")
    changed = meta.model_copy(update={"sites": (*meta.sites, small)})
    assert "over 4 of 5 sites" in new_site_sentence(changed)
    analyses = evidence.analyses.model_copy(update={"sites": (changed,)})
    part = CohortPart(
        full, evidence.model_copy(update={"analyses": analyses}), "hospital_b", "slug"
    )
    [table] = [block for block in sites_shown(part) if isinstance(block, Table)]
    lines = {row.cells[0].text: row.cells[1].text for row in table.rows}
    assert lines["Pooled"] == "260"
    assert lines["one site left out"] == "4"
    assert [r["label"] for r in table.records if r["what"] == "site"][-1] == "tiny"


def test_added_value_is_found_in_what_a_test_is_about():
    test = HypothesisTest(name="likelihood ratio", about="added value beside age", p=0.5)
    index = HypothesisTest(name="adequacy index", about="added value beside age", note="no test")
    model = Regression(
        cohort="c",
        model="deep",
        kind="cox",
        title="t",
        missing="none",
        n_patients=50,
        n_events=12,
        terms=(),
        tests=(test, index),
        method="m",
    )
    [text] = added_sentences(model)
    assert text.startswith("It was not shown")


def test_drift_is_told_in_words_of_every_input_that_can_drift():
    every = get_args(FeatureDrift.model_fields["features"].annotation)
    assert set(every) == {"image", "storm", "virtual_expression", "imputed_expression"}
    whole = DriftComparison(
        division="all", label="there", n_patients=50, distance=0.4, p=0.001, n_outside=9
    )
    said = {
        f: drift_sentence(FeatureDrift(cohort="there", features=f, comparisons=(whole,)))
        for f in every
    }
    assert len(set(said.values())) == 4
    assert said["imputed_expression"].startswith("Imputed genes of there differ from those of")
