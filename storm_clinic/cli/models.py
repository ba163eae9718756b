"""``storm-clinic train``, ``lock``, ``validate``, ``report``, ``run`` and ``explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from storm_clinic.cli.arguments import (
    ALL_PROCESSORS,
    HERE,
    JobsOption,
    JsonOption,
    ModelArgument,
    WorkspaceOption,
    workspace_at,
)
from storm_clinic.cli.console import bars, print_json, print_table, say

if TYPE_CHECKING:
    from storm_clinic.files import Workspace
    from storm_clinic.registry.versions import RegisteredModel
    from storm_clinic.study import Study
    from storm_clinic.validation.evidence import Estimate, Evidence

StudyArgument = Annotated[Path, typer.Argument(help="A study file, e.g. pipelines/kirc_pfi.yaml.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Your name; default: the account's.")]


def train(
    study: StudyArgument,
    by: ByOption = None,
    jobs: JobsOption = ALL_PROCESSORS,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Cross-validate every model of a study, refit, and register the candidate.

    Example: storm-clinic train pipelines/kirc_pfi.yaml
    """
    from storm_clinic.steps.training import train as run_training
    from storm_clinic.study import Study

    with bars() as progress:
        candidate = run_training(
            Study.read(study),
            workspace=workspace_at(workspace),
            by=by,
            n_jobs=jobs,
            progress=progress,
        )
    _show(candidate.model, [candidate.evidence], json)


def lock(
    model: ModelArgument,
    by: Annotated[str, typer.Option("--by", help="Who locks; recorded for good.")],
    workspace: WorkspaceOption = HERE,
) -> None:
    """Freeze a candidate: weights, preprocessing, thresholds, claims and validation cohorts.

    Example: storm-clinic lock kirc-pfi --by a.weber
    """
    from storm_clinic.steps.locking import lock as run_lock

    locked = run_lock(model, by=by, workspace=workspace_at(workspace))
    say(f"{locked.reference} is locked; its bundle is {locked.bundle.digest}")
    event = locked.find_event("locked")
    for question in event.body["licences_to_ask_about"] if event else ():
        say(f"Licence: {question}")


def validate(
    model: ModelArgument,
    cohort: Annotated[
        str | None, typer.Option(help="One of the named cohorts; default: all.")
    ] = None,
    rerun: Annotated[
        str | None,
        typer.Option(help="Why --cohort is scored again; both scorings stay on record."),
    ] = None,
    by: ByOption = None,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Score the validation cohorts once, then join their outcomes.

    Example: storm-clinic validate kirc-pfi
    """
    from storm_clinic.steps.external_validation import validate as run_validation

    with bars() as progress:
        done = run_validation(
            model,
            cohort=cohort,
            rerun=rerun,
            workspace=workspace_at(workspace),
            by=by,
            progress=progress,
        )
    evidence = [item.evidence for item in done.cohorts]
    _show(done.model, evidence, json)
    for name in () if json else done.waiting:
        say(f"{name}: predictions are sealed; nobody has an outcome yet. Validate again then.")


def report(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FILE",
            help="A model (name or name:version), or with --cohort a file of predictions "
            "from any program.",
        ),
    ],
    cohort: Annotated[
        str | None, typer.Option(help="Judge the predictions of the file on this cohort.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page; default: reports/<study>/v<version>.html, or "
            "reports/<cohort>/<file>.html."
        ),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="File: needed if several.")] = None,
    candidate: Annotated[str | None, typer.Option(help="File: the model in question.")] = None,
    comparator: Annotated[
        str | None, typer.Option(help="File: the clinical model; default: 'clinical'.")
    ] = None,
    covariate: Annotated[
        list[str] | None, typer.Option(help="File: adjust for it; repeat. Default: all.")
    ] = None,
    subgroup: Annotated[
        list[str] | None, typer.Option(help="File: report by it; repeat. Default: all.")
    ] = None,
    thresholds: Annotated[
        tuple[float, float] | None, typer.Option(help="File: range of risks for net benefit.")
    ] = None,
    tau: Annotated[float | None, typer.Option(help="File: rank events up to this month.")] = None,
    risk_cut: Annotated[
        list[float] | None,
        typer.Option(help="File: cut of the risk, fixed on development data; repeat."),
    ] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write a report: one HTML page, and its tables as CSV beside it.

    Of a model: storm-clinic report kirc-pfi --out kirc_pfi.html

    Of predictions from any program: storm-clinic report predictions.csv --cohort tcga_kirp
    --endpoint pfi --thresholds 0.05 0.5
    """
    at = workspace_at(workspace)
    chosen = {
        "endpoint": endpoint,
        "candidate": candidate,
        "comparator": comparator,
        "covariates": covariate,
        "subgroups": subgroup,
        "thresholds": thresholds,
        "tau_months": tau,
        "risk_cuts": risk_cut,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    path = (
        _report_model(subject, given, out, at)
        if cohort is None
        else _report_file(Path(subject), cohort, given, out, at)
    )
    say(f"Report: {path}")


def _report_model(
    model: str, options: dict[str, Any], out: Path | None, workspace: Workspace
) -> Path:
    from storm_clinic.errors import InputError
    from storm_clinic.registry.moves import Registry
    from storm_clinic.steps.study_report import report as make_report
    from storm_clinic.steps.study_run import report_path

    if options or Path(model).suffix in (".csv", ".tsv", ".parquet"):
        raise InputError(
            "a file of predictions is judged on a cohort, and none was named",
            where=model,
            fix="Add --cohort NAME; the other options belong to it.",
        )
    version = Registry(workspace).find(model)
    page = make_report(version, workspace=workspace)
    return page.save(out or report_path(workspace, version))


def _report_file(
    path: Path, cohort: str, options: dict[str, Any], out: Path | None, workspace: Workspace
) -> Path:
    from storm_clinic.steps.predictions_report import report_predictions

    page = report_predictions(path, cohort=cohort, workspace=workspace, **options)
    if out is None:
        name = page.content.cohorts[0].name
        out = workspace.reports / name / f"{path.stem}.html"
    return page.save(out)


def explain(
    model: ModelArgument,
    cohort: Annotated[str, typer.Option(help="Whose slides.")],
    out: Annotated[Path, typer.Option(help="Folder for maps, tables and the gallery.")],
    patients: Annotated[int, typer.Option(min=1, help="How many, highest risks first.")] = 10,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Where a model's risks come from: attention, occlusion, attribution, on slides and by gene.

    Example: storm-clinic explain demo-pfs --cohort demo_b --out maps/
    """
    from storm_clinic.steps.explanation import explain as run_explanation

    with bars() as progress:
        result = run_explanation(
            model,
            cohort=cohort,
            out=out,
            patients=patients,
            workspace=workspace_at(workspace),
            progress=progress,
        )
    if json:
        judged = {name: vars(found) for name, found in result.faithfulness.items()}
        inputs = result.inputs.astype(object).where(result.inputs.notna(), None)
        tables = {"slides": result.table, "inputs": inputs}
        records = {name: table.to_dict("records") for name, table in tables.items()}
        print_json({**records, "faithfulness": judged})
        return
    print_table(result.table.drop(columns="patient_key"))
    say(f"attribution: {result.attribution_sentence}")
    for name, found in result.faithfulness.items():
        interval = f"{found.gain:.3f} ({found.lower:.3f} to {found.upper:.3f})"
        say(f"{name}: area {interval}, {found.n_patients} patients. {found.sentence}")
    say(f"Written to {result.folder}")


def run(
    study: StudyArgument,
    lock_by: Annotated[
        str | None, typer.Option(help="Go on: lock under this name, validate, report.")
    ] = None,
    by: ByOption = None,
    jobs: JobsOption = ALL_PROCESSORS,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Everything up to a candidate and its report; with --lock-by on to validation. Resumes.

    Example: storm-clinic run pipelines/kirc_pfi.yaml --lock-by a.weber
    """
    from storm_clinic.steps.study_run import run_study

    with bars() as progress:
        result = run_study(
            study,
            workspace=workspace_at(workspace),
            lock_by=lock_by,
            by=by,
            n_jobs=jobs,
            progress=progress,
        )
    content = result.report.content
    evidence = [item for item in (content.development, *content.validation) if item is not None]
    _show(result.model, evidence, json)
    if not json:
        for cohort, extraction in result.extractions.items():
            for row in extraction.failures.itertuples(index=False):
                say(f"{cohort}: {row.slide_id} was not extracted: {row.reason}")
        say(f"Report: {result.report_path}")


def _show(model: RegisteredModel, evidence: list[Evidence], json: bool) -> None:
    """All models side by side on each cohort, fusions against their parts, and what to look at."""
    if json:
        found = [item.to_json() for item in evidence]
        seconds = {name: value for item in evidence for name, value in item.seconds.items()}
        print_json(
            {
                "model": model.reference,
                "state": model.state,
                "evidence": found,
                "seconds": seconds,
            }
        )
        return
    for item in evidence:
        for cohort in item.cohorts:
            _show_cohort(item, cohort, model.bundle.study)
        for check in item.checks:
            if check.status in ("warn", "fail"):
                say(f"{check.code} {check.status}: {check.title}: {check.reason}")
    say(f"{model.reference} is {model.state}")


def _show_cohort(evidence: Evidence, cohort: str, study: Study) -> None:
    from storm_clinic.validation.comparison import compare_models, fusion_gains, headline
    from storm_clinic.validation.measures import label_of

    external = evidence.kind == "external"
    place = f"External validation on {cohort}" if external else f"Cross-validation on {cohort}"
    limits = "" if external else "; intervals describe resampling and support no claim"
    metric = headline(evidence)
    rows = []
    for line in compare_models(evidence, cohort, study):
        row: dict[str, Any] = {
            "model": f"{line.model} *" if line.is_candidate else line.model,
            "head": line.head,
            "inputs": ", ".join(line.inputs),
            f"{label_of(metric)} (95%)": _shown(line.value),
        }
        if evidence.comparator is not None:
            gain = "reference" if line.is_comparator else _shown(line.gain)
            row[f"gain over {evidence.comparator} (95%)"] = gain
        rows.append(row | {"slope (95%)": _shown(line.slope), "seconds": line.seconds})
    frame = pd.DataFrame(rows)
    told = [name for name in frame if frame[name].notna().any() and (frame[name] != "").any()]
    print_table(frame[told], title=f"{place} (* candidate{limits})")
    gains = [
        {"fusion": whole, "over": part, f"gain in {label_of(metric)} (95%)": _shown(found[0])}
        for whole, part, found in fusion_gains(evidence, cohort, study, [metric])
    ]
    if gains:
        print_table(pd.DataFrame(gains), title=f"Each fusion against its parts on {cohort}")


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.value is None:
        return f"not estimable: {estimate.note}"
    if estimate.lower is None:
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} ({estimate.lower:.3f} to {estimate.upper:.3f})"
