"""What a statistician asks beyond the headline numbers, as values that a report shows.

One class an analysis. Each is about one cohort, says how it was made in ``method``, and gives the
reason for whatever is missing in ``note``. Patients appear by key at most, and nothing is NaN.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from storm_clinic.validation.attributed_genes import GeneAttributions
from storm_clinic.validation.domain_warnings import DomainWarnings
from storm_clinic.validation.finite import Count, Finite

Probability = Annotated[float, Field(ge=0, le=1)]


class Bounded(Finite):
    """A number with its 95% interval; what is missing has its reason in ``note``."""

    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    note: str = Field(default="", description="Why a value or an interval is missing.")

    @model_validator(mode="after")
    def _honest(self) -> Bounded:
        if (self.lower is None) != (self.upper is None):
            raise ValueError("an interval has both ends or none")
        if self.value is None and self.lower is not None:
            raise ValueError("an interval without a value")
        if (self.value is None or self.lower is None) and not self.note:
            raise ValueError("a missing value or interval needs its reason in note")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError("the interval runs backwards")
        return self


class HypothesisTest(Finite):
    """One test: what it asks, what came out, how it was made."""

    name: str = Field(description="E.g. log-rank, Gray, proportional hazards.")
    about: str = Field(default="", description="The term or hypothesis, e.g. stage; GLOBAL.")
    statistic: float | None = None
    df: float | None = None
    p: Probability | None = None
    p_adjusted: Probability | None = Field(
        default=None, description="Holm-adjusted inside its family, where there is one."
    )
    method: str = ""
    note: str = Field(default="", description="Why there is no p, or a caution.")


# Curves and utility


class DecisionCurve(Finite):
    """Net benefit over thresholds; treating nobody has net benefit 0."""

    cohort: str
    model: str
    horizon_months: float | None = Field(default=None, description="None for classes.")
    thresholds: tuple[float, ...]
    net_benefit: tuple[float, ...]
    lower: tuple[float, ...] = Field(description="Pointwise 95% interval.")
    upper: tuple[float, ...]
    treat_all: tuple[float, ...]
    over: str | None = Field(default=None, description="The clinical comparator.")
    gain: tuple[float, ...] = Field(default=(), description="Difference from the comparator.")
    gain_lower: tuple[float, ...] = ()
    gain_upper: tuple[float, ...] = ()
    method: str
    note: str = ""


class GroupSummary(Finite):
    """One risk group in numbers."""

    label: str
    n_patients: Count
    n_events: Count
    by_horizon: tuple[Bounded, ...] = Field(
        default=(), description="Event-free share (or incidence) at each horizon."
    )
    restricted_mean: Bounded | None = Field(
        default=None, description="Mean event-free months up to tau."
    )


class Contrast(Bounded):
    """Difference of a group from the lowest-risk group, on the scale of restricted means."""

    label: str
    p: Probability | None = None


class Landmark(Finite):
    """Patients still event-free and followed at a month, and how well risks rank what follows."""

    months: float
    n_patients: Count
    n_events: Count
    c_index: Bounded


class GroupComparison(Finite):
    """Risk groups of one model compared: restricted means, tests, landmarks."""

    cohort: str
    model: str
    horizons_months: tuple[float, ...] = ()
    tau_months: float | None = None
    event: str = Field(default="", description="Cause of interest, with competing risks.")
    groups: tuple[GroupSummary, ...]
    differences: tuple[Contrast, ...] = ()
    tests: tuple[HypothesisTest, ...] = ()
    landmarks: tuple[Landmark, ...] = ()
    method: str
    note: str = ""


# Regression models


class Term(Finite):
    """One coefficient of a regression; ``ratio`` is its exponential."""

    term: str
    coefficient: float
    se: float
    ratio: float
    lower: float = Field(description="95% interval of the ratio.")
    upper: float
    p: Probability


class Regression(Finite):
    """A model for inference, fitted to the evaluated patients; never used to predict."""

    cohort: str
    model: str = Field(description="The model whose risk enters; empty if none does.")
    kind: Literal["cox", "fine-gray", "logistic"]
    title: str = Field(description="What it asks, e.g. ‘Risk beside age and stage’.")
    missing: Literal["none", "complete cases", "multiple imputation"]
    n_patients: Count
    n_events: Count
    n_imputations: Count | None = None
    terms: tuple[Term, ...]
    tests: tuple[HypothesisTest, ...] = Field(
        default=(), description="Likelihood ratio of added value, proportional hazards, ..."
    )
    method: str
    note: str = ""


class TimeEffect(Finite):
    """How a log hazard ratio moves with time: smoothed scaled Schoenfeld residuals."""

    cohort: str
    model: str
    term: str
    months: tuple[float, ...]
    log_hazard_ratio: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    constant: float = Field(description="The coefficient under proportional hazards.")
    test: HypothesisTest
    method: str


class Shape(Finite):
    """How the log hazard moves with a variable: restricted cubic spline against a line."""

    cohort: str
    model: str
    variable: str
    unit: str = ""
    at: tuple[float, ...]
    log_hazard_ratio: tuple[float, ...] = Field(description="Against the median.")
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    knots: tuple[float, ...]
    nonlinear: HypothesisTest
    method: str


# Fairness and shift


class Stratum(Bounded):
    """A number in one subgroup or site."""

    label: str
    n_patients: Count
    n_events: Count


class SubgroupAnalysis(Finite):
    """One measure of one model in each level of a declared variable."""

    cohort: str
    variable: str
    metric: str = Field(description="As in docs/statistics.md, e.g. c_index or c_index_gain.")
    model: str
    over: str | None = None
    horizon_months: float | None = None
    strata: tuple[Stratum, ...]
    heterogeneity: HypothesisTest | None = None
    method: str
    note: str = ""


class CovariateProfile(Finite):
    """One variable in one cohort, in moments that can be compared without its patients.

    Continuous: ``mean`` and ``sd`` of the known. Categorical: counts of ``levels``.
    """

    cohort: str
    variable: str
    kind: Literal["continuous", "categorical"]
    n_known: Count
    n_missing: Count
    mean: float | None = None
    sd: float | None = None
    levels: tuple[str, ...] = ()
    counts: tuple[Count, ...] = ()


class CaseMix(Finite):
    """One variable in development and in the evaluated cohort."""

    cohort: str
    variable: str
    development: CovariateProfile
    evaluated: CovariateProfile
    standardised_difference: float | None = Field(
        default=None, description="Evaluated less development; for categories never negative."
    )
    note: str = ""


class DriftComparison(Finite):
    """Some patients held against development in feature space."""

    division: Literal["all", "scanner", "site"]
    label: str = Field(description="The scanner or site; the cohort, of all its patients.")
    n_patients: Count = Field(description="With features.")
    distance: float | None = Field(
        default=None, description="Energy distance, in standard deviations of development."
    )
    coefficient: Probability | None = Field(
        default=None, description="The distance as a share of the largest it could be."
    )
    p: Probability | None = None
    p_adjusted: Probability | None = Field(
        default=None, description="Holm-adjusted over the comparisons of the cohort."
    )
    n_outside: Count | None = Field(
        default=None, description="Patients beyond the threshold of development."
    )
    note: str = Field(default="", description="Why nothing was compared.")

    @property
    def share_outside(self) -> float | None:
        """Patients beyond the threshold, as a share; None where they were not counted."""
        return None if self.n_outside is None else self.n_outside / self.n_patients


class FeatureDrift(Finite):
    """Whether features look like those of development: before any outcome was read."""

    cohort: str
    features: Literal["image", "storm", "virtual_expression", "imputed_expression"] = Field(
        description="Whose mean over tiles is compared."
    )
    n_development: Count = Field(default=0, description="Patients behind the threshold.")
    n_sampled: Count = Field(default=0, description="Patients of development compared with.")
    n_axes: Count = Field(default=0, description="Principal axes along which they are compared.")
    comparisons: tuple[DriftComparison, ...] = Field(
        default=(), description="All patients first, then scanners and sites, largest first."
    )
    method: str = ""
    note: str = Field(default="", description="Why nothing was compared, or a caution.")


class MetaAnalysis(Finite):
    """One measure over sites: pooled, and where a new site may be expected."""

    cohort: str
    metric: str
    model: str
    over: str | None = None
    sites: tuple[Stratum, ...]
    pooled: Bounded
    prediction_lower: float | None = None
    prediction_upper: float | None = None
    tau2: float | None = None
    i2: Probability | None = None
    method: str
    note: str = ""


class SiteProbe(Finite):
    """How well what a model sees tells the hospital, and what of its ranking is left within one."""

    cohort: str
    what: str = Field(description="E.g. mean tile embedding, risk of the candidate.")
    n_patients: Count
    n_sites: Count
    auroc: Bounded = Field(description="Macro AUROC of telling the sites; 0.5 is chance.")
    p: Probability | None = Field(default=None, description="By permutation of the sites.")
    metric: str = ""
    overall: Bounded | None = Field(default=None, description="The measure over all pairs.")
    within: Bounded | None = Field(default=None, description="Over pairs of one site only.")
    site_alone: Bounded | None = Field(
        default=None, description="The measure of the site's own mean outcome, cross-fitted."
    )
    method: str
    note: str = ""


# Design and internal validity


class Requirement(Finite):
    """One criterion of sample size: what it needs, and what these patients give."""

    criterion: str
    needed_patients: Count | None = None
    needed_events: Count | None = None
    available_patients: Count
    available_events: Count
    target: str = Field(description="What the need is for, e.g. ‘interval of the slope 0.4 wide’.")
    reached: str = Field(description="What the patients at hand give, e.g. ‘0.62 wide’.")
    enough: bool | None = None
    note: str = ""


class Adequacy(Finite):
    """Whether there are enough patients and events, for development or for validation."""

    cohort: str
    stage: Literal["development", "validation"]
    requirements: tuple[Requirement, ...]
    sentence: str = Field(description="Which precision this study can reach, in one sentence.")
    method: str
    note: str = ""


class LearningPoint(Bounded):
    """A measure of models trained on part of the patients."""

    n_patients: Count
    n_events: Count


class InternalValidity(Finite):
    """What cross-validation, optimism and permutation say of one model on its own patients."""

    cohort: str
    model: str
    metric: str
    apparent: float | None = None
    optimism: float | None = None
    corrected: Bounded | None = Field(
        default=None, description="Apparent less optimism; the interval describes resampling."
    )
    null_mean: float | None = Field(default=None, description="With outcomes permuted.")
    null_upper: float | None = Field(default=None, description="Their 95th percentile.")
    null_p: Probability | None = None
    learning: tuple[LearningPoint, ...] = ()
    n_resamples: Count = 0
    method: str
    note: str = ""


class Missingness(Finite):
    """How much of one variable is missing, and among whom."""

    cohort: str
    variable: str
    n_patients: Count
    n_missing: Count
    missing_with_event: Probability | None = None
    missing_without_event: Probability | None = None
    test: HypothesisTest | None = Field(
        default=None, description="Whether being missing goes with the outcome."
    )


class Analyses(Finite):
    """All further analyses of one evaluation; what was not asked for is empty."""

    adequacy: tuple[Adequacy, ...] = ()
    missingness: tuple[Missingness, ...] = ()
    case_mix: tuple[CaseMix, ...] = ()
    decision: tuple[DecisionCurve, ...] = ()
    groups: tuple[GroupComparison, ...] = ()
    regressions: tuple[Regression, ...] = ()
    time_effects: tuple[TimeEffect, ...] = ()
    shapes: tuple[Shape, ...] = ()
    subgroups: tuple[SubgroupAnalysis, ...] = ()
    sites: tuple[MetaAnalysis, ...] = ()
    probes: tuple[SiteProbe, ...] = ()
    internal: tuple[InternalValidity, ...] = ()
    drift: tuple[FeatureDrift, ...] = ()
    attributions: tuple[GeneAttributions, ...] = ()
    domain: tuple[DomainWarnings, ...] = ()

    # All of them came after the first evidence was sealed.
    _later: ClassVar[frozenset[str]] = frozenset(
        {
            *("adequacy", "missingness", "case_mix", "decision", "groups", "regressions"),
            *("time_effects", "shapes", "subgroups", "sites", "probes", "internal", "drift"),
            *("attributions", "domain"),
        }
    )

    def __add__(self, other: Analyses) -> Analyses:
        """Those of both, each kind in order."""
        return Analyses(
            **{name: getattr(self, name) + getattr(other, name) for name in self._later}
        )
