"""What a bundle declares of the study it was trained in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from storm_clinic.bundle import (
    ClinicalColumn,
    Manifest,
    ObservedRange,
    OutcomeDefinition,
    StormInput,
    TrainingCohort,
)
from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.features.contract import CONTRACT_NAME, read_contract
from storm_clinic.features.reference import FeatureReference
from storm_clinic.features.storm_contract import StormContract, is_storm_folder
from storm_clinic.features.storm_expression import EVIDENCE
from storm_clinic.heads.tuning import TunedFit
from storm_clinic.provenance import NUMERICAL_PACKAGES, code_version, package_versions
from storm_clinic.steps.declared_inputs import clinical_columns, measured_inputs
from storm_clinic.steps.development_record import DevelopmentRecord
from storm_clinic.steps.study_patients import Development, Evaluated
from storm_clinic.study import IMPUTED, TILES, VIRTUAL, Study
from storm_clinic.validation.comparison import headline
from storm_clinic.validation.evidence import Estimate, Evidence


def describe_bundle(
    study: Study,
    development: Development,
    fitted: Mapping[str, TunedFit],
    *,
    record: DevelopmentRecord,
    key_id: str,
    run_id: str,
    without_reference: Mapping[str, str] | None = None,
) -> Manifest:
    """Study, inputs, thresholds, cohorts and versions behind some fitted models.

    Thresholds between risk groups are quantiles of the models' own risks of all development
    patients, so that they are fixed before anybody else is scored. ``without_reference`` are the
    reasons that `feature_references` gave.
    """
    store, cohort = development.store, development.parts[0].patients.cohort
    return Manifest(
        study=study.resolved(),
        features=None if store is None else store.contract.to_json(),
        storm=None if development.storm is None else development.storm.contract.to_json(),
        storm_input=_storm_input(study, development),
        clinical=tuple(_observed(c, development) for c in clinical_columns(study, cohort)),
        measurements=measured_inputs(cohort, development.data),
        outcome=_definition(study, development),
        risk_thresholds={
            name: tuple(
                float(cut)
                for cut in np.unique(
                    np.quantile(
                        fit.model.predict(development.data).risk, study.risk_groups.quantiles
                    )
                )
            )
            for name, fit in fitted.items()
        },
        training={part.patients.cohort.name: _trained_on(part) for part in development.parts},
        development_digest=record.digest,
        without_reference=dict(without_reference or {}),
        seeds={"study": study.evaluation.seed},
        key_id=key_id,
        code=code_version().as_dict(),
        packages=package_versions(NUMERICAL_PACKAGES),
        run_id=run_id,
    )


def feature_references(
    development: Development, *, seed: int
) -> tuple[dict[str, FeatureReference], dict[str, str]]:
    """How development's patients look in what comes of slides; and why there is no such record.

    Parameters
    ----------
    development : Development
        Patients of all cohorts count alike; those without slides are left out.
    seed : int
        Of the halves and the sample.
    """
    references, reasons = {}, {}
    for name in (*TILES, IMPUTED):
        means = [
            p
            for part in development.parts
            if (p := part.patients.mean_embeddings.get(name)) is not None
        ]
        if name in development.data.tables:  # joined by gene, which cohorts may have others of
            means = [development.data.table(name).to_numpy(np.float64)]
        if not means:
            continue
        try:
            references[name] = FeatureReference.of(np.concatenate(means), seed=seed)
        except StatisticsError as error:
            reasons[name] = error.problem
    return references, reasons


def _storm_input(study: Study, development: Development) -> StormInput | None:
    """How development's STORM files were made, and from which tiles."""
    stores = [s for part in development.parts if (s := part.patients.storm) is not None]
    if not stores:
        return None
    contracts = [
        StormContract.read(s.folder) if is_storm_folder(s.folder) else None for s in stores
    ]
    files = contracts[0] if all(c == contracts[0] for c in contracts) else None
    tiles = None
    if files is not None:
        beneath = stores[0].folder.parent / files.encoder
        held = read_contract(beneath) if (beneath / CONTRACT_NAME).is_file() else None
        tiles = held if held is not None and held.digest == files.source_digest else None
    imputes = files is not None and files.n_genes > 0
    genes: list[str] = []
    evident: list[str] = []
    if imputes or {IMPUTED, VIRTUAL}.intersection(study.inputs):
        table = stores[0].genes(next(iter(stores[0].headers)))
        genes = list(table.index)
        evident = list(table.index[table["heldout_r_lower"] > EVIDENCE])
    return StormInput(
        files=None if files is None else files.to_json(),
        tiles=None if tiles is None else tiles.to_json(),
        genes=tuple(genes),
        evident=tuple(evident),
    )


def _observed(column: ClinicalColumn, development: Development) -> ClinicalColumn:
    """A covariate with the range of its values, where it is continuous."""
    table = development.data.clinical
    if column.kind != "continuous" or table is None:
        return column
    values = table[column.name].to_numpy(np.float64)
    return column.model_copy(update={"observed": ObservedRange.of(values)})


def _definition(study: Study, development: Development) -> OutcomeDefinition:
    outcome = development.outcome
    declaration = development.parts[0].patients.cohort.endpoints[study.endpoint.name]
    levels: tuple[str, ...] = ()
    if isinstance(outcome, CompetingRisks):
        levels = outcome.causes
    elif isinstance(outcome, Classes):
        levels = outcome.levels
    return OutcomeDefinition(
        name=study.endpoint.name,
        kind=_kind(outcome),
        definition=declaration.model_dump_json(by_alias=True, exclude_defaults=True),
        horizons_months=study.endpoint.horizons_months,
        levels=levels,
    )


def _kind(outcome: Outcome) -> Literal["survival", "competing_risks", "classes"]:
    if isinstance(outcome, Survival):
        return "survival"
    return "competing_risks" if isinstance(outcome, CompetingRisks) else "classes"


def _trained_on(part: Evaluated) -> TrainingCohort:
    return TrainingCohort(
        n_patients=part.outcome.n_patients,
        n_events=part.outcome.n_events,
        digests=part.patients.inputs,
        origin=part.patients.cohort.origin.model_dump(
            mode="json", include={"source", "licence", "citation", "simulated"}
        ),
    )


def performance_table(evidence: Evidence) -> str:
    """Cross-validated discrimination of every model as Markdown, for the model card."""
    rows = [
        "Out-of-fold, repeated cross-validation on development data; intervals describe "
        "resampling of these patients and support no claim.",
        "",
        "| model | metric | value (95% interval) | patients | events |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows += [_row(e) for e in evidence.find(headline(evidence)) if e.level is None]
    return "\n".join(rows)


def _row(estimate: Estimate) -> str:
    value = estimate.note
    if estimate.value is not None:
        value = f"{estimate.value:.3f}"
        if estimate.lower is not None:
            value += f" ({estimate.lower:.3f} to {estimate.upper:.3f})"
    where = f"{estimate.n_patients} | {estimate.n_events}"
    return f"| {estimate.model} | {estimate.metric} | {value} | {where} |"
