"""The registry of a whole study, as the verbs leave it, holds against its trail."""

from __future__ import annotations

from storm_clinic.steps.registry_audit import audit


def test_a_study_that_was_trained_locked_and_validated_is_clean_and_fully_covered(finished):
    workspace, result = finished
    found = audit(workspace=workspace)
    assert found.findings == ()
    assert found.notes == ()
    counts = found.verified
    assert (counts.versions, counts.predictions, counts.evidence) == (1, 1, 1)
    evidence = [result.report.content.development, *result.report.content.validation]
    values = [
        value
        for item in evidence
        for estimate in item.estimates
        for value in (estimate.value, estimate.lower, estimate.upper)
        if value is not None and estimate.level is None
    ]
    assert counts.metrics == len(values) > 50
