"""Evidence: what a protocol found, as numbers with intervals, checks, curves and digests.

Patients appear by key at most. A number that the data cannot give is None with the reason beside
it, so that the JSON never holds NaN and a gap is never silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from storm_clinic.errors import InputError, StatisticsError
from storm_clinic.files import digest_value, parse_json, write_json
from storm_clinic.strict_yaml import parse
from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.finite import Count, Finite

Kind = Literal["cross-validation", "external"]
Status = Literal["pass", "warn", "fail", "not applicable"]
Seconds = Annotated[float, Field(ge=0)]
TIMINGS = "timings.json"
_CROSS = "cross_validation"


class ResampledInterval(Finite):
    """An interval made a second time by the bootstrap, as a check of the formula's."""

    unit: Literal["patients", "sites"] = Field(description="What was drawn with replacement.")
    n_units: Count
    n_resamples: Count
    lower: float | None = None
    upper: float | None = None
    note: str = Field(default="", description="Why there is none.")


class Estimate(Finite):
    """One number about one model on one cohort, with its interval."""

    metric: str = Field(description="Name as in docs/statistics.md, e.g. c_index or c_index_gain.")
    value: float | None = Field(description="None where the data cannot give it; see note.")
    lower: float | None = Field(default=None, description="Lower end of the 95% interval.")
    upper: float | None = Field(default=None, description="Upper end of the 95% interval.")
    n_patients: Count = Field(description="Patients the number rests on.")
    n_events: Count = Field(description="Events among them, over the whole follow-up.")
    method: str = Field(description="Estimator and how the interval was made.")
    cohort: str = Field(description="Cohort the number is about.")
    model: str = Field(description="Model the number is about.")
    over: str | None = Field(default=None, description="Comparator, for a gain.")
    horizon_months: float | None = Field(default=None, description="Month it is judged at.")
    note: str = Field(default="", description="Why a value or an interval is missing.")
    level: str | None = Field(default=None, description="Class that is held against the rest.")
    resampled: tuple[ResampledInterval, ...] = ()
    _later: ClassVar[frozenset[str]] = frozenset({"level", "resampled"})

    @model_validator(mode="after")
    def _honest(self) -> Estimate:
        if (self.lower is None) != (self.upper is None):
            raise ValueError(f"{self.metric}: an interval has both ends or none")
        if self.value is None and self.lower is not None:
            raise ValueError(f"{self.metric}: an interval without a value")
        if (self.value is None or self.lower is None) and not self.note:
            raise ValueError(f"{self.metric}: a missing value or interval needs its reason in note")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"{self.metric}: the interval runs backwards")
        return self


class Check(Finite):
    """One automatic check with a stable code."""

    code: str = Field(pattern=r"^SC\d{3}$", description="Stable code, never reused.")
    title: str = Field(description="What is checked.")
    status: Status = Field(description="What came out.")
    reason: str = Field(min_length=1, description="Why, with the numbers it rests on.")


class GroupCurve(Finite):
    """Curve of one risk group, as steps: the value at ``i`` holds from ``months[i]``.

    Event-free survival (Kaplan-Meier) or, with competing risks, cumulative incidence of the cause
    of interest (Aalen-Johansen); the other tuple is empty.
    """

    label: str = Field(description="Name of the group, lowest risk first.")
    n_patients: Count
    n_events: Count
    months: tuple[float, ...] = Field(description="0, then the distinct times, ascending.")
    survival: tuple[float, ...] = ()
    lower: tuple[float, ...] = Field(description="Pointwise 95% interval.")
    upper: tuple[float, ...]
    censored_months: tuple[float, ...] = Field(default=(), description="Where patients left.")
    at_risk: tuple[Count, ...] = Field(description="Patients at risk at the curves' ticks.")
    incidence: tuple[float, ...] = Field(default=(), description="Share with the event.")
    n_competing: Count | None = Field(default=None, description="Patients with another event.")
    _later: ClassVar[frozenset[str]] = frozenset({"incidence", "n_competing"})

    @property
    def values(self) -> tuple[float, ...]:
        """The curve, whichever it is."""
        return self.incidence or self.survival


class RiskGroupCurves(Finite):
    """Curves by risk groups whose thresholds were fixed on development data."""

    cohort: str
    model: str
    thresholds: tuple[float, ...] = Field(description="Cut points on the model's risk scale.")
    ticks_months: tuple[float, ...] = Field(description="Months of the at-risk table.")
    groups: tuple[GroupCurve, ...]
    log_rank_chi2: float | None = None
    log_rank_df: int | None = None
    log_rank_p: float | None = None
    note: str = Field(default="", description="Why there is no log-rank test, or a caution.")
    event: str = Field(
        default="", description="Cause whose incidence the curves show; empty: event-free survival."
    )
    _later: ClassVar[frozenset[str]] = frozenset({"event"})


class CalibrationPoint(Finite):
    """Observed probability of one group of patients with similar predictions."""

    predicted: float = Field(description="Mean prediction of the group.")
    observed: float
    lower: float
    upper: float
    n_patients: Count


class CalibrationCurve(Finite):
    """Observed against predicted probability, with the distribution of the predictions."""

    cohort: str
    model: str
    horizon_months: float | None = Field(default=None, description="None for classes.")
    groups: tuple[CalibrationPoint, ...] = Field(description="Groups by prediction, ascending.")
    predicted: tuple[float, ...] = Field(default=(), description="Smooth curve, ascending.")
    observed: tuple[float, ...] = ()
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    bin_edges: tuple[float, ...] = Field(description="Edges of the histogram of predictions.")
    bin_counts: tuple[Count, ...]
    method: str = Field(description="How groups, curve and their intervals were made.")
    note: str = Field(default="", description="What is missing, and where predictions come from.")
    level: str = Field(default="", description="Class that is held against the rest.")
    _later: ClassVar[frozenset[str]] = frozenset({"level"})


class ClassCurves(Finite):
    """Receiver operating characteristic and precision-recall curve of a binary outcome."""

    cohort: str
    model: str
    event: str = Field(description="The class that counts as the event.")
    prevalence: float
    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]


class ConfusionMatrix(Finite):
    """Class that was against class that was predicted as the likeliest, in patients."""

    cohort: str
    model: str
    levels: tuple[str, ...]
    counts: tuple[tuple[Count, ...], ...] = Field(description="A row each class that was.")
    note: str = Field(default="", description="Where the predictions come from.")


class CohortOutcome(Finite):
    """What an outcome of several causes or classes consists of, in one cohort."""

    cohort: str
    kind: Literal["competing risks", "classes"]
    names: tuple[str, ...] = Field(description="Causes, that of interest first, or classes.")
    counts: tuple[Count, ...] = Field(description="Patients of each.")
    n_censored: Count = Field(default=0, description="Patients without any of the events.")


class Timings(Finite):
    """How long models took to fit: ``timings.json`` beside the evidence."""

    format: Literal["storm_clinic/timings"] = "storm_clinic/timings"
    format_version: Literal[1] = 1
    models: dict[str, dict[str, Seconds]] = Field(
        description="Model to part (cross_validation, refit) to wall seconds, all folds together."
    )

    @property
    def seconds(self) -> dict[str, float]:
        """Of cross-validation, by model."""
        return {n: parts[_CROSS] for n, parts in self.models.items() if _CROSS in parts}


class Evidence(Finite):
    """Everything one protocol found for one study: what a report shows and a decision reads.

    Seconds of fitting are never twice the same, so they are no part of it: they lie in a file
    beside it, and neither digest nor equality looks at them.
    """

    format: Literal[1] = 1
    study: str = Field(description="Name of the study.")
    study_digest: str = Field(description="Digest of the resolved study.")
    kind: Kind = Field(description="Only external evidence supports claims.")
    candidate: str = Field(description="The model the claims are about.")
    comparator: str | None = Field(default=None, description="The clinical comparator.")
    estimates: tuple[Estimate, ...]
    checks: tuple[Check, ...] = ()
    risk_groups: tuple[RiskGroupCurves, ...] = ()
    calibration: tuple[CalibrationCurve, ...] = ()
    classes: tuple[ClassCurves, ...] = ()
    digests: dict[str, str] = Field(default_factory=dict, description="Input name to SHA-256.")
    notes: tuple[str, ...] = Field(default=(), description="What a reader must know.")
    outcomes: tuple[CohortOutcome, ...] = Field(
        default=(), description="Causes or classes by cohort; empty for one event."
    )
    confusion: tuple[ConfusionMatrix, ...] = ()
    analyses: Analyses = Field(
        default=Analyses(), description="What a statistician asks beyond these numbers."
    )
    seconds: dict[str, Seconds] = Field(
        default_factory=dict, exclude=True, description="As in timings.json; not written here."
    )
    _later: ClassVar[frozenset[str]] = frozenset({"outcomes", "confusion", "analyses"})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Evidence) and self.to_json() == other.to_json()

    def outcome_of(self, cohort: str) -> CohortOutcome | None:
        """Causes or classes in a cohort; None where there is one event."""
        return next((item for item in self.outcomes if item.cohort == cohort), None)

    def find(
        self,
        metric: str | None = None,
        *,
        model: str | None = None,
        cohort: str | None = None,
        over: str | None = None,
        horizon_months: float | None = None,
        level: str | None = None,
    ) -> list[Estimate]:
        """Estimates that agree with every argument given, in stored order."""
        wanted = {
            "metric": metric,
            "model": model,
            "cohort": cohort,
            "over": over,
            "horizon_months": horizon_months,
            "level": level,
        }
        asked = {name: value for name, value in wanted.items() if value is not None}
        return [
            estimate
            for estimate in self.estimates
            if all(getattr(estimate, name) == value for name, value in asked.items())
        ]

    def one(
        self,
        metric: str,
        *,
        model: str | None = None,
        cohort: str | None = None,
        over: str | None = None,
        horizon_months: float | None = None,
        level: str | None = None,
    ) -> Estimate:
        """The only estimate that agrees.

        Raises
        ------
        StatisticsError
            If there is none, or more than one; the message says which are there.
        """
        found = self.find(
            metric,
            model=model,
            cohort=cohort,
            over=over,
            horizon_months=horizon_months,
            level=level,
        )
        if len(found) == 1:
            return found[0]
        given = {
            "model": model,
            "cohort": cohort,
            "over": over,
            "horizon_months": horizon_months,
            "level": level,
        }
        asked = ", ".join(f"{k}={v}" for k, v in given.items() if v is not None)
        known = sorted({e.metric for e in self.estimates})
        raise StatisticsError(
            f"{len(found)} estimates of {metric} ({asked or 'no other condition'}), not one",
            where="evidence",
            fix=f"Metrics here: {', '.join(known) or 'none'}.",
        )

    @property
    def cohorts(self) -> tuple[str, ...]:
        """Cohorts that estimates speak about, in order of appearance."""
        return tuple(dict.fromkeys(estimate.cohort for estimate in self.estimates))

    @property
    def models(self) -> tuple[str, ...]:
        """Models that estimates speak about, in order of appearance."""
        return tuple(dict.fromkeys(estimate.model for estimate in self.estimates))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives back an equal object."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, where: str = "evidence") -> Evidence:
        """Rebuild from `to_json`.

        Raises
        ------
        InputError
            Naming the field at fault.
        """
        return parse(cls, document, where=where, error=InputError)

    @classmethod
    def read(cls, path: Path) -> Evidence:
        """Read what `write` wrote, with the timings beside it if there are any.

        Raises
        ------
        InputError
            If the file is absent, no JSON, or no evidence; or the timings are none.
        """
        evidence = cls.from_json(_read_json(path), where=str(path))
        timings = path.with_name(TIMINGS)
        if not timings.exists():
            return evidence
        found = parse(Timings, _read_json(timings), where=str(timings), error=InputError)
        return evidence.model_copy(update={"seconds": found.seconds})

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest_value(self.to_json())

    def write(self, path: Path) -> None:
        """Write ``evidence.json`` atomically, and ``timings.json`` beside it if times are known."""
        write_json(path, self.to_json())
        if self.seconds:
            models = {name: {_CROSS: value} for name, value in self.seconds.items()}
            write_json(path.with_name(TIMINGS), Timings(models=models).model_dump())


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=path) from error
