"""A registered, locked and validated model in a workspace to copy, and how to tamper with it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from storm_clinic.bundle import Bundle, write_bundle
from storm_clinic.files import Workspace, digest_value, write_json
from storm_clinic.predictions import Predictions
from storm_clinic.registry.moves import Registry
from storm_clinic.steps.training_files import EVIDENCE, PREDICTIONS, headline_metrics
from storm_clinic.tracking import Tracker
from storm_clinic.validation.evidence import Estimate, Evidence

DEVELOPMENT = {"format": "storm_clinic/development", "facts": []}


def evidence_on(study, cohort: str, kind: str, c_index: float) -> Evidence:
    """Four numbers, which bear out the claim of the study."""
    parts = {"n_patients": 90, "n_events": 40, "method": "m", "cohort": cohort}
    ends = {"lower": c_index - 0.05, "upper": c_index + 0.05}
    return Evidence(
        study=study.study,
        study_digest=study.digest,
        kind=kind,
        candidate="fusion",
        comparator="clinical",
        estimates=(
            Estimate(metric="c_index", value=c_index, model="fusion", **ends, **parts),
            Estimate(metric="c_index", value=0.6, model="clinical", note="none made", **parts),
            Estimate(
                metric="c_index_gain",
                value=0.05,
                lower=0.01,
                upper=0.09,
                model="fusion",
                over="clinical",
                **parts,
            ),
        ),
    )


def build(workspace: Workspace, study, manifest, fitted) -> None:
    """Train (in name only), lock and validate ``demo-pfi:1``; register ``demo-pfi:2``."""
    tracker, registry = Tracker(workspace), Registry(workspace)
    for number in (1, 2):
        with (
            tempfile.TemporaryDirectory() as scratch,
            tracker.start_study(study, inputs={"clinical.csv": str(number) * 64}) as run,
        ):
            bundle = _bundle(Path(scratch), run.run_id, number, manifest, fitted)
            evidence = evidence_on(study, "demo_a", "cross-validation", 0.7)
            files = Path(scratch) / "files"
            evidence.write(files / EVIDENCE)
            write_json(files / "development.json", DEVELOPMENT)
            run.log(metrics=headline_metrics(evidence), artifacts=files)
            registry.register(run, bundle.folder, evidence_digest=evidence.digest, by="c.trainer")
    locked = registry.lock("demo-pfi:1", by="a.weber")
    table = {"cohort": "demo_b", "patient_key": ["k1", "k2"], "model": "fusion"}
    numbers = {"repeat": 0, "fold": -1, "risk": [0.5, -0.25]}
    opened = tracker.start_validation(study, version="demo-pfi:1", cohort="demo_b")
    with opened as run, tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        digest = Predictions(pd.DataFrame(table | numbers)).write(files / PREDICTIONS)
        run.log(artifacts=files)
        registry.scorings.seal(
            locked,
            cohort="demo_b",
            predictions_digest=digest,
            run_id=run.run_id,
            inputs={"demo_b/clinical": "3" * 64},
            by="d.stat",
        )
        evidence = evidence_on(study, "demo_b", "external", 0.65)
        evidence.write(files / EVIDENCE)
        run.log(metrics=headline_metrics(evidence), artifacts=files)
        registry.scorings.record(
            locked,
            cohort="demo_b",
            evidence_digest=evidence.digest,
            run_id=run.run_id,
            run_files=run.file_digests(),
            by="d.stat",
        )


def _bundle(scratch: Path, run_id: str, number: int, manifest, fitted) -> Bundle:
    record = {"development_digest": digest_value(DEVELOPMENT), "run_id": run_id}
    cuts = {"risk_thresholds": {"fusion": (-0.4, 0.1 * number), "clinical": (-0.3, 0.3)}}
    states = {name: model.state() for name, model in fitted.items()}
    return write_bundle(scratch / "bundle", states, manifest.model_copy(update=record | cuts))


def copy(built: Workspace, root: Path) -> Workspace:
    """The workspace in another place."""
    shutil.copytree(built.root, root)
    return Workspace(root)


def sql(workspace: Workspace, *statements: str, database: str = "mlflow.db") -> None:
    """Change a database by hand."""
    connection = sqlite3.connect(workspace.mlruns / database, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def rows(workspace: Workspace) -> list[tuple[int, str, str, str]]:
    connection = sqlite3.connect(workspace.mlruns / "trail.db")
    found = connection.execute("SELECT seq, previous, digest, body FROM trail ORDER BY seq")
    listed = found.fetchall()
    connection.close()
    return listed


def write_anew(workspace: Workspace, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Edit the events and compute the whole chain again, as one who has this source code could."""
    events = [json.loads(body) for *_, body in rows(workspace)]
    events = edit(events) or events
    connection = sqlite3.connect(workspace.mlruns / "trail.db", isolation_level=None)
    guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    guards = guards.fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DELETE FROM trail")
    previous = "0" * 64
    for seq, event in enumerate(events, start=1):
        body = json.dumps(event, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(f"{seq}\n{previous}\n{body}".encode()).hexdigest()
        connection.execute("INSERT INTO trail VALUES (?, ?, ?, ?)", (seq, previous, digest, body))
        previous = digest
    for _, statement in guards:
        connection.execute(statement)
    connection.close()


def append(workspace: Workspace, **body: Any) -> None:
    """Append an event by hand; its chain is right."""
    write_anew(workspace, lambda events: events.append(_dated(events[-1]["when"], body)))


def _dated(when: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"model": "demo-pfi", "version": 1, "when": when, **body}
