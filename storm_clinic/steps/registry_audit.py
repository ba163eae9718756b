"""The verb `registry audit`: everything the trail vouches for, held against what is there."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from storm_clinic.bundle import Bundle
from storm_clinic.errors import StorageError, StormClinicError
from storm_clinic.files import Workspace
from storm_clinic.registry.audit import (
    Audit,
    ChainAudit,
    Verified,
    audit_chain,
    find_allowed_signers,
)
from storm_clinic.registry.bundle_audit import check_cohorts, check_lock, read_registered_bundle
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.mirror_audit import (
    check_mirror,
    labels_of,
    read_mirror,
    registered_versions,
)
from storm_clinic.registry.moves import Registry
from storm_clinic.registry.replay import is_well_formed
from storm_clinic.registry.trail import Event, Head
from storm_clinic.registry.versions import history_of, states_of
from storm_clinic.registry.vouched_files import (
    check_file,
    check_json_file,
    check_run_files,
    check_version_files,
)
from storm_clinic.steps.decision_audit import check_decision
from storm_clinic.steps.development_record import DEVELOPMENT
from storm_clinic.steps.metric_audit import check_metrics, is_deleted
from storm_clinic.steps.training_files import EVIDENCE, PREDICTIONS
from storm_clinic.tracking import RunRecord, Tracker
from storm_clinic.tracking.artifact_files import ArtifactFiles
from storm_clinic.tracking.client import mlflow_errors
from storm_clinic.validation.evidence import Evidence

# Checked by their values, which says more.
_JSON_OF_OURS = frozenset({EVIDENCE, DEVELOPMENT})


def audit(
    *,
    workspace: Workspace | None = None,
    head: str | None = None,
    allowed_signers: Path | None = None,
) -> Audit:
    """Hold a whole registry against its trail; reads everything and writes nothing.

    Parameters
    ----------
    workspace : Workspace, optional
        The current folder by default.
    head : str, optional
        What `registry head` printed some day, e.g. ``41:ab12…``, kept elsewhere since: only so is
        a lost end of the trail, or one that was written anew, seen without signatures.
    allowed_signers : Path, optional
        Who has which key, in OpenSSH's format; by default ``mlruns/allowed_signers`` if it exists.

    Raises
    ------
    RegistryError
        If ``head`` is none, or there is no such list.
    """
    workspace = workspace or Workspace()
    kept = None if head is None else Head.parse(head)
    signers, notes = find_allowed_signers(workspace.mlruns.resolve(), allowed_signers)
    try:
        chain = audit_chain(Registry(workspace).trail, head=kept, allowed_signers=signers)
    except StorageError as error:
        unreadable = Finding(Kind.TRAIL_UNREADABLE, "trail", str(error))
        return Audit((unreadable,), Verified(), None, (*notes, "nothing else could be verified"))
    with tempfile.TemporaryDirectory() as scratch:
        work = _Work(Tracker(workspace), chain, Path(scratch))
        work.check()
    counts = Verified(
        events=len(chain.events), signed=chain.signed, unsigned=chain.unsigned, **work.counts
    )
    found = tuple(dict.fromkeys((*chain.findings, *work.findings)))
    return Audit(found, counts, chain.head, (*notes, *chain.notes, *work.notes))


class _Work:
    """One audit of what lies outside the trail: what it found so far."""

    def __init__(self, tracker: Tracker, chain: ChainAudit, scratch: Path) -> None:
        self.database = tracker.database
        self.tracker = tracker
        self.files = self.database.files
        if self.database.place.artifact_folder is None:
            # What the store holds now, not what was fetched from it some day.
            self.files = ArtifactFiles(replace(self.database.place, folder=scratch))
        self.events = tuple(filter(is_well_formed, chain.events))
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.counts: Counter[str] = Counter()
        self.evidence: dict[str, Evidence] = {}  # by digest, unchanged

    def check(self) -> None:
        """Everything that the events speak of."""
        path = self.database.place.database_path
        if not self.events and path is not None and not path.exists():
            return  # opening it would make it
        registered = registered_versions(self.events)
        for (name, number), event in registered.items():
            history = history_of(self.events, name, number)
            bundle = self.version(event, history, list(registered.values()))
            for at, later in enumerate(history):
                if later.kind == "predictions_sealed":
                    self.predictions(later, history)
                elif later.kind == "validated":
                    self.validation(later)
                elif "decision" in later.body and bundle is not None:
                    self.counts["decisions"] += 1
                    self.findings += check_decision(later, history[:at], bundle, self.evidence)
        self.mirror()

    def version(self, event: Event, history: Sequence[Event], others: list[Event]) -> Bundle | None:
        """Files, bundle, lock and training of one version."""
        self.counts["versions"] += 1
        run, place = self.run(event), str(event.body["folder"])
        folder = self.folder(place)
        if folder is None:
            return None
        found, n_files = check_version_files(folder, event, others)
        self.counts["files"] += n_files
        bundle, reasons = read_registered_bundle(folder, event)
        self.findings += found or reasons  # a changed file says more than that it cannot be read
        if bundle is None:
            return None
        self.findings += [*check_lock(bundle, history), *check_cohorts(bundle, history)]
        digest = bundle.manifest.development_digest
        opened = None if run is None else self.opened(run)
        if run is None or opened is None:
            return bundle
        folder, name = opened
        if digest is not None:
            found = check_json_file(folder / DEVELOPMENT, f"{name}/{DEVELOPMENT}", digest)
            self.findings += found
        self.run_files(event)
        recorded = event.body.get("evidence_digest")
        if recorded is None:
            self.notes.append(
                f"row {event.seq}: the evidence of this training was not verified: the event is of "
                "a version that recorded no digest of it"
            )
            return bundle
        self.counts["evidence"] += 1
        changed = check_json_file(folder / EVIDENCE, f"{name}/{EVIDENCE}", str(recorded))
        self.findings += changed
        if not changed:
            self.metrics(run, folder / EVIDENCE)
        return bundle

    def run_files(self, event: Event) -> None:
        """Everything else that a training or a validation left in its runs."""
        recorded = event.body.get("run_files")
        if not isinstance(recorded, dict):
            self.notes.append(
                f"row {event.seq}: files beside evidence and predictions were not verified: the "
                "event is of a version that recorded no digests of them"
            )
            return
        for run_id, files in recorded.items():
            run = self.run(event, run_id)
            opened = None if run is None else self.opened(run)
            if opened is not None:
                folder, name = opened
                self.counts["files"] += len(files)
                self.findings += check_run_files(folder, name, files, but=_JSON_OF_OURS)

    def predictions(self, seal: Event, history: Sequence[Event]) -> None:
        """Sealed predictions, in the run that the seal or the validation after it names."""
        later = [event for event in history if event.kind == "validated" and event.seq > seal.seq]
        of_cohort = [event for event in later if event.body["cohort"] == seal.body["cohort"]]
        named = [event for event in (seal, *of_cohort) if event.body.get("run_id")]
        if not named:
            self.notes.append(
                f"row {seal.seq}: the sealed predictions on {seal.body['cohort']} were not "
                "verified: no event names the run that holds them"
            )
            return
        run = self.run(named[0])
        opened = None if run is None else self.opened(run)
        if opened is not None:
            folder, name = opened
            expected = str(seal.body["predictions_digest"])
            self.counts["predictions"] += 1
            self.findings += check_file(folder / PREDICTIONS, f"{name}/{PREDICTIONS}", expected)

    def validation(self, event: Event) -> None:
        """Evidence of a validation, and the metrics that were logged of it."""
        run = self.run(event)
        opened = None if run is None else self.opened(run)
        if run is None or opened is None:
            return
        folder, name = opened
        self.run_files(event)
        expected = str(event.body["evidence_digest"])
        self.counts["evidence"] += 1
        changed = check_json_file(folder / EVIDENCE, f"{name}/{EVIDENCE}", expected)
        self.findings += changed
        if not changed:
            self.metrics(run, folder / EVIDENCE)

    def metrics(self, run: RunRecord, path: Path) -> None:
        """Numbers in MLflow's database against the evidence of their run."""
        try:
            evidence = Evidence.read(path)
            self.evidence[evidence.digest] = evidence
            found, n_metrics = check_metrics(self.database, run, evidence)
        except StormClinicError as error:
            text = f"metrics of run {run.run_id} cannot be compared: {error}"
            self.findings.append(Finding(Kind.RUN_LOST, f"run {run.run_id}", text))
            return
        self.findings += found
        self.counts["metrics"] += n_metrics

    def run(self, event: Event, run_id: str | None = None) -> RunRecord | None:
        """A run that an event names; None, and a finding, where MLflow has lost it."""
        run_id = str(event.body["run_id"]) if run_id is None else run_id
        try:
            run = self.tracker.read_run(run_id)
            deleted = is_deleted(self.database, run_id)
        except StormClinicError as error:
            text = f"row {event.seq}: run {run_id} cannot be read any more: {error}"
            self.findings.append(Finding(Kind.RUN_LOST, f"run {run_id}", text, run_id))
            return None
        if deleted:
            text = f"row {event.seq}: run {run_id} ({run.name}) was deleted in MLflow"
            self.findings.append(Finding(Kind.RUN_LOST, f"run {run_id}", text, run_id))
        if run.started > event.when:
            text = f"row {event.seq} is dated before run {run_id}, which it records, began"
            place, since = f"row {event.seq}", f"≥ {run.started}"
            self.findings.append(Finding(Kind.RUN_LATER, place, text, since, str(event.when)))
        return run

    def opened(self, run: RunRecord) -> tuple[Path, str] | None:
        """Folder of a run's files, and how the trail would name it."""
        name = self.files.name_of(run.artifact_uri)
        folder = self.folder(name)
        return None if folder is None else (folder, name)

    def folder(self, name: str) -> Path | None:
        """A folder with files; None, and a finding, where it leads elsewhere or cannot be had."""
        try:
            with mlflow_errors(self.database.shown):
                return self.files.folder(name)
        except StormClinicError as error:
            self.findings.append(Finding(Kind.FOLDER_LOST, name, f"{name} cannot be read: {error}"))
            return None

    def mirror(self) -> None:
        """MLflow's versions, tags and aliases."""
        try:
            mirror = read_mirror(self.database)
        except StorageError as error:
            self.findings.append(Finding(Kind.MLFLOW_UNREADABLE, "MLflow", str(error)))
            return
        self.findings += check_mirror(self.events, mirror, self.files)
        for name in {name for name, _ in registered_versions(self.events)}:
            tags, states = labels_of(self.events, name), states_of(self.events, name)
            self.counts["labels"] += sum(map(len, tags.values())) + len(set(states.values()))
