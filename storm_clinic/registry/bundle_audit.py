"""A version's bundle against what the events say was registered, locked and scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storm_clinic.bundle import Bundle, read_bundle, required_models
from storm_clinic.errors import StormClinicError
from storm_clinic.registry.findings import Finding, Kind
from storm_clinic.registry.trail import Event


def read_registered_bundle(folder: Path, registered: Event) -> tuple[Bundle | None, list[Finding]]:
    """The bundle in a version's folder, by the digest that was registered; None with the reason."""
    expected = str(registered.body["bundle_digest"])
    reference = f"{registered.body['model']}:{registered.body['version']}"
    try:
        bundle = read_bundle(folder / "data" / "bundle")
    except StormClinicError as error:
        text = f"the bundle of {reference} cannot be read: {error}"
        return None, [Finding(Kind.BUNDLE_DIFFERS, reference, text, expected)]
    if bundle.digest == expected:
        return bundle, []
    text = f"the bundle of {reference} is another than the trail names"
    return None, [Finding(Kind.BUNDLE_DIFFERS, reference, text, expected, bundle.digest)]


def check_lock(bundle: Bundle, history: Sequence[Event]) -> list[Finding]:
    """Claims, cohorts and models of a lock against the study inside the bundle.

    Parameters
    ----------
    bundle : Bundle
        Verified.
    history : sequence of Event
        Of this version.
    """
    study = bundle.study
    inside = {
        "study_digest": study.digest,
        "claims": [claim.model_dump(mode="json", exclude_none=True) for claim in study.claims],
        "validation": list(study.validation),
        "models": list(required_models(study)),
    }
    found = []
    for event in history:
        if event.kind == "locked":
            for name, expected in inside.items():
                if name in event.body and event.body[name] != expected:
                    found.append(_lock_differs(event, name, expected))
    return found


def check_cohorts(bundle: Bundle, history: Sequence[Event]) -> list[Finding]:
    """Cohorts that were scored against those the model was trained on."""
    trained_on = set(bundle.manifest.training) | set(bundle.study.development)
    return [
        Finding(
            Kind.COHORT_OF_DEVELOPMENT,
            f"row {event.seq}",
            f"row {event.seq} ({event.kind} by {event.by!r}) is about {event.body['cohort']}, on "
            f"which {event.body['model']}:{event.body['version']} was trained",
            "a cohort that training did not see",
            str(event.body["cohort"]),
        )
        for event in history
        if event.body.get("cohort") in trained_on
    ]


def _lock_differs(event: Event, name: str, expected: Any) -> Finding:
    reference = f"{event.body['model']}:{event.body['version']}"
    return Finding(
        Kind.LOCK_DIFFERS,
        f"row {event.seq}",
        f"row {event.seq}: the {name} of the lock of {reference} are not those of the study inside "
        "the locked bundle: one of them was edited after the lock",
        json.dumps(expected, sort_keys=True),
        json.dumps(event.body[name], sort_keys=True),
    )
