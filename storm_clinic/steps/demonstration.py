"""The verb `demo`: the whole flow on three simulated hospitals, in minutes and by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from storm_clinic.errors import InputError, StatisticsError
from storm_clinic.explanations.planted import Landing
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace, write_text
from storm_clinic.progress import Progress
from storm_clinic.simulate.truth import ceiling_table
from storm_clinic.simulate.workspace import make_workspace
from storm_clinic.steps.extraction import extract
from storm_clinic.steps.planted_truth import attention_landing
from storm_clinic.steps.promotion import promote
from storm_clinic.steps.storm_extraction import StormResult
from storm_clinic.steps.storm_plan import StormChoice
from storm_clinic.steps.study_report import report
from storm_clinic.steps.study_run import StudyRunResult, run_study
from storm_clinic.tracking.place import ARTIFACTS_VARIABLE, TRACKING_VARIABLE, Place
from storm_clinic.validation.evidence import Estimate

SEED = 20261123
PLANTED, CONTROL, MULTI = "demo_pfs.yaml", "demo_control.yaml", "demo_pfs_multi.yaml"
_WHO, _APPROVER = "demo", "demo-approver"
_MARKER = ".storm-clinic-demo"
_CHECKPOINT, _IMPUTED, _N_IMPUTED = "storm-tiny-her2st", "demo_imputed", 4


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What the demo left.

    Attributes
    ----------
    workspace : Workspace
    planted, control : StudyRunResult
        The study whose outcome a morphology drives, and the one whose outcome nothing drives.
    multi : StudyRunResult
        The question of ``planted``, developed in two laboratories.
    imputed : StormResult
        Expression imputed on a few slides, to show the files; no study sees it.
    """

    workspace: Workspace
    planted: StudyRunResult
    control: StudyRunResult
    multi: StudyRunResult
    imputed: StormResult

    def lines(self) -> list[str]:
        """What to tell whoever ran it."""
        return [
            "",
            "Everything here is simulated: no patient stands behind any of these numbers.",
            f"Planted signal, validated on the other hospital: {_said(self.planted)}",
            f"  who knew the planted truth would reach there:  C {truth_of(self.planted):.2f}",
            f"Outcome without signal, likewise:                 {_said(self.control)}",
            f"Developed in two laboratories, at a third:        {_said(self.multi)}",
            f"Attention on the planted morphology there: AUC over tiles {self._landing()}",
            "",
            *(_stands(run) for run in (self.planted, self.control, self.multi)),
            "",
            f"Report          {self.planted.report_path}",
            f"  without signal {self.control.report_path}",
            f"More studies    {self.workspace.pipelines}: storm-clinic run STUDY "
            f"--workspace {self.workspace.root}",
            f"Feature files   {self.workspace.features}",
            f"Imputed genes   {self.imputed.folder}: {self.imputed.contract.n_genes} genes on "
            f"{len(self.imputed.slides)} slides, {len(self.imputed.warnings)} of which look unlike "
            "the real tissue that the checkpoint learned from",
            f"QC pictures     {self._pictures()}",
            f"Registry        storm-clinic registry audit --workspace {self.workspace.root}",
            f"MLflow's pages  storm-clinic registry ui --workspace {self.workspace.root}",
        ]

    def _landing(self) -> Landing:
        cohort = self.planted.model.bundle.study.validation[0]
        return attention_landing(self.planted.model, cohort, self.workspace)

    def _pictures(self) -> str:
        cohort = self.planted.model.bundle.study.development[0]
        encoder = self.planted.model.bundle.study.features.encoder
        return str(FeatureStore.open(self.workspace.store(cohort, encoder)).folder / "qc")


def demo(folder: str | Path, *, n_jobs: int = 1, progress: Progress | None = None) -> Demonstration:
    """Simulate three hospitals, then extract, cross-validate, lock, validate, decide and report.

    Three studies are run: one whose outcome a morphology drives that can be seen at 20x, one whose
    outcome nothing drives, and the first again, developed in two laboratories; the others are
    written down, to be run. Another name than that of who trained and locked asks for each
    promotion. On four slides genes are imputed as well. Repeating it takes up what is there.

    Parameters
    ----------
    folder : str or Path
        Becomes a workspace.
    n_jobs : int
        Processes.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.

    Raises
    ------
    InputError
        If the folder holds something else, or the registry is a team's.
    """
    _require_own_registry(Workspace(Path(folder)))
    workspace = make_workspace(_own_folder(Path(folder)), seed=SEED, progress=progress).workspace
    write_studies(workspace)
    results = [
        run_study(
            workspace.pipelines / name,
            workspace=workspace,
            lock_by=_WHO,
            by=_WHO,
            n_jobs=n_jobs,
            progress=progress,
        )
        for name in (PLANTED, CONTROL, MULTI)
    ]
    imputed = _impute(workspace, progress)
    planted, control, multi = (_decided(result, workspace) for result in results)
    return Demonstration(workspace, planted, control, multi, imputed)


def _impute(workspace: Workspace, progress: Progress | None) -> StormResult:
    """Impute genes on a few slides, in a store of its own: STORM lays another grid of tiles."""
    # Relative paths start at the workspace, which the root is already.
    folder = (workspace.root / "slides" / "demo_a").resolve()
    slides = sorted(folder.iterdir())[:_N_IMPUTED]
    choice = StormChoice(_CHECKPOINT, per_tile=True)
    made = extract(slides, cohort=_IMPUTED, storm=choice, workspace=workspace, progress=progress)
    assert made.storm is not None  # it was asked for
    return made.storm


def _decided(result: StudyRunResult, workspace: Workspace) -> StudyRunResult:
    """Ask for the promotion, once, and write the page that shows the decision."""
    model = result.model
    if model.state == "locked" and model.find_event("promotion_refused") is None:
        model = promote(model, by=_APPROVER, workspace=workspace).model
    page = report(model, workspace=workspace)
    page.save(result.report_path)
    return replace(result, model=model, report=page)


def write_studies(workspace: Workspace) -> list[Path]:
    """Put all studies of the simulated cohorts into ``pipelines/``, those not run here too.

    Returns
    -------
    list of Path
        By name.
    """
    written = []
    shipped = (files("storm_clinic.simulate") / "studies").iterdir()
    for study in sorted(shipped, key=lambda study: study.name):
        path = workspace.pipelines / study.name
        write_text(path, study.read_text(encoding="utf-8"))
        written.append(path)
    return written


def _require_own_registry(workspace: Workspace) -> None:
    """Simulated models are never registered among a team's."""
    if Place.of(workspace) != Place.of(workspace, {}):
        raise InputError(
            "is set, so that simulated models would be registered among real ones",
            where=f"{TRACKING_VARIABLE} or {ARTIFACTS_VARIABLE}",
            fix="Unset both for the demo.",
        )


def _own_folder(folder: Path) -> Path:
    """A new folder, or one that a demo made before: nothing of anybody else is overwritten."""
    marker = folder / _MARKER
    if folder.exists() and not marker.exists() and any(folder.iterdir()):
        raise InputError(
            "holds something that no demo made", where=folder, fix="Name a new folder."
        )
    write_text(marker, "Made by 'storm-clinic demo'; everything in here is simulated.\n")
    return folder


def concordance_of(result: StudyRunResult) -> Estimate:
    """The candidate's C on the other hospital.

    Raises
    ------
    StatisticsError
        If there is none.
    """
    if not result.validations:
        raise StatisticsError("the demo was not validated", where=result.model.reference)
    evidence = result.validations[0].evidence
    return evidence.one("c_index", model=evidence.candidate)


def truth_of(result: StudyRunResult) -> float:
    """C of whoever knows all that drives the outcome, on the other hospital."""
    study = result.model.bundle.study
    table = ceiling_table(SEED)
    asked = (table["endpoint"] == study.endpoint.name) & (table["metric"] == "c_index")
    at = asked & (table["knows"] == "everything")
    return float(table.loc[at, study.validation[0]].item())


def _stands(result: StudyRunResult) -> str:
    """What became of the promotion, and what stood most in its way."""
    decision = result.report.content.decision
    if decision is None:
        return f"{result.model.reference:<20} {result.model.state}"
    order = ("against", "open", "for", "noted")
    first = min(decision.reasons, key=lambda reason: order.index(reason.standing))
    why = "every claim is met, no check fails" if decision.verdict == "approved" else first.text
    return f"{result.model.reference:<20} {decision.verdict}: {why}"


def _said(result: StudyRunResult) -> str:
    estimate = concordance_of(result)
    if estimate.value is None or estimate.lower is None:
        return f"C cannot be estimated: {estimate.note}"
    return (
        f"C {estimate.value:.2f} ({estimate.lower:.2f} to {estimate.upper:.2f}), "
        f"{estimate.n_patients} patients, {estimate.n_events} events"
    )
