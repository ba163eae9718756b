"""The verb `report` for predictions that another program made: judged on a cohort, as one page."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from storm_clinic.cohort.attrition import Attrition, AttritionStep
from storm_clinic.cohort.declarations import BinnedColumn
from storm_clinic.cohort.endpoints import EndpointTable
from storm_clinic.cohort.manifest import Manifest, read_manifest
from storm_clinic.cohort.table import Cohort
from storm_clinic.errors import CohortError, PredictionsError
from storm_clinic.files import Workspace
from storm_clinic.heads.contract import PatientData
from storm_clinic.predictions import Predictions
from storm_clinic.provenance import NUMERICAL_PACKAGES, code_version, package_versions
from storm_clinic.registry.identity import PatientKeys, load_keys
from storm_clinic.reporting.content import Provenance, ReportContent
from storm_clinic.reporting.page import Report
from storm_clinic.steps.cohort_summary import summarise_cohort
from storm_clinic.steps.evaluation_input import SCANNER, SITE, divisions
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.foreign_predictions import ForeignPredictions, read_foreign
from storm_clinic.steps.study_evidence import collect_evidence
from storm_clinic.steps.study_patients import Evaluated, StudyPatients
from storm_clinic.strict_yaml import did_you_mean
from storm_clinic.study import Endpoint, Thresholds
from storm_clinic.validation.evidence import Evidence, Kind

SEED = 20260101  # of bootstrap and imputation; any fixed number
CLINICAL = "clinical"  # a model of this name is the clinical one, unless another is named


def report_predictions(
    path: str | Path,
    *,
    cohort: str,
    endpoint: str | None = None,
    candidate: str | None = None,
    comparator: str | None = None,
    covariates: Sequence[str] | None = None,
    subgroups: Sequence[str] | None = None,
    thresholds: tuple[float, float] | None = None,
    tau_months: float | None = None,
    risk_cuts: Sequence[float] = (),
    seed: int = SEED,
    workspace: Workspace | None = None,
) -> Report:
    """Judge anybody's predictions on a cohort, and make the whole report.

    Parameters
    ----------
    path : str or Path
        CSV, TSV or parquet: ``patient_id`` (or the cohort's own id column, or ``patient_key``);
        ``risk`` (higher is worse, any scale), ``risk_at_<months>m`` or ``survival_at_<months>m``,
        or ``p_<class>``; and where they apply ``model``, ``cohort``, ``repeat``, ``fold``.
    cohort : str
        Name of a cohort of the workspace, or path of its ``cohort.yaml``; it has the outcomes.
    endpoint : str, optional
        Needed where the cohort declares several.
    candidate, comparator : str, optional
        Models of the file. Default: the clinical one is called ``clinical``, if there is one, and
        the candidate is the first other.
    covariates : sequence of str, optional
        Declared columns beside which the risks are held; default: all.
    subgroups : sequence of str, optional
        Declared columns with levels, ``site`` or ``scanner``; default: all of them.
    thresholds : (float, float), optional
        Range of risks at which somebody would act; without it no net benefit is shown.
    tau_months : float, optional
        Events at or after this month are not used to rank patients.
    risk_cuts : sequence of float, optional
        Cut points of the candidate's risk into groups, fixed on development data.
    seed : int
        Of resampling.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    PredictionsError
        If the file is wrong, its patients are not those of the cohort, or a model is not there.
    CohortError
        If the cohort, its endpoint or a column is not there.
    """
    workspace = workspace or Workspace()
    read = Cohort.read(cohort, workspace)
    asked = _endpoint(read, endpoint)
    table = read.outcome(asked)
    manifest = read_manifest(read.manifest_path)
    foreign = read_foreign(
        Path(path),
        cohort=read.name,
        id_column=manifest.tables.clinical.patient_id,
        outcome=table.outcome,
    )
    chosen, clinical = _roles(foreign, candidate, comparator)
    plan = EvaluationPlan.without_study(
        name=f"{read.name}-{asked}",
        endpoint=Endpoint(
            name=asked,
            horizons_months=foreign.horizons_months,
            tau_months=tau_months,
        ),
        candidate=chosen,
        comparator=clinical,
        seed=seed,
        thresholds=_range(thresholds),
        clinical=tuple(_unbinned(manifest) if covariates is None else covariates),
        subgroups=tuple(divisions(read) if subgroups is None else subgroups),
    )
    read.covariates([name for name in plan.subgroups if name not in (SITE, SCANNER)])
    joined = _join(foreign, read, table, workspace)
    evaluated = joined.evaluated(plan.clinical)
    kind: Kind = "cross-validation" if foreign.cross_validated else "external"
    notes = list(foreign.notes)
    if risk_cuts:
        notes.append(
            "Cut points of the risk groups were given with the predictions, as fixed on "
            "development data; this cannot be verified here."
        )
    evidence = collect_evidence(
        plan,
        joined.predictions,
        [evaluated],
        kind=kind,
        thresholds={chosen: tuple(sorted(risk_cuts))} if risk_cuts else {},
        notes=notes,
    )
    return Report(_content(plan, evidence, evaluated, foreign))


def _endpoint(cohort: Cohort, endpoint: str | None) -> str:
    if endpoint is None and len(cohort.endpoints) != 1:
        raise CohortError(
            f"declares {len(cohort.endpoints)} endpoints, and none was named",
            where=cohort.manifest_path,
            fix=f"Name one with endpoint: {', '.join(cohort.endpoints) or 'none is there'}.",
        )
    return endpoint or next(iter(cohort.endpoints))


def _roles(
    foreign: ForeignPredictions, candidate: str | None, comparator: str | None
) -> tuple[str, str | None]:
    """Candidate and clinical model, as named or by the rule of `report_predictions`."""
    models = foreign.models
    for role, name in (("candidate", candidate), ("comparator", comparator)):
        if name is not None and name not in models:
            raise PredictionsError(
                f"{role} {name!r} is no model of the file{did_you_mean(name, models)}",
                where=foreign.path,
                fix=f"Models there: {', '.join(models)}.",
            )
    if comparator is None and CLINICAL in models and candidate != CLINICAL and len(models) > 1:
        comparator = CLINICAL
    if candidate is None:
        candidate = next((name for name in models if name != comparator), None)
    if candidate is None or candidate == comparator:
        raise PredictionsError(
            f"candidate and comparator are both {comparator!r}", where=foreign.path
        )
    return candidate, comparator


def _range(thresholds: tuple[float, float] | None) -> Thresholds | None:
    if thresholds is None:
        return None
    low, high = thresholds
    if not 0 < low < high < 1:
        raise PredictionsError(
            f"thresholds {low:g} to {high:g}", where="thresholds", fix="Needed: 0 < from < to < 1."
        )
    return Thresholds.model_validate({"from": low, "to": high})


def _unbinned(manifest: Manifest) -> list[str]:
    """Declared columns that are not cut from another declared one."""
    return [n for n, spec in manifest.columns.items() if not isinstance(spec, BinnedColumn)]


@dataclass(frozen=True, eq=False)
class _Joined:
    """Patients with both an outcome and predictions of every model."""

    cohort: Cohort
    patient_ids: list[str]
    keys: tuple[str, ...]
    table: EndpointTable
    attrition: Attrition
    predictions: Predictions
    digest: str

    def evaluated(self, covariates: Sequence[str]) -> Evaluated:
        clinical = self.cohort.covariates(covariates).loc[self.patient_ids] if covariates else None
        position = {patient: at for at, patient in enumerate(self.table.patient_ids)}
        nothing: tuple[tuple[str, ...], ...] = ((),) * len(self.patient_ids)
        patients = StudyPatients(
            cohort=self.cohort,
            patient_ids=tuple(self.patient_ids),
            keys=self.keys,
            slide_ids=nothing,
            storm_slide_ids=nothing,
            data=PatientData(keys=self.keys, clinical=clinical),
            attrition=self.attrition,
            store=None,
            storm=None,
            measurement_digests={"predictions": self.digest},
        )
        return Evaluated(patients, self.table.outcome.take([position[p] for p in self.patient_ids]))


def _join(
    foreign: ForeignPredictions, cohort: Cohort, table: EndpointTable, workspace: Workspace
) -> _Joined:
    rows, strangers = _of_cohort(foreign, cohort, workspace)
    reasons = _reasons(rows, list(table.patient_ids))
    with_predictions = Attrition.left_out("with predictions", table.patient_ids, reasons)
    kept = [patient for patient in table.patient_ids if patient not in reasons]
    if not kept:
        raise PredictionsError(
            f"none of the {len(table.patient_ids)} patients with an outcome has predictions of "
            f"every model ({', '.join(foreign.models)})",
            where=foreign.path,
        )
    # Nothing is stored under these keys, and so they need not be the institution's.
    keys = dict(zip(kept, PatientKeys(secrets.token_bytes(32)).patient_keys(kept), strict=True))
    used = rows[rows["patient"].isin(kept)]
    named = used.assign(cohort=cohort.name, patient_key=used["patient"].map(keys))
    named = named.drop(columns="patient").reset_index(drop=True)
    return _Joined(
        cohort,
        kept,
        tuple(keys[patient] for patient in kept),
        table,
        # Slides play no part here.
        Attrition(
            (
                strangers,
                *(step for step in cohort.attrition if step.unit != "slides"),
                *table.attrition,
                *with_predictions,
            )
        ),
        Predictions(named),
        foreign.digest,
    )


def _of_cohort(
    foreign: ForeignPredictions, cohort: Cohort, workspace: Workspace
) -> tuple[pd.DataFrame, AttritionStep]:
    """Rows about patients of the cohort, by their ids; and who else is in the file."""
    rows, ids = foreign.table, list(cohort.patients.index)
    if foreign.by == "patient_key":
        named = dict(zip(load_keys(workspace).patient_keys(ids), ids, strict=True))
        rows = rows.assign(patient=rows["patient"].map(named).fillna(rows["patient"]))
    known = rows["patient"].isin(set(ids))
    if not known.any():
        raise PredictionsError(
            f"none of its {rows['patient'].nunique()} patients is among the {len(ids)} of cohort "
            f"{cohort.name}",
            where=foreign.path,
            fix=f"Compare column {foreign.by} with the ids of the cohort's clinical table.",
        )
    excluded = tuple((str(p), "no such patient in the cohort") for p in rows["patient"][~known])
    n_after = int(known.sum())
    return rows[known], AttritionStep(
        "predictions for patients of the cohort", "rows", len(rows), n_after, excluded
    )


def _reasons(rows: pd.DataFrame, patient_ids: list[str]) -> dict[str, str]:
    """Why a patient cannot be judged under every model, in the order of the models."""
    reasons: dict[str, str] = {}
    values = rows.columns.difference(["patient", "model", "repeat", "fold"])
    for model, own in rows.groupby("model", sort=False):
        given = [name for name in values if name == "risk" or own[name].notna().any()]
        whole = own[own[given].notna().all(axis=1)]
        n_repeats = own["repeat"].nunique()
        complete = whole.groupby("patient").size().eq(n_repeats)
        has_all = set(complete.index[complete])
        for patient in patient_ids:
            if patient not in has_all:
                reasons.setdefault(patient, f"no prediction of {model}")
    if len(set(rows["model"])) == 1:
        return dict.fromkeys(reasons, "no prediction")
    return reasons


def _content(
    plan: EvaluationPlan, evidence: Evidence, evaluated: Evaluated, foreign: ForeignPredictions
) -> ReportContent:
    external = evidence.kind == "external"
    summary = summarise_cohort(
        (*plan.clinical, *plan.subgroups), evaluated, "validation" if external else "development"
    )
    code = code_version()
    versions: Mapping[str, str] = {
        "storm-clinic": code.version,
        **package_versions(NUMERICAL_PACKAGES),
    }
    digests = {"predictions": foreign.digest, **evidence.digests, "evidence": evidence.digest}
    return ReportContent(
        question=f"How well do these predictions of {plan.endpoint.name} hold in "
        f"{evaluated.patients.cohort.name}?",
        candidate=plan.candidate,
        comparator=evidence.comparator,
        endpoint=plan.endpoint.name,
        study=None,
        development=None if external else evidence,
        validation=(evidence,) if external else (),
        cohorts=(summary,),
        provenance=Provenance(
            digests=tuple(digests.items()),
            versions=tuple(versions.items()),
            seed=plan.seed,
            identifiers=(("code", code.digest),),
        ),
        limits=(
            "How the models were trained, and on whom, is not known to this report: that no "
            "patient was trained on rests on the word of who made the predictions.",
            *foreign.notes,
        ),
    )
