"""How predictions are judged: what a study says of it, or what somebody says of foreign ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from storm_clinic.files import digest_value
from storm_clinic.study import Endpoint, RiskGroups, Study, Thresholds
from storm_clinic.validation.fusion import parts_of

_STEP = 0.01  # between thresholds of a decision curve
_FEWEST = 21  # of them


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything about a judgement that is no datum.

    Attributes
    ----------
    name : str
        Of the study, or of the predictions.
    digest : str
        SHA-256 of the study, or of this plan.
    endpoint : Endpoint
    candidate : str
    comparator : str or None
        The clinical model.
    seed : int
    bootstraps : int
        Resamples of patients where a formula is lacking.
    thresholds : Thresholds or None
        Range over which net benefit is judged.
    clinical : tuple of str
        Covariates beside which the risks are held.
    subgroups : tuple of str
        Columns by which measures are reported; ``site`` is the hospital.
    quantiles : tuple of float
        At which risk groups are cut, on development data.
    inputs : mapping of model to tuple of str
        What each model sees; empty where nobody knows.
    parts : mapping of model to tuple of str
        Models that see some of the inputs of another and no other.
    encoder : str or None
        Of the features.
    from_study : bool
        Whether a study file said all this, before the data were looked at.
    """

    name: str
    digest: str
    endpoint: Endpoint
    candidate: str
    comparator: str | None
    seed: int
    bootstraps: int = 1000
    thresholds: Thresholds | None = None
    clinical: tuple[str, ...] = ()
    subgroups: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = RiskGroups().quantiles
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    encoder: str | None = None
    from_study: bool = False

    @classmethod
    def of(cls, study: Study) -> EvaluationPlan:
        """What a study file says."""
        comparator = study.comparator
        return cls(
            name=study.study,
            digest=study.digest,
            endpoint=study.endpoint,
            candidate=study.candidate,
            comparator=None if comparator is None else comparator.name,
            seed=study.evaluation.seed,
            bootstraps=study.evaluation.bootstraps,
            thresholds=study.thresholds,
            clinical=study.clinical,
            subgroups=study.subgroups,
            quantiles=study.risk_groups.quantiles,
            inputs={spec.name: spec.inputs for spec in study.models},
            parts=parts_of(study),
            encoder=study.features.encoder,
            from_study=True,
        )

    @classmethod
    def without_study(cls, **about: Any) -> EvaluationPlan:
        """A plan whose digest is that of its own values."""
        plan = cls(digest="", **about)
        values = asdict(plan) | {
            "endpoint": plan.endpoint.model_dump(mode="json"),
            "thresholds": None if plan.thresholds is None else plan.thresholds.model_dump(),
        }
        return cls(digest=digest_value(values), **about)

    @cached_property
    def threshold_grid(self) -> tuple[float, ...]:
        """Thresholds at which net benefit is judged, ascending; none without a range."""
        if self.thresholds is None:
            return ()
        low, high = self.thresholds.lowest, self.thresholds.highest
        n = max(_FEWEST, round((high - low) / _STEP) + 1)
        return tuple(float(t) for t in np.round(np.linspace(low, high, n), 10))
