"""Which of a cohort's slides STORM was not trained for, as its files recorded at extraction."""

from __future__ import annotations

from storm_clinic.steps.study_patients import StudyPatients
from storm_clinic.validation.domain_warnings import DomainWarnings, PatientOutside

_UNKNOWN = "the checkpoint does not say what it was trained on"


def domain_record(patients: StudyPatients) -> DomainWarnings | None:
    """Slides and patients outside of the checkpoint's training data; None without STORM files.

    Reads no outcome.

    Parameters
    ----------
    patients : StudyPatients
        Those who are evaluated; of their slides the ones with STORM files count.
    """
    storm = patients.storm
    if storm is None:
        return None
    outside, n_slides, n_outside, n_unknown, n_patients = [], 0, 0, 0, 0
    for key, slide_ids in zip(patients.keys, patients.storm_slide_ids, strict=True):
        headers = [storm.headers[slide_id] for slide_id in slide_ids]
        warned = [header for header in headers if header.domain_warning is not None]
        n_slides += len(headers)
        n_outside += len(warned)
        n_unknown += sum(
            header.domain_distance is None and header.domain_warning is None for header in headers
        )
        n_patients += bool(headers)
        if warned:
            shares = [h.share_outside for h in warned if h.share_outside is not None]
            distances = [h.domain_distance for h in warned if h.domain_distance is not None]
            outside.append(
                PatientOutside(
                    patient_key=key,
                    n_slides=len(headers),
                    n_outside=len(warned),
                    share_outside=max(shares, default=None),
                    distance=max(distances, default=None),
                )
            )
    return DomainWarnings(
        cohort=patients.cohort.name,
        checkpoint=storm.contract.encoder,
        checkpoint_digest=storm.contract.encoder_digest,
        n_slides=n_slides,
        n_outside=n_outside,
        n_unknown=n_unknown,
        n_patients=n_patients,
        outside=tuple(sorted(outside, key=lambda item: item.patient_key)),
        note=_UNKNOWN if n_unknown else "",
    )
