"""The measures that a report shows and a claim may name: what each is and how it is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from storm_clinic.errors import StudyError
from storm_clinic.strict_yaml import did_you_mean
from storm_clinic.study import Claim


@dataclass(frozen=True)
class Measure:
    """How one measure is named, printed and read.

    Attributes
    ----------
    name : str
        As in `Estimate.metric` and in a claim.
    label : str
        Short name for a column or an axis.
    meaning : str
        One sentence for a reader who is not a statistician.
    better : {"higher", "lower", "target"}
        Which way is good; ``target`` means close to ``neutral``.
    neutral : float or None
        The value of a model that knows nothing (C-index 0.5), or the target itself.
    digits : int
        Decimals printed.
    has_gain : bool
        Whether its difference between two models is estimated.
    claimable : bool
        Whether a claim may name it.
    """

    name: str
    label: str
    meaning: str
    better: Literal["higher", "lower", "target"]
    neutral: float | None
    digits: int = 2
    has_gain: bool = False
    claimable: bool = True


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            "c_index",
            "C-index",
            "Chance that, of two patients, the one whose event came first had the higher "
            "predicted risk (Harrell). 0.5 is chance, 1 is perfect.",
            "higher",
            0.5,
            has_gain=True,
        ),
        Measure(
            "c_index_uno",
            "C-index (Uno)",
            "The same chance, weighted so that it does not depend on how patients were censored.",
            "higher",
            0.5,
            has_gain=True,
        ),
        Measure(
            "c_index_cause",
            "C-index (cause-specific)",
            "The same chance among patients who are still free of every event; other causes count "
            "as end of follow-up.",
            "higher",
            0.5,
            has_gain=True,
        ),
        Measure(
            "auc",
            "AUC",
            "Chance that a patient with the event by the horizon had a higher predicted risk than "
            "one still without it.",
            "higher",
            0.5,
            has_gain=True,
        ),
        Measure(
            "auc_integrated",
            "AUC (mean over time)",
            "The AUC averaged over the times of events, so that no single horizon decides. 0.5 is "
            "chance, 1 is perfect.",
            "higher",
            0.5,
            has_gain=True,
        ),
        Measure(
            "auroc",
            "AUROC",
            "Chance that a patient with the event had a higher predicted risk than one without. "
            "0.5 is chance, 1 is perfect.",
            "higher",
            0.5,
            has_gain=True,
        ),
        Measure(
            "auroc_macro",
            "AUROC (macro)",
            "AUROC of each class against the rest, averaged so that every class counts the same. "
            "0.5 is chance, 1 is perfect.",
            "higher",
            0.5,
            has_gain=True,
        ),
        Measure(
            "balanced_accuracy",
            "Balanced accuracy",
            "Share of the patients of a class for whom it was predicted as the likeliest, averaged "
            "over classes; chance is 1 over the number of classes.",
            "higher",
            None,
            has_gain=True,
        ),
        Measure(
            "average_precision",
            "Average precision",
            "Area under the precision-recall curve; chance is the share of patients with the "
            "event.",
            "higher",
            None,
            has_gain=True,
        ),
        Measure(
            "brier",
            "Brier score",
            "Mean squared distance between predicted risk and outcome at the horizon; "
            "lower is better.",
            "lower",
            None,
            digits=3,
        ),
        Measure(
            "brier_integrated",
            "Brier score (mean over time)",
            "The Brier score averaged from the first to the last horizon; lower is better.",
            "lower",
            None,
            digits=3,
        ),
        Measure(
            "brier_multiclass",
            "Brier score (all classes)",
            "Squared distance between predicted probabilities and the class that was, summed over "
            "classes; from 0, perfect, to 2.",
            "lower",
            None,
            digits=3,
        ),
        Measure(
            "log_score",
            "Log score",
            "Mean of minus the logarithm of the probability that was given to what happened; "
            "lower is better.",
            "lower",
            None,
            digits=3,
        ),
        Measure(
            "brier_scaled",
            "Scaled Brier",
            "Share of the error of giving everybody the same risk that the model removes. "
            "0 or less: no better than that; 1 is perfect.",
            "higher",
            0.0,
            has_gain=True,
        ),
        Measure(
            "calibration_slope",
            "Calibration slope",
            "1: the spread of predicted risks is right. Below 1: they are too extreme; "
            "above 1: too much alike.",
            "target",
            1.0,
        ),
        Measure(
            "o_e",
            "Observed/expected",
            "Observed over predicted risk of the event by the horizon. 1: right on average. "
            "Above 1: more happened than was predicted.",
            "target",
            1.0,
        ),
        Measure(
            "calibration_intercept",
            "Calibration in the large",
            "Difference of observed from predicted log-odds. 0: right on average. "
            "Above 0: more happened than was predicted.",
            "target",
            0.0,
        ),
        Measure(
            "ici",
            "ICI",
            "Mean distance between predicted and smoothly observed risk. 0 is perfect, and chance "
            "alone keeps it above 0.",
            "lower",
            None,
            digits=3,
            claimable=False,
        ),
        Measure(
            "e50",
            "E50",
            "Half of the patients have predicted and smoothly observed risks closer than this.",
            "lower",
            None,
            digits=3,
            claimable=False,
        ),
        Measure(
            "e90",
            "E90",
            "Nine of ten patients have predicted and smoothly observed risks closer than this.",
            "lower",
            None,
            digits=3,
            claimable=False,
        ),
        Measure(
            "net_benefit",
            "Net benefit",
            "Patients with the event who are rightly treated, less those wrongly treated at the "
            "threshold's rate of exchange, per patient, averaged over the study's thresholds. "
            "Treating nobody has 0.",
            "higher",
            None,
            digits=3,
            has_gain=True,
        ),
    )
}


# What these say where another event can come first, so that the first cause is meant.
COMPETING_MEANINGS: dict[str, str] = {
    "c_index": (
        "Chance that a patient with the event of interest had a higher predicted risk than one "
        "who was still event-free then, or had another event before (Wolbers). 0.5 is chance, 1 is "
        "perfect."
    ),
    "auc": (
        "Chance that a patient with the event of interest by the horizon had a higher predicted "
        "risk than one without it, event-free or with another event."
    ),
    "brier": (
        "Mean squared distance between the predicted risk and whether the event of interest had "
        "happened by the horizon; another event before means it had not. Lower is better."
    ),
    "o_e": (
        "Observed (Aalen-Johansen) over predicted risk of the event of interest by the horizon. "
        "1: right on average. Above 1: more happened than was predicted."
    ),
}


def gain_of(metric: str) -> str:
    """Name of the gain of a measure: its difference between two models."""
    return f"{metric}_gain"


def base_of(metric: str) -> str:
    """The measure a gain is about; any other measure is its own base."""
    return metric.removesuffix("_gain")


def label_of(metric: str) -> str:
    """Name for a reader, e.g. ``Gain in C-index``; a stranger keeps its own name."""
    measure = MEASURES.get(base_of(metric))
    if measure is None:
        return metric
    return measure.label if metric in MEASURES else f"Gain in {measure.label}"


def claimable() -> list[str]:
    """Every name that a claim may use."""
    values = [name for name, measure in MEASURES.items() if measure.claimable]
    return values + [gain_of(name) for name in values if MEASURES[name].has_gain]


def check_claims(claims: Iterable[Claim]) -> None:
    """Refuse claims about measures that do not exist.

    Raises
    ------
    StudyError
        Naming the claim and the nearest measure that exists.
    """
    known = claimable()
    for number, claim in enumerate(claims):
        if claim.metric not in known:
            raise StudyError(
                f"claims.{number}.metric: no such measure as {claim.metric!r}"
                f"{did_you_mean(claim.metric, known)}",
                where="study",
            )
