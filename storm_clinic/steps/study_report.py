"""The verb `report`: what was stored of a study, as one page."""

from __future__ import annotations

from storm_clinic.bundle import Bundle
from storm_clinic.errors import CohortError, FeatureError, StorageError
from storm_clinic.files import Workspace
from storm_clinic.registry.decide import Decision
from storm_clinic.registry.identity import load_keys
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.trail import Event
from storm_clinic.registry.versions import Referring, RegisteredModel, reference_of
from storm_clinic.reporting.content import Provenance, RecordedMove, ReportContent, TileGallery
from storm_clinic.reporting.page import Report
from storm_clinic.steps.attended_tiles import gather_tiles
from storm_clinic.steps.cohort_summary import read_summaries
from storm_clinic.steps.stored_validations import Validation, stored_validations
from storm_clinic.steps.study_patients import needs_slides, scored_patients
from storm_clinic.steps.tile_sources import TileSource
from storm_clinic.steps.training_files import EVIDENCE
from storm_clinic.tracking import Tracker
from storm_clinic.validation.evidence import Evidence


def report(model: str | Referring, *, workspace: Workspace | None = None) -> Report:
    """The report of a model version: its development, and its validations where there are any.

    Every number comes from stored evidence; nothing is computed anew. Tiles are read from the
    slides where they are at hand.

    Parameters
    ----------
    model : str, or what `train`, `lock` or `validate` gave
        ``name`` (its latest version) or ``name:version``.
    workspace : Workspace, optional
        The current folder by default.

    Raises
    ------
    RegistryError
        If there is no such model, or something stored of it was changed.
    """
    workspace = workspace or Workspace()
    registry, tracker = Registry(workspace), Tracker(workspace)
    version = registry.find(reference_of(model))
    manifest, study = version.bundle.manifest, version.bundle.study
    validations = stored_validations(version, tracker)
    trained = None if manifest.run_id is None else tracker.read_run(manifest.run_id)
    folders = [] if trained is None else [trained.artifacts]
    folders += [validation.folder for validation in validations]
    shown = [item.cohort for item in validations] or list(study.development)
    galleries, limits = _galleries(version.bundle, shown, workspace)
    comparator = study.comparator
    return Report(
        ReportContent(
            question=study.question,
            candidate=study.candidate,
            comparator=None if comparator is None else comparator.name,
            endpoint=study.endpoint.name,
            study=study,
            development=None if trained is None else Evidence.read(trained.artifacts / EVIDENCE),
            validation=tuple(item.evidence for item in validations),
            cohorts=tuple(summary for folder in folders for summary in read_summaries(folder)),
            tiles=tuple(galleries),
            provenance=_provenance(version, validations),
            moves=tuple(map(_move, version.events)),
            decision=_decision(version),
            limits=tuple(limits),
        )
    )


def _galleries(
    bundle: Bundle, cohorts: list[str], workspace: Workspace
) -> tuple[list[TileGallery], list[str]]:
    """Tiles of the candidate on each cohort; where there are none, the reason as a limit."""
    study = bundle.study
    if not needs_slides(study) or "image" not in study.model(study.candidate).inputs:
        return [], []
    galleries, limits = [], []
    for name in cohorts:
        try:
            patients = scored_patients(study, name, workspace=workspace, keys=load_keys(workspace))
            source = TileSource.of(patients, "image")
            found = gather_tiles(bundle.restore(), study.candidate, patients, source)
        except (CohortError, FeatureError, StorageError) as error:
            found = f"its data cannot be read any more ({type(error).__name__})"
        if isinstance(found, TileGallery):
            galleries.append(found)
        else:
            limits.append(f"No tiles of {name} are shown: {found}.")
    return galleries, limits


def _move(event: Event) -> RecordedMove:
    body = event.body
    said = (body.get(name) for name in ("cohort", "plan", "rerun", "reason"))
    return RecordedMove(
        seq=event.seq,
        kind=event.kind,
        by=event.by,
        when=f"{event.when:%Y-%m-%d %H:%M}",
        digest=event.digest,
        detail=": ".join(str(text) for text in said if text),
        signed="signature" in body,
    )


def _decision(version: RegisteredModel) -> Decision | None:
    """The latest one on record."""
    made = [event.body["decision"] for event in version.events if "decision" in event.body]
    return Decision.model_validate(made[-1]) if made else None


def _provenance(version: RegisteredModel, validations: list[Validation]) -> Provenance:
    manifest = version.bundle.manifest
    digests = {"model bundle": version.bundle.digest, "study": version.bundle.study.digest}
    features = manifest.features or {}
    if features.get("encoder_digest"):
        digests["encoder weights"] = str(features["encoder_digest"])
    for cohort in manifest.training.values():
        digests |= cohort.digests
    for validation in validations:
        digests |= validation.evidence.digests
        digests[f"evidence on {validation.cohort}"] = validation.evidence.digest
    identifiers = [("model", f"{version.reference} ({version.state})")]
    if manifest.run_id:
        identifiers.append(("MLflow run of the training", manifest.run_id))
    return Provenance(
        digests=tuple(digests.items()),
        versions=tuple(manifest.packages.items()),
        seed=version.bundle.study.evaluation.seed,
        identifiers=tuple(identifiers),
    )
