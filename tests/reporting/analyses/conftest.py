"""Made-up values of every analysis: full, with notes in place of values, and none.

The numbers come from no patient and no model; they only have to look like such numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from storm_clinic.reporting.content import ReportContent
from storm_clinic.validation.analyses import (
    Adequacy,
    Analyses,
    Bounded,
    CaseMix,
    Contrast,
    CovariateProfile,
    DecisionCurve,
    DriftComparison,
    FeatureDrift,
    GroupComparison,
    GroupSummary,
    HypothesisTest,
    InternalValidity,
    Landmark,
    LearningPoint,
    MetaAnalysis,
    Missingness,
    Regression,
    Requirement,
    Shape,
    SiteProbe,
    Stratum,
    SubgroupAnalysis,
    Term,
    TimeEffect,
)
from storm_clinic.validation.attributed_genes import AttributedGene, GeneAttributions, InputShare
from storm_clinic.validation.domain_warnings import DomainWarnings, PatientOutside

SYNTHETIC = "Synthetic numbers, made up for a test"


def interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "lower": value - half, "upper": value + half}


def made_up_test(name: str, p: float | None, **changes) -> HypothesisTest:
    parts = {"name": name, "statistic": 3.2, "df": 2, "p": p, "method": SYNTHETIC}
    if p is None:
        parts |= {"statistic": None, "df": None, "note": "too few events in a group"}
    return HypothesisTest(**(parts | changes))


def made_up_decision(cohort: str, model: str, horizon: float, strength: float) -> DecisionCurve:
    t = np.linspace(0.05, 0.5, 46)
    all_ = 0.3 - 0.7 * t / (1 - t)
    benefit = np.maximum(all_, 0) * 0.9 + strength * np.exp(-(((t - 0.25) / 0.12) ** 2))
    gain = {}
    if model == "fusion":
        rise = 0.03 * np.exp(-(((t - 0.25) / 0.1) ** 2))
        parts = (("gain", rise), ("gain_lower", rise - 0.015), ("gain_upper", rise + 0.02))
        gain = {"over": "clinical", **{name: tuple(x.tolist()) for name, x in parts}}
    return DecisionCurve(
        cohort=cohort,
        model=model,
        horizon_months=horizon,
        thresholds=tuple(t.tolist()),
        net_benefit=tuple(benefit.tolist()),
        lower=tuple((benefit - 0.03).tolist()),
        upper=tuple((benefit + 0.03).tolist()),
        treat_all=tuple(all_.tolist()),
        method=SYNTHETIC,
        **gain,
    )


def made_up_groups(cohort: str) -> GroupComparison:
    def group(label: str, n: int, shares: tuple[float, ...], mean: float) -> GroupSummary:
        return GroupSummary(
            label=label,
            n_patients=n,
            n_events=n // 3,
            by_horizon=tuple(Bounded(**interval(share, 0.02)) for share in shares),
            restricted_mean=Bounded(**interval(mean, 2.5)),
        )

    return GroupComparison(
        cohort=cohort,
        model="fusion",
        horizons_months=(12, 36, 60),
        tau_months=60,
        groups=(
            group("low", 90, (0.97, 0.91, 0.85), 56.2),
            group("intermediate", 88, (0.9, 0.74, 0.63), 48.0),
            group("high", 82, (0.71, 0.42, 0.28), 31.4),
        ),
        differences=(
            Contrast(label="intermediate", p=0.09, **interval(-3.2, 4.1)),
            Contrast(label="high", p=0.00001, **interval(-24.8, 4.4)),
        ),
        tests=(
            made_up_test("log-rank", 0.00001, p_adjusted=0.00002, about="three groups"),
            made_up_test("trend", 0.00001, p_adjusted=0.00002, df=1),
        ),
        landmarks=tuple(
            Landmark(
                months=m, n_patients=n, n_events=n // 4, c_index=Bounded(**interval(0.66, 0.07))
            )
            for m, n in ((12, 201), (24, 156), (36, 98))
        ),
        method=SYNTHETIC,
    )


def made_up_terms(shift: float) -> tuple[Term, ...]:
    terms = (
        ("risk of fusion, per SD", 0.55, 0.12, 0.000004),
        ("age, per 10 years", 0.11, 0.07, 0.12),
        ("stage: Stage II", 0.31, 0.29, 0.29),
        ("stage: Stage III", 0.92, 0.21, 0.00002),
        ("stage: Stage IV", 1.84, 0.24, 0.0),
    )
    return tuple(
        Term(
            term=name,
            coefficient=b + shift,
            se=se,
            ratio=float(np.exp(b + shift)),
            lower=float(np.exp(b + shift - 1.96 * se)),
            upper=float(np.exp(b + shift + 1.96 * se)),
            p=p,
        )
        for name, b, se, p in terms
    )


def made_up_regression(cohort: str, missing: str) -> Regression:
    whole = missing == "multiple imputation"
    return Regression(
        cohort=cohort,
        model="fusion",
        kind="cox",
        title="Risk beside age and stage",
        missing=missing,
        n_patients=260 if whole else 198,
        n_events=118 if whole else 90,
        n_imputations=20 if whole else None,
        terms=made_up_terms(0.0 if whole else 0.08),
        tests=(
            made_up_test("likelihood ratio of added value", 0.0004, about="risk of fusion", df=1),
            made_up_test("proportional hazards", 0.21, about="GLOBAL", df=5),
        ),
        method=SYNTHETIC,
    )


def made_up_lines(cohort: str) -> dict:
    months = np.linspace(2, 80, 40)
    effects = tuple(
        TimeEffect(
            cohort=cohort,
            model="fusion",
            term=term,
            months=tuple(months.tolist()),
            log_hazard_ratio=tuple((start + slope * months).tolist()),
            lower=tuple((start + slope * months - 0.3).tolist()),
            upper=tuple((start + slope * months + 0.3).tolist()),
            constant=start + slope * 30,
            test=made_up_test("proportional hazards", p, p_adjusted=min(1.0, 2 * p), df=1),
            method=SYNTHETIC,
        )
        for term, start, slope, p in (("risk", 0.9, -0.012, 0.004), ("age", 0.1, 0.0005, 0.7))
    )
    at = np.linspace(35, 85, 40)
    bend = 0.0006 * (at - 60) ** 2 + 0.01 * (at - 60)
    shape = Shape(
        cohort=cohort,
        model="fusion",
        variable="age",
        unit="years",
        at=tuple(at.tolist()),
        log_hazard_ratio=tuple(bend.tolist()),
        lower=tuple((bend - 0.02 * np.abs(at - 60)).tolist()),
        upper=tuple((bend + 0.02 * np.abs(at - 60)).tolist()),
        knots=(41, 55, 64, 79),
        nonlinear=made_up_test("not linear", 0.08),
        method=SYNTHETIC,
    )
    return {"time_effects": effects, "shapes": (shape,)}


def made_up_subgroups(cohort: str) -> tuple[SubgroupAnalysis, ...]:
    few = "7 events; at least 10 are needed"
    levels = {
        "age_band": (("under 55", 81, 31), ("55 to 70", 112, 52), ("over 70", 67, 35)),
        "sex": (("FEMALE", 92, 41), ("MALE", 168, 77)),
        "stage": (("Stage I", 120, 24), ("Stage II", 33, 7), ("Stage III", 107, 87)),
    }
    found = []
    for metric, center, half, over in (
        ("c_index", 0.7, 0.07, None),
        ("c_index_gain", 0.03, 0.05, "clinical"),
    ):
        for at, (variable, strata) in enumerate(levels.items()):
            found.append(
                SubgroupAnalysis(
                    cohort=cohort,
                    variable=variable,
                    metric=metric,
                    model="fusion",
                    over=over,
                    strata=tuple(
                        Stratum(label=label, n_patients=n, n_events=e, note=few)
                        if e < 10
                        else Stratum(
                            label=label,
                            n_patients=n,
                            n_events=e,
                            **interval(center + 0.02 * i - 0.01 * at, half),
                        )
                        for i, (label, n, e) in enumerate(strata)
                    ),
                    heterogeneity=made_up_test(
                        "heterogeneity", 0.2 + 0.1 * at, p_adjusted=min(1, 0.6 + 0.2 * at)
                    ),
                    method=SYNTHETIC,
                )
            )
    return tuple(found)


def made_up_sites(cohort: str) -> dict:
    sites = tuple(
        Stratum(label=f"site {chr(65 + i)}", n_patients=n, n_events=n // 3, **interval(c, 4 / n))
        for i, (n, c) in enumerate(((80, 0.71), (64, 0.66), (58, 0.75), (58, 0.62)))
    )
    meta = MetaAnalysis(
        cohort=cohort,
        metric="c_index",
        model="fusion",
        sites=sites,
        pooled=Bounded(**interval(0.69, 0.04)),
        prediction_lower=0.55,
        prediction_upper=0.83,
        tau2=0.0014,
        i2=0.31,
        method=SYNTHETIC,
    )
    gain = meta.model_copy(
        update={
            "metric": "c_index_gain",
            "over": "clinical",
            "sites": tuple(
                s.model_copy(update=interval(s.value - 0.66, 0.05))  # type: ignore[operator]
                for s in sites
            ),
            "pooled": Bounded(**interval(0.025, 0.02)),
            "prediction_lower": -0.02,
            "prediction_upper": 0.07,
        }
    )
    probes = tuple(
        SiteProbe(
            cohort=cohort,
            what=what,
            n_patients=260,
            n_sites=4,
            auroc=Bounded(**interval(auroc, 0.04)),
            p=p,
            metric="c_index",
            overall=Bounded(**interval(0.70, 0.05)),
            within=Bounded(**interval(0.68, 0.06)),
            site_alone=Bounded(**interval(0.53, 0.05)),
            method=SYNTHETIC,
        )
        for what, auroc, p in (
            ("mean tile embedding", 0.87, 0.0002),
            ("risk of the candidate", 0.52, 0.21),
        )
    )
    return {"sites": (meta, gain), "probes": probes}


def made_up_internal(cohort: str) -> InternalValidity:
    sizes = ((64, 0.61, 0.06), (128, 0.66, 0.05), (192, 0.69, 0.04), (256, 0.7, 0.03))
    return InternalValidity(
        cohort=cohort,
        model="fusion",
        metric="c_index",
        apparent=0.78,
        optimism=0.06,
        corrected=Bounded(**interval(0.72, 0.04)),
        null_mean=0.5,
        null_upper=0.56,
        null_p=0.005,
        learning=tuple(
            LearningPoint(n_patients=n, n_events=n // 3, **interval(c, h)) for n, c, h in sizes
        ),
        n_resamples=200,
        method=SYNTHETIC,
    )


def made_up_patients(cohort: str) -> dict:
    requirement = {"available_patients": 260, "available_events": 118}
    adequacy = Adequacy(
        cohort=cohort,
        stage="validation",
        requirements=(
            Requirement(
                criterion="Observed/expected",
                needed_patients=310,
                needed_events=141,
                target="interval 0.4 wide",
                reached="0.46 wide",
                enough=False,
                **requirement,
            ),
            Requirement(
                criterion="C-index",
                needed_patients=190,
                needed_events=86,
                target="interval 0.1 wide",
                reached="0.09 wide",
                enough=True,
                **requirement,
            ),
            Requirement(
                criterion="Net benefit",
                target="interval 0.1 wide at 20%",
                reached="not known",
                note="the spread of risks was not handed over",
                **requirement,
            ),
        ),
        sentence="With 118 events a calibration slope can be told to within 0.31 either way.",
        method=SYNTHETIC,
    )
    missing = tuple(
        Missingness(
            cohort=cohort,
            variable=variable,
            n_patients=260,
            n_missing=n,
            missing_with_event=n / 250 if n else None,
            missing_without_event=n / 270 if n else None,
            test=test,
        )
        for variable, n, test in (
            ("grade", 62, made_up_test("missing with outcome", 0.003, p_adjusted=0.006)),
            ("stage", 5, made_up_test("missing with outcome", 0.6, p_adjusted=0.6)),
            ("age", 0, None),
        )
    )
    age = {"variable": "age", "kind": "continuous", "n_known": 255, "n_missing": 5, "sd": 11.8}
    stage = {"variable": "stage", "kind": "categorical", "n_known": 250, "n_missing": 10}
    levels = {"levels": ("Stage I", "Stage II", "Stage III")}
    known, unknown = (
        "hospital_a",
        CovariateProfile(
            cohort="hospital_a", variable="grade", kind="continuous", n_known=0, n_missing=320
        ),
    )
    case_mix = (
        CaseMix(
            cohort=cohort,
            variable="age",
            development=CovariateProfile(cohort=known, mean=60.2, **age),
            evaluated=CovariateProfile(cohort=cohort, mean=63.9, **age),
            standardised_difference=0.31,
        ),
        CaseMix(
            cohort=cohort,
            variable="stage",
            development=CovariateProfile(cohort=known, counts=(120, 50, 80), **stage, **levels),
            evaluated=CovariateProfile(cohort=cohort, counts=(130, 42, 78), **stage, **levels),
            standardised_difference=0.08,
        ),
        CaseMix(
            cohort=cohort,
            variable="grade",
            development=unknown,
            evaluated=unknown.model_copy(update={"cohort": cohort}),
            note="not recorded in hospital_a",
        ),
    )
    return {"adequacy": (adequacy,), "missingness": missing, "case_mix": case_mix}


def made_up_drift(cohort: str) -> FeatureDrift:
    def group(division: str, label: str, n: int, outside: int, p: float) -> DriftComparison:
        return DriftComparison(
            division=division,
            label=label,
            n_patients=n,
            distance=0.41,
            coefficient=0.036,
            p=p,
            p_adjusted=min(1.0, 4 * p),
            n_outside=outside,
        )

    few = "fewer than 10 patients are not compared"
    return FeatureDrift(
        cohort=cohort,
        features="image",
        n_development=320,
        n_sampled=160,
        n_axes=32,
        comparisons=(
            group("all", cohort, 260, 31, 0.0001),
            group("scanner", "scanner X", 200, 2, 0.31),
            group("scanner", "scanner Y", 60, 29, 0.0001),
            group("site", "site A", 140, 3, 0.2),
            DriftComparison(division="site", label="site B", n_patients=7, note=few),
            DriftComparison(division="site", label="site C", n_patients=3, note=few),
        ),
        method=SYNTHETIC,
        note="4 patients without these features are left out",
    )


def made_up_attributions(cohort: str) -> GeneAttributions:
    r = {"heldout_r": 0.52, "heldout_r_lower": 0.41, "heldout_r_upper": 0.61}
    genes = (
        AttributedGene(gene="ERBB2", importance=0.31, direction="higher", in_top=1.0, **r),
        AttributedGene(gene="GNAS", importance=0.12, direction="differs", in_top=0.6, **r),
        AttributedGene(
            gene="MKI67",
            importance=0.05,
            direction="lower",
            in_top=0.2,
            heldout_r=None,
            heldout_r_lower=None,
            heldout_r_upper=None,
        ),
    )
    inputs = (
        InputShare(name="image", share=0.4),
        InputShare(name="virtual_expression", share=0.6),
    )
    return GeneAttributions(
        cohort=cohort,
        model="fusion",
        n_patients=80,
        n_incomplete=2,
        n_folds=5,
        n_genes=50,
        n_top=10,
        genes=genes,
        inputs=inputs,
        rank_correlation=0.63,
        method=SYNTHETIC,
        note="in 1 of 5 folds the model does not look at genes",
    )


def made_up_domain(cohort: str) -> DomainWarnings:
    return DomainWarnings(
        cohort=cohort,
        checkpoint="storm-made-up",
        checkpoint_digest="c" * 64,
        n_slides=91,
        n_outside=3,
        n_unknown=1,
        n_patients=80,
        outside=(
            PatientOutside(
                patient_key="0" * 32, n_slides=2, n_outside=2, share_outside=0.64, distance=1.93
            ),
            PatientOutside(
                patient_key="f" * 32, n_slides=1, n_outside=1, share_outside=0.31, distance=None
            ),
        ),
        note="the file is of another program",
    )


def made_up_analyses(cohort: str) -> Analyses:
    return Analyses(
        domain=(made_up_domain(cohort),),
        drift=(made_up_drift(cohort),),
        attributions=(made_up_attributions(cohort),),
        decision=tuple(
            made_up_decision(cohort, model, horizon, strength)
            for horizon in (12, 36, 60)
            for model, strength in (("fusion", 0.06), ("clinical", 0.03))
        ),
        groups=(made_up_groups(cohort),),
        regressions=tuple(
            made_up_regression(cohort, missing)
            for missing in ("multiple imputation", "complete cases")
        ),
        subgroups=made_up_subgroups(cohort),
        internal=(made_up_internal(cohort),),
        **made_up_lines(cohort),
        **made_up_sites(cohort),
        **made_up_patients(cohort),
    )


def noted_analyses(cohort: str) -> Analyses:
    """Every analysis was asked for, and none could be made."""
    why = "only 3 events"
    gap = Bounded(note=why)
    base = {"cohort": cohort, "model": "fusion", "method": SYNTHETIC}
    untested = made_up_test("a test", None)
    nothing = {"months": (), "log_hazard_ratio": (), "lower": (), "upper": ()}
    curve = {"thresholds": (), "net_benefit": (), "lower": (), "upper": (), "treat_all": ()}
    site = Stratum(label="site A", n_patients=20, n_events=3, note=why)
    unknown = {"variable": "age", "kind": "continuous", "n_known": 0, "n_missing": 20}
    return Analyses(
        case_mix=(
            CaseMix(
                cohort=cohort,
                variable="age",
                development=CovariateProfile(cohort="hospital_a", **unknown),
                evaluated=CovariateProfile(cohort=cohort, **unknown),
                note=why,
            ),
        ),
        drift=(FeatureDrift(cohort=cohort, features="image", note=why),),
        attributions=(GeneAttributions(cohort=cohort, model="fusion", note=why),),
        domain=(
            DomainWarnings(
                cohort=cohort,
                checkpoint="storm-made-up",
                checkpoint_digest=None,
                n_slides=20,
                n_outside=0,
                n_unknown=20,
                n_patients=20,
                note=why,
            ),
        ),
        adequacy=(
            Adequacy(
                cohort=cohort,
                stage="validation",
                requirements=(),
                sentence="With 3 events no useful precision can be reached.",
                method=SYNTHETIC,
                note=why,
            ),
        ),
        missingness=(
            Missingness(cohort=cohort, variable="age", n_patients=20, n_missing=4, test=untested),
        ),
        decision=(DecisionCurve(**base, **curve, horizon_months=36, note=why),),
        groups=(GroupComparison(**base, groups=(), note=why),),
        regressions=(
            Regression(
                **base,
                kind="cox",
                title="Risk beside age and stage",
                missing="complete cases",
                n_patients=20,
                n_events=3,
                terms=(),
                note=why,
            ),
        ),
        time_effects=(TimeEffect(**base, **nothing, term="risk", constant=0, test=untested),),
        shapes=(
            Shape(
                **base,
                variable="age",
                at=(),
                log_hazard_ratio=(),
                lower=(),
                upper=(),
                knots=(),
                nonlinear=untested,
            ),
        ),
        subgroups=(
            SubgroupAnalysis(**base, variable="sex", metric="c_index", strata=(), note=why),
            SubgroupAnalysis(
                **base,
                variable="age_band",
                metric="c_index",
                strata=(site,),
                heterogeneity=untested,
            ),
        ),
        sites=(MetaAnalysis(**base, metric="c_index", sites=(site,), pooled=gap, note=why),),
        probes=(
            SiteProbe(
                cohort=cohort,
                what="risk of the candidate",
                n_patients=20,
                n_sites=1,
                auroc=gap,
                method=SYNTHETIC,
                note=why,
            ),
        ),
        internal=(InternalValidity(**base, metric="c_index", note=why),),
    )


def with_analyses(content: ReportContent, analyses: Analyses) -> ReportContent:
    [evidence] = content.validation
    return replace(content, validation=(evidence.model_copy(update={"analyses": analyses}),))


@pytest.fixture(scope="session")
def full(validated: ReportContent) -> ReportContent:
    """Everything was asked for and made, on validation and on development."""
    content = with_analyses(validated, made_up_analyses("hospital_b"))
    own = Analyses(internal=(made_up_internal("hospital_a"),))
    return replace(content, development=content.development.model_copy(update={"analyses": own}))


@pytest.fixture(scope="session")
def noted(validated: ReportContent) -> ReportContent:
    return with_analyses(validated, noted_analyses("hospital_b"))


@pytest.fixture(scope="session")
def nothing_asked(validated: ReportContent) -> ReportContent:
    return with_analyses(validated, Analyses())


@pytest.fixture(scope="session")
def from_elsewhere(full: ReportContent) -> ReportContent:
    """The same predictions as another program would hand them over: no study, no development."""
    return ReportContent(
        question="How well does their model predict?",
        candidate="fusion",
        comparator="clinical",
        validation=full.validation,
        cohorts=full.cohorts[1:],
    )
