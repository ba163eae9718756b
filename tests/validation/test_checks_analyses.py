"""Every check of an analysis can pass and fail, applies only where it was made, and says why."""

from __future__ import annotations

import pytest

from storm_clinic.validation.analyses import (
    Adequacy,
    Analyses,
    Bounded,
    CaseMix,
    CovariateProfile,
    DecisionCurve,
    HypothesisTest,
    InternalValidity,
    MetaAnalysis,
    Missingness,
    Regression,
    Requirement,
    SiteProbe,
    Stratum,
    SubgroupAnalysis,
    TimeEffect,
)
from storm_clinic.validation.checks import CheckInput, run_checks
from storm_clinic.validation.evidence import Check

NEW = [f"SC{n}" for n in range(113, 128)]


def judged(code: str, *, comparator: str | None = "clinical", **given: object) -> Check:
    """The check of that code; analyses by their field, others as fields of the input."""
    others = {k: given.pop(k) for k in ("thresholds_named", "cut_points_from") if k in given}
    asked = CheckInput(
        "external", (), (), "fusion", comparator, analyses=Analyses(**given), **others
    )
    [found] = [check for check in run_checks(asked) if check.code == code]
    return found


def bounded(value: float, reach: float = 0.05) -> Bounded:
    return Bounded(value=value, lower=value - reach, upper=value + reach)


def p_test(name: str, p: float | None, **more: object) -> HypothesisTest:
    return HypothesisTest(name=name, p=p, note="" if p is not None else "too few events", **more)


def regression(*tests: HypothesisTest, model: str = "fusion", kind: str = "cox") -> Regression:
    return Regression(
        cohort="b",
        model=model,
        kind=kind,
        title="Risk beside age and stage",
        missing="none",
        n_patients=300,
        n_events=100,
        terms=(),
        tests=tests,
        method="Cox",
    )


@pytest.mark.parametrize("code", NEW)
def test_nothing_applies_where_nothing_was_made(code):
    assert judged(code).status == "not applicable"


@pytest.mark.parametrize(("p", "status"), [(0.3, "pass"), (0.01, "warn"), (None, "warn")])
def test_proportional_hazards(p, status):
    test = p_test("proportional hazards", p, about="fusion")
    found = judged("SC113", regressions=(regression(test),))
    assert found.status == status
    assert ("0.010" in found.reason) == (p == 0.01)
    effect = TimeEffect(
        cohort="b", model="fusion", term="risk", months=(1.0,), log_hazard_ratio=(0.1,),
        lower=(0.0,), upper=(0.2,), constant=0.1, test=test, method="",
    )  # fmt: skip
    assert judged("SC113", time_effects=(effect,)).status == status


def test_proportional_hazards_of_another_model_or_of_no_cox_model_are_not_the_candidates():
    test = p_test("proportional hazards", 0.001)
    others = (regression(test, model="clinical"), regression(test, kind="fine-gray"))
    assert judged("SC113", regressions=others).status == "not applicable"


def test_the_adjusted_p_decides_where_there_is_a_family():
    test = p_test("proportional hazards", 0.02, p_adjusted=0.2)
    assert judged("SC113", regressions=(regression(test),)).status == "pass"


@pytest.mark.parametrize("name", ["likelihood ratio", "robust Wald", "Wald"])
@pytest.mark.parametrize(("p", "status"), [(0.0002, "pass"), (0.2, "warn"), (None, "warn")])
def test_added_value(name, p, status):
    test = p_test(name, p, about="added value beside age + stage")
    found = judged("SC114", regressions=(regression(test),))
    assert found.status == status
    if p == 0.2:
        assert "no added value was shown" in found.reason
    if p == 0.0002:
        assert "p < 0.001" in found.reason


def test_added_value_needs_every_analysis_and_a_clinical_model():
    tests = [p_test("likelihood ratio", p, about="added value beside age") for p in (0.01, 0.3)]
    both = (regression(*tests),)
    assert judged("SC114", regressions=both).status == "warn"
    assert judged("SC114", comparator=None, regressions=both).status == "not applicable"


def test_a_risk_that_tells_something_alone_adds_nothing_by_that():
    alone = p_test("likelihood ratio", 0.001, about="fusion risk, per SD")
    assert judged("SC114", regressions=(regression(alone),)).status == "not applicable"


def test_a_covariate_that_changes_with_time_is_not_the_candidates_effect():
    tests = [
        p_test("proportional hazards", 0.4, about="fusion risk, per SD"),
        p_test("proportional hazards", 0.001, about="stage"),
        p_test("proportional hazards", 0.002, about="GLOBAL"),
    ]
    found = judged("SC113", regressions=(regression(*tests), regression(*tests)))
    assert found.status == "pass"
    assert found.reason.count("fusion risk") == 1


def test_of_one_term_in_several_regressions_the_smallest_p_is_told():
    tests = [p_test("proportional hazards", p, about="fusion risk, per SD") for p in (0.02, 0.6)]
    found = judged("SC113", regressions=tuple(regression(test) for test in tests))
    assert found.status == "warn"
    assert "0.020" in found.reason
    assert "0.600" not in found.reason


def probe(**more: object) -> SiteProbe:
    given = {
        "cohort": "b",
        "what": "risk of fusion",
        "n_patients": 300,
        "n_sites": 5,
        "auroc": bounded(0.7),
        "metric": "c_index",
        "method": "",
    }
    return SiteProbe(**{**given, **more})


@pytest.mark.parametrize(("value", "status"), [(0.53, "pass"), (0.6, "warn")])
def test_outcome_by_site(value, status):
    probes = (probe(site_alone=bounded(value)), probe(what="tiles", site_alone=bounded(value)))
    found = judged("SC115", probes=probes)
    assert found.status == status
    assert found.reason.count(f"{value:.3f}") == 1  # said once, though probed twice


@pytest.mark.parametrize(
    ("overall", "within", "status"),
    [(0.70, 0.69, "pass"), (0.76, 0.57, "warn"), (0.70, 0.52, "fail"), (0.52, 0.51, "pass")],
)
def test_ranking_within_sites(overall, within, status):
    found = judged("SC116", probes=(probe(overall=bounded(overall), within=bounded(within)),))
    assert found.status == status
    assert f"{within:.3f}" in found.reason


def subgroup(events: tuple[int, ...], p: float | None = None, **more: object) -> SubgroupAnalysis:
    strata = tuple(
        Stratum(label=f"level {k}", n_patients=10 * n, n_events=n, value=0.7, lower=0.6, upper=0.8)
        for k, n in enumerate(events)
    )
    given = {
        "cohort": "b", "variable": "sex", "metric": "c_index", "model": "fusion",
        "strata": strata, "method": "", "heterogeneity": p_test("Cochran's Q", p),
    }  # fmt: skip
    return SubgroupAnalysis(**{**given, **more})


@pytest.mark.parametrize(("events", "status"), [((40, 10), "pass"), ((40, 9), "warn")])
def test_subgroups_large_enough(events, status):
    found = judged("SC117", subgroups=(subgroup(events),))
    assert found.status == status
    if status == "warn":
        assert "sex level 1 in b: 9 events among 90" in found.reason


@pytest.mark.parametrize(("p", "status"), [(0.4, "pass"), (0.03, "warn"), (None, "not applicable")])
def test_subgroups_alike(p, status):
    found = judged("SC118", subgroups=(subgroup((40, 40), p),))
    assert found.status == status
    if status == "pass":
        assert "no proof" in found.reason


def adequacy(*enough: bool | None, stage: str = "validation") -> Adequacy:
    requirements = tuple(
        Requirement(
            criterion="C", needed_patients=None if e is None else 700, available_patients=500,
            available_events=62, target="interval of C 0.1 wide", reached="0.14 wide", enough=e,
        )
        for e in enough
    )  # fmt: skip
    return Adequacy(
        cohort="b", stage=stage, requirements=requirements, sentence="With 62 events ...", method=""
    )


@pytest.mark.parametrize(
    ("enough", "status"),
    [((True, True), "pass"), ((True, False), "warn"), ((None,), "fail"), ((True, None), "pass")],
)
def test_validation_large_enough(enough, status):
    found = judged("SC119", adequacy=(adequacy(*enough),))
    assert found.status == status
    if status == "warn":
        assert "700 patients are needed" in found.reason
        assert "500 are there" in found.reason
    else:
        assert "62 events" in found.reason


def test_of_many_shortfalls_the_largest_are_told_and_the_others_counted():
    found = judged("SC119", adequacy=(adequacy(*[False] * 5),))
    assert found.reason.count("patients are needed") == 3
    assert found.reason.endswith("and 2 more")


def test_the_size_of_development_is_another_question():
    found = judged("SC119", adequacy=(adequacy(False, stage="development"),))
    assert found.status == "not applicable"


@pytest.mark.parametrize(
    ("missing", "p", "status"),
    [(20, 0.5, "pass"), (21, 0.5, "warn"), (51, 0.5, "fail"), (5, 0.01, "warn"), (0, None, "pass")],
)
def test_missing(missing, p, status):
    item = Missingness(
        cohort="b", variable="grade", n_patients=100, n_missing=missing, test=p_test("chi2", p)
    )
    found = judged("SC120", missingness=(item,))
    assert found.status == status
    assert f"{missing}%" in found.reason
    assert ("goes with the outcome" in found.reason) == (p == 0.01)


def mix(difference: float | None) -> CaseMix:
    profile = CovariateProfile(
        cohort="b", variable="age", kind="continuous", n_known=9, n_missing=0, mean=60.0, sd=9.0
    )
    return CaseMix(
        cohort="b", variable="age", development=profile, evaluated=profile,
        standardised_difference=difference,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "status"),
    [(0.2, "pass"), (-0.21, "warn"), (0.4, "warn"), (None, "not applicable")],
)
def test_case_mix(difference, status):
    found = judged("SC121", case_mix=(mix(difference),))
    assert found.status == status
    if difference is not None:
        assert f"{difference:+.2f}" in found.reason


def curve(benefit: float, gain: float | None = None, reach: float = 0.01) -> DecisionCurve:
    over = {}
    if gain is not None:
        over = {
            "over": "clinical", "gain": (gain,) * 2,
            "gain_lower": (gain - reach,) * 2, "gain_upper": (gain + reach,) * 2,
        }  # fmt: skip
    return DecisionCurve(
        cohort="b", model="fusion", horizon_months=36, thresholds=(0.1, 0.3),
        net_benefit=(benefit,) * 2, lower=(benefit - 0.02,) * 2, upper=(benefit + 0.02,) * 2,
        treat_all=(0.05, -0.1), method="", **over,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("benefit", "gain", "status"),
    [
        (0.08, None, "pass"),
        (0.03, None, "warn"),  # above treating nobody at one threshold only
        (-0.01, None, "fail"),
        (0.08, 0.02, "pass"),
        (0.08, 0.005, "warn"),  # no interval above 0
        (0.08, -0.02, "fail"),
        (0.08, -0.005, "warn"),
    ],
)
def test_net_benefit(benefit, gain, status):
    found = judged("SC122", decision=(curve(benefit, gain),))
    assert found.status == status
    assert "thresholds from 0.1 to 0.3" in found.reason


def test_the_worst_horizon_decides():
    found = judged("SC122", decision=(curve(0.08), curve(-0.01)))
    assert found.status == "fail"
    assert "0 of 2" in found.reason


@pytest.mark.parametrize(
    ("mean", "p", "status"), [(0.501, 0.001, "pass"), (0.5, 0.3, "fail"), (0.58, 0.01, "fail")]
)
def test_negative_control(mean, p, status):
    item = InternalValidity(
        cohort="b", model="fusion", metric="c_index", null_mean=mean, null_p=p, method=""
    )
    found = judged("SC123", internal=(item,))
    assert found.status == status
    assert ("leaks" in found.reason) == (mean == 0.58)


@pytest.mark.parametrize(
    ("metric", "lower", "status"),
    [
        ("c_index", 0.52, "pass"),
        ("c_index", 0.49, "warn"),
        ("c_index_gain", 0.01, "pass"),
        ("c_index_gain", -0.01, "warn"),
        ("calibration_slope", 0.5, "not applicable"),  # its neutral value is what is hoped for
    ],
)
def test_new_site(metric, lower, status):
    item = MetaAnalysis(
        cohort="b", metric=metric, model="fusion", sites=(), pooled=bounded(0.6),
        prediction_lower=lower, prediction_upper=0.8, method="",
    )  # fmt: skip
    assert judged("SC124", sites=(item,)).status == status


@pytest.mark.parametrize(("named", "status"), [(True, "pass"), (False, "warn")])
def test_range_of_thresholds(named, status):
    assert judged("SC125", thresholds_named=named).status == status


@pytest.mark.parametrize(("whose", "status"), [("development", "pass"), ("evaluated", "fail")])
def test_thresholds_tuned_on_validation(whose, status):
    found = judged("SC126", cut_points_from=whose)
    assert found.status == status
    assert whose in found.reason
