"""Tables of how the models did: all of them beside the clinical comparator, with intervals."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import months
from storm_clinic.reporting.phrases import describe_inputs
from storm_clinic.reporting.tables import (
    Cell,
    Footnotes,
    Row,
    Table,
    estimate_cell,
    estimate_records,
)
from storm_clinic.validation.comparison import models_in_order
from storm_clinic.validation.evidence import Estimate, Evidence
from storm_clinic.validation.measures import MEASURES, base_of, gain_of, label_of

_MAX_COLUMNS = 5
_RANKING = (
    "c_index",
    "c_index_uno",
    "c_index_cause",
    "auc",
    "auroc",
    "auroc_macro",
    "balanced_accuracy",
    "average_precision",
)


def performance_tables(
    content: ReportContent,
    evidence: Evidence,
    cohort: str,
    slug: str,
    *,
    without: Collection[str] = (),
) -> list[Table]:
    """One line a model: the measures that have no horizon, and gains over the comparator.

    Those ``without`` stand in another table.
    More columns than a page holds are split: ranking first, then error and calibration.
    """
    found = [
        e for e in evidence.find(cohort=cohort) if e.horizon_months is None and e.level is None
    ]
    shown = [e for e in found if e.over in (None, content.comparator) and e.metric not in without]
    metrics = _ordered({e.metric for e in shown})
    ranking = [m for m in metrics if base_of(m) in _RANKING]
    rest = [m for m in metrics if m not in ranking]
    parts = [metrics]
    if len(metrics) > _MAX_COLUMNS:
        parts = [
            part[at : at + _MAX_COLUMNS]
            for part in (ranking, rest)
            for at in range(0, len(part), _MAX_COLUMNS)
        ]
    return [
        _performance(
            content,
            evidence,
            cohort,
            [e for e in shown if e.metric in part],
            slug if number == 1 else f"{slug}-{number}",
        )
        for number, part in enumerate(parts, start=1)
        if part
    ]


def _performance(
    content: ReportContent, evidence: Evidence, cohort: str, shown: list[Estimate], slug: str
) -> Table:
    metrics = _ordered({e.metric for e in shown})
    notes = Footnotes()
    header = (Cell("Model"), *(Cell(_label(m, content.comparator), numeric=True) for m in metrics))
    there = _models(shown)
    rows = [
        _model_row(content, model, [_pick(shown, m, model) for m in metrics], notes)
        for model in models_in_order(evidence, content.study)
        if model in there
    ]
    caption = f"Models on {cohort}: value over 95% interval"
    records = estimate_records(shown, evidence.kind)
    return Table(slug, caption, header, tuple(rows), records, notes.all())


def horizon_table(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str
) -> Table | None:
    """Measures that are judged at a horizon: a block a measure, a line a model."""
    found = [
        e
        for e in evidence.find(cohort=cohort)
        if e.horizon_months is not None and e.over in (None, content.comparator)
    ]
    if not found:
        return None
    horizons = sorted({e.horizon_months for e in found if e.horizon_months is not None})
    notes = Footnotes()
    rows: list[Row] = []
    for metric in _ordered({e.metric for e in found}):
        here = [e for e in found if e.metric == metric]
        rows.append(Row((Cell(_label(metric, content.comparator), strong=True),), heading=True))
        for model in _models(here):
            at = [_pick(here, metric, model, horizon) for horizon in horizons]
            rows.append(_model_row(content, model, at, notes, inputs=False))
    header = (Cell("Model"), *(Cell(months(h), numeric=True) for h in horizons))
    caption = f"Models on {cohort} at each horizon: value over 95% interval"
    records = estimate_records(found, evidence.kind)
    return Table(slug, caption, header, tuple(rows), records, notes.all())


def other_gains_table(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str
) -> Table | None:
    """Gains of the candidate over every model but the clinical comparator."""
    found = [
        e
        for e in evidence.find(model=content.candidate, cohort=cohort)
        if e.over not in (None, content.comparator) and e.horizon_months is None
    ]
    if not found:
        return None
    metrics = _ordered({e.metric for e in found})
    notes = Footnotes()
    rows = []
    for other in dict.fromkeys(e.over for e in found if e.over):
        picked = [
            next((e for e in found if (e.metric, e.over) == (m, other)), None) for m in metrics
        ]
        cells = [estimate_cell(e, notes) for e in picked]
        rows.append(Row((Cell(other, describe_inputs(content.study, other)), *cells)))
    labels = [Cell(label_of(m), numeric=True) for m in metrics]
    return Table(
        slug,
        f"‘{content.candidate}’ over each other model on {cohort}",
        (Cell("Compared with"), *labels),
        tuple(rows),
        estimate_records(found, evidence.kind),
        notes.all(),
    )


def _label(metric: str, comparator: str | None) -> str:
    return (
        label_of(metric) if metric == base_of(metric) else f"{label_of(metric)} over {comparator}"
    )


def _ordered(metrics: set[str]) -> list[str]:
    """In the order of the table of measures, each followed by its gain, strangers last."""
    order = [name for known in MEASURES for name in (known, gain_of(known))]
    return sorted(metrics, key=lambda m: (order.index(m) if m in order else len(order), m))


def _models(estimates: Sequence[Estimate]) -> list[str]:
    return list(dict.fromkeys(estimate.model for estimate in estimates))


def _pick(
    estimates: Sequence[Estimate], metric: str, model: str, horizon: float | None = None
) -> Estimate | None:
    for e in estimates:
        if (e.metric, e.model, e.horizon_months) == (metric, model, horizon):
            return e
    return None


def _model_row(
    content: ReportContent,
    model: str,
    estimates: Sequence[Estimate | None],
    notes: Footnotes,
    *,
    inputs: bool = True,
) -> Row:
    strong = model == content.candidate
    role = {content.candidate: "candidate", content.comparator: "comparator"}.get(model, "")
    seen = describe_inputs(content.study, model) if inputs else ""
    below = " · ".join(part for part in (role if inputs else "", seen) if part)
    cells = [
        Cell("reference", numeric=True, tone="na")
        if e is None and model == content.comparator
        else estimate_cell(e, notes, strong=strong)
        for e in estimates
    ]
    return Row((Cell(model, below, strong=strong), *cells))
