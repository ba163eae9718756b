"""The verb `registry audit`: everything the trail vouches for, held against what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from storm_clinic.errors import InputError, StorageError, StormClinicError
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
from storm_clinic.registry.vouched_files import check_file, check_json_file, check_version_files
from storm_clinic.steps.development_record import DEVELOPMENT
from storm_clinic.steps.metric_audit import check_metrics, is_deleted
from storm_clinic.steps.training_files import EVIDENCE, PREDICTIONS
from storm_clinic.tracking import RunRecord, Tracker
from storm_clinic.validation.evidence import Evidence


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
    root = workspace.mlruns.resolve()
    kept = None if head is None else Head.parse(head)
    signers, notes = find_allowed_signers(root, allowed_signers)
    try:
        chain = audit_chain(Registry(workspace).trail, head=kept, allowed_signers=signers)
    except StorageError as error:
        unreadable = Finding(Kind.TRAIL_UNREADABLE, "trail", str(error))
        return Audit((unreadable,), Verified(), None, (*notes, "nothing else could be verified"))
    work = _Work(Tracker(workspace), root, chain)
    work.check()
    counts = Verified(
        events=len(chain.events), signed=chain.signed, unsigned=chain.unsigned, **work.counts
    )
    found = tuple(dict.fromkeys((*chain.findings, *work.findings)))
    return Audit(found, counts, chain.head, (*notes, *chain.notes, *work.notes))


class _Work:
    """One audit of what lies outside the trail: what it found so far."""

    def __init__(self, tracker: Tracker, root: Path, chain: ChainAudit) -> None:
        self.tracker = tracker
        self.root = root
        self.events = tuple(filter(is_well_formed, chain.events))
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.counts: Counter[str] = Counter()

    def check(self) -> None:
        registered = registered_versions(self.events)
        for (name, number), event in registered.items():
            history = history_of(self.events, name, number)
            self.version(event, history, list(registered.values()))
            for scored in history:
                if scored.kind == "predictions_sealed":
                    self.predictions(scored, history)
                elif scored.kind == "validated":
                    self.validation(scored)
        self.mirror()

    def version(self, event: Event, history: Sequence[Event], others: list[Event]) -> None:
        """Files, bundle, lock and training of one version."""
        found, n_files = check_version_files(self.root, event, others)
        self.counts["versions"] += 1
        self.counts["files"] += n_files
        bundle, reasons = read_registered_bundle(self.root, event)
        self.findings += found or reasons  # a changed file says more than that it cannot be read
        run = self.run(event)
        if bundle is None:
            return
        self.findings += [*check_lock(bundle, history), *check_cohorts(bundle, history)]
        digest = bundle.manifest.development_digest
        if run is None:
            return
        if digest is not None:
            self.findings += check_json_file(self.root, run.artifacts / DEVELOPMENT, digest)
        if (run.artifacts / EVIDENCE).exists():
            self.metrics(run, run.artifacts / EVIDENCE)

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
        if run is not None:
            self.counts["predictions"] += 1
            expected = str(seal.body["predictions_digest"])
            self.findings += check_file(self.root, run.artifacts / PREDICTIONS, expected)

    def validation(self, event: Event) -> None:
        """Evidence of a validation, and the metrics that were logged of it."""
        run = self.run(event)
        if run is None:
            return
        self.counts["evidence"] += 1
        path = run.artifacts / EVIDENCE
        changed = check_json_file(self.root, path, str(event.body["evidence_digest"]))
        self.findings += changed
        if not changed:
            self.metrics(run, path)

    def metrics(self, run: RunRecord, path: Path) -> None:
        """Numbers in MLflow's database against the evidence of their run."""
        try:
            found, n_metrics = check_metrics(self.tracker.database, run, Evidence.read(path))
        except (StorageError, InputError) as error:
            self.findings.append(Finding(Kind.RUN_LOST, f"run {run.run_id}", str(error)))
            return
        self.findings += found
        self.counts["metrics"] += n_metrics

    def run(self, event: Event) -> RunRecord | None:
        """The run that an event names; None, and a finding, where MLflow has lost it."""
        run_id = str(event.body["run_id"])
        try:
            run = self.tracker.read_run(run_id)
            deleted = is_deleted(self.tracker.database, run_id)
        except StormClinicError as error:
            text = f"row {event.seq}: run {run_id} cannot be read any more: {error}"
            self.findings.append(Finding(Kind.RUN_LOST, f"run {run_id}", text, run_id))
            return None
        if deleted:
            text = f"row {event.seq}: run {run_id} ({run.name}) was deleted in MLflow"
            self.findings.append(Finding(Kind.RUN_LOST, f"run {run_id}", text, run_id))
        if run.started > event.when:
            text = f"row {event.seq} is dated before run {run_id}, which it records, began"
            self.findings.append(
                Finding(
                    Kind.RUN_LATER, f"row {event.seq}", text, f"≥ {run.started}", str(event.when)
                )
            )
        return run

    def mirror(self) -> None:
        """MLflow's versions, tags and aliases."""
        try:
            mirror = read_mirror(self.tracker.database)
        except StorageError as error:
            self.findings.append(Finding(Kind.MLFLOW_UNREADABLE, "MLflow", str(error)))
            return
        self.findings += check_mirror(self.events, mirror, self.root)
        for name in {name for name, _ in registered_versions(self.events)}:
            tags, states = labels_of(self.events, name), states_of(self.events, name)
            self.counts["labels"] += sum(map(len, tags.values())) + len(set(states.values()))
