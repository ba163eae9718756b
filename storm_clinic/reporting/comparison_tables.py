"""Models side by side: all in one table, fusions against their parts, classes one by one."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import count
from storm_clinic.reporting.phrases import describe_inputs
from storm_clinic.reporting.readings import gain_in_words
from storm_clinic.reporting.tables import (
    Cell,
    Footnotes,
    Row,
    Table,
    Value,
    estimate_cell,
    estimate_records,
)
from storm_clinic.validation.comparison import (
    ComparedModel,
    compare_models,
    fusion_gains,
    headline,
    models_in_order,
)
from storm_clinic.validation.evidence import Estimate, Evidence
from storm_clinic.validation.measures import MEASURES, gain_of, label_of

_BY_CLASS = ("auroc", "o_e", "calibration_slope")
RESAMPLING = "intervals describe resampling of these patients and support no claim"


def comparison_table(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str
) -> Table | None:
    """One line a model: head, inputs, headline measure, gain, calibration slope, seconds."""
    lines, metric = compare_models(evidence, cohort, content.study), headline(evidence)
    if len(lines) < 2:
        return None
    over, notes = evidence.comparator, Footnotes()
    header = [Cell("Model"), Cell(label_of(metric), numeric=True)]
    if over is not None:
        header.append(Cell(f"Gain over {over}", numeric=True))
    slopes, timed = any(line.slope for line in lines), bool(evidence.seconds)
    header += [Cell("Slope", below="of calibration", numeric=True)] if slopes else []
    header += [Cell("Seconds", below="to fit", numeric=True)] if timed else []
    if content.study is not None:
        header.insert(1, Cell("Head", below="inputs"))
    rows = []
    for line in lines:
        cells = [_named(line), estimate_cell(line.value, notes, strong=line.is_candidate)]
        if over is not None:
            cells.append(_gain_cell(line, notes))
        cells += [estimate_cell(line.slope, notes)] if slopes else []
        cells += [Cell(_seconds(line.seconds), numeric=True)] if timed else []
        if content.study is not None:
            cells.insert(1, Cell(line.head, describe_inputs(content.study, line.model)))
        rows.append(Row(tuple(cells)))
    limits = f"; {RESAMPLING}" if evidence.kind == "cross-validation" else ""
    caption = f"All models on {cohort}: value over 95% interval{limits}"
    records = tuple(_record(line, cohort, evidence.kind) for line in lines)
    return Table(slug, caption, tuple(header), tuple(rows), records, notes.all())


def _named(line: ComparedModel) -> Cell:
    role = "candidate" if line.is_candidate else "comparator" if line.is_comparator else ""
    return Cell(line.model, role, strong=line.is_candidate)


def _gain_cell(line: ComparedModel, notes: Footnotes) -> Cell:
    if line.gain is None and line.is_comparator:
        return Cell("reference", numeric=True, tone="na")
    return estimate_cell(line.gain, notes, strong=line.is_candidate)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f}" if seconds < 100 else count(round(seconds))


def _record(line: ComparedModel, cohort: str, kind: str) -> dict[str, Value]:
    record: dict[str, Value] = {
        "kind": kind,
        "cohort": cohort,
        "model": line.model,
        "head": line.head,
        "inputs": ", ".join(line.inputs),
    }
    for name, estimate in (("value", line.value), ("gain", line.gain), ("slope", line.slope)):
        record |= {
            "measure" if name == "value" else f"{name}_measure": estimate.metric
            if estimate
            else None,
            name: estimate.value if estimate else None,
            f"{name}_lower": estimate.lower if estimate else None,
            f"{name}_upper": estimate.upper if estimate else None,
        }
    return record | {"seconds": line.seconds}


def fusion_table(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str
) -> Table | None:
    """Each model that fuses inputs against every model of fewer of them: what the others add."""
    if content.study is None:
        return None
    metrics = [m for m in MEASURES if any(e.over for e in evidence.find(gain_of(m), cohort=cohort))]
    metrics = [m for m in metrics if _without_horizon(evidence, cohort, gain_of(m))]
    pairs = fusion_gains(evidence, cohort, content.study, metrics)
    if not pairs:
        return None
    notes, rows, last = Footnotes(), [], ""
    first = metrics.index(headline(evidence)) if headline(evidence) in metrics else 0
    for whole, part, gains in pairs:
        if whole != last:
            seen = describe_inputs(content.study, whole)
            rows.append(Row((Cell(f"{whole}: {seen}", strong=True),), heading=True))
            last = whole
        over = Cell(f"over {part}", describe_inputs(content.study, part), indent=True)
        cells = [estimate_cell(gain, notes) for gain in gains]
        words = gain_in_words(gains[first], evidence.kind)
        rows.append(Row((over, *cells, Cell(words))))
    header = (
        Cell("Fusion"),
        *(Cell(label_of(gain_of(m)), numeric=True) for m in metrics),
        Cell("In words", below=label_of(metrics[first])),
    )
    limits = f"; {RESAMPLING}" if evidence.kind == "cross-validation" else ""
    caption = f"Each fusion against its parts on {cohort}: gain over 95% interval{limits}"
    found = [gain for _, _, gains in pairs for gain in gains if gain is not None]
    return Table(
        slug, caption, header, tuple(rows), estimate_records(found, evidence.kind), notes.all()
    )


def _without_horizon(evidence: Evidence, cohort: str, metric: str) -> bool:
    return any(e.horizon_months is None for e in evidence.find(metric, cohort=cohort))


def class_table(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str, models: Sequence[str]
) -> Table | None:
    """Each of several classes against the rest, for some models; all models are in the records."""
    found = [e for e in evidence.find(cohort=cohort) if e.level is not None]
    if not found:
        return None
    metrics = [m for m in _BY_CLASS if any(e.metric == m for e in found)]
    levels = list(dict.fromkeys(e.level for e in found if e.level is not None))
    notes, rows = Footnotes(), []
    for model in (m for m in models_in_order(evidence, content.study) if m in models):
        rows.append(Row((Cell(model, strong=True),), heading=True))
        for level in levels:
            here = [e for e in found if (e.model, e.level) == (model, level)]
            if here:
                n = Cell(count(here[0].n_events), numeric=True)
                cells = [estimate_cell(_one(here, m), notes) for m in metrics]
                rows.append(Row((Cell(level, indent=True), n, *cells)))
    header = (
        Cell("Class"),
        Cell("Patients", numeric=True),
        *(Cell(label_of(m), numeric=True) for m in metrics),
    )
    caption = f"Each class against the rest on {cohort}: value over 95% interval"
    records = estimate_records(found, evidence.kind)
    return Table(slug, caption, header, tuple(rows), records, notes.all())


def _one(estimates: Sequence[Estimate], metric: str) -> Estimate | None:
    return next((e for e in estimates if e.metric == metric), None)
