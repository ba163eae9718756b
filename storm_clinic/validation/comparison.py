"""All models of some evidence side by side: one line a model, in the order of the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storm_clinic.study import Study
from storm_clinic.validation.evidence import Estimate, Evidence
from storm_clinic.validation.fusion import parts_of
from storm_clinic.validation.measures import gain_of

_HEADLINES = ("c_index", "auroc_macro", "auroc")


@dataclass(frozen=True)
class ComparedModel:
    """One model on one cohort.

    Attributes
    ----------
    model : str
    head : str
        Empty where the study is not known.
    inputs : tuple of str
        Empty where the study is not known.
    value, gain, slope : Estimate or None
        Headline measure, its gain over the comparator, and the calibration slope.
    seconds : float or None
        Wall seconds of fitting, all folds together.
    is_candidate, is_comparator : bool
    """

    model: str
    head: str
    inputs: tuple[str, ...]
    value: Estimate | None
    gain: Estimate | None
    slope: Estimate | None
    seconds: float | None
    is_candidate: bool
    is_comparator: bool


def headline(evidence: Evidence) -> str:
    """The measure that comes first: C-index for times, AUROC (macro for several classes)."""
    present = {estimate.metric for estimate in evidence.estimates if estimate.level is None}
    return next((name for name in _HEADLINES if name in present), "c_index")


def models_in_order(evidence: Evidence, study: Study | None) -> tuple[str, ...]:
    """Models of the evidence in the order of the study; strangers behind, as they come."""
    named = () if study is None else tuple(spec.name for spec in study.models)
    there = evidence.models
    return (*(m for m in named if m in there), *(m for m in there if m not in named))


def compare_models(evidence: Evidence, cohort: str, study: Study | None) -> list[ComparedModel]:
    """One line a model, the same measures for all."""
    metric, over = headline(evidence), evidence.comparator
    specs = {} if study is None else {spec.name: spec for spec in study.models}
    return [
        ComparedModel(
            model=model,
            head=specs[model].head if model in specs else "",
            inputs=specs[model].inputs if model in specs else (),
            value=_first(evidence.find(metric, model=model, cohort=cohort)),
            gain=None
            if over is None
            else _first(evidence.find(gain_of(metric), model=model, cohort=cohort, over=over)),
            slope=_overall(evidence.find("calibration_slope", model=model, cohort=cohort)),
            seconds=evidence.seconds.get(model),
            is_candidate=model == evidence.candidate,
            is_comparator=model == over,
        )
        for model in models_in_order(evidence, study)
    ]


def fusion_gains(
    evidence: Evidence, cohort: str, study: Study, metrics: Sequence[str]
) -> list[tuple[str, str, list[Estimate | None]]]:
    """For each fusion and each model of its parts, the gains in some measures without a horizon."""
    found: list[tuple[str, str, list[Estimate | None]]] = []
    for whole, parts in parts_of(study).items():
        for part in parts:
            gains = [
                _first(evidence.find(gain_of(m), model=whole, cohort=cohort, over=part))
                for m in metrics
            ]
            if any(gain is not None for gain in gains):
                found.append((whole, part, gains))
    return found


def _first(found: Sequence[Estimate]) -> Estimate | None:
    return found[0] if found else None


def _overall(found: Sequence[Estimate]) -> Estimate | None:
    return _first([estimate for estimate in found if estimate.level is None])
