"""What a validation must know of development without its data: counts and fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storm_clinic.cohort.leakage import Fingerprints
from storm_clinic.errors import RegistryError
from storm_clinic.files import digest_value, parse_json, write_json
from storm_clinic.steps.study_evidence import cohort_facts
from storm_clinic.steps.study_patients import Development
from storm_clinic.study import Study
from storm_clinic.validation.analyses import CovariateProfile
from storm_clinic.validation.checks import CohortFacts

DEVELOPMENT = "development.json"


@dataclass(frozen=True)
class DevelopmentRecord:
    """Development as it was when a model was trained; holds keys and digests, no ids.

    Attributes
    ----------
    facts : tuple of CohortFacts
    fingerprints : Fingerprints
        Of all development cohorts together.
    clinical_parameters : int or None
        Coefficients of the clinical comparator.
    profiles : tuple of CovariateProfile
        Of all development patients together: means, deviations, counts of levels.
    """

    facts: tuple[CohortFacts, ...]
    fingerprints: Fingerprints
    clinical_parameters: int | None
    profiles: tuple[CovariateProfile, ...] = ()

    @classmethod
    def of(
        cls,
        study: Study,
        development: Development,
        clinical_parameters: int | None,
        profiles: tuple[CovariateProfile, ...],
    ) -> DevelopmentRecord:
        """Of a training."""
        facts = tuple(
            cohort_facts(study.endpoint, part, "development") for part in development.parts
        )
        return cls(facts, development.fingerprints, clinical_parameters, profiles)

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        facts = [asdict(item) for item in self.facts]
        for item in facts:
            followed = item["followed_beyond"]
            item["followed_beyond"] = {f"{horizon:g}": n for horizon, n in followed.items()}
            item["encoders_seen"] = list(item["encoders_seen"])
        return {
            "format": "storm_clinic/development",
            "format_version": 1,
            "facts": facts,
            "fingerprints": self.fingerprints.to_json(),
            "clinical_parameters": self.clinical_parameters,
            "profiles": [item.model_dump(mode="json") for item in self.profiles],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> DevelopmentRecord:
        """Rebuild from `to_json`."""
        facts = tuple(
            CohortFacts(
                **{
                    **item,
                    "followed_beyond": {float(h): n for h, n in item["followed_beyond"].items()},
                    "encoders_seen": tuple(item["encoders_seen"]),
                }
            )
            for item in document["facts"]
        )
        fingerprints = Fingerprints.from_json(document["fingerprints"])
        # Records of before there were profiles have none.
        profiles = tuple(CovariateProfile(**item) for item in document.get("profiles", ()))
        return cls(facts, fingerprints, document["clinical_parameters"], profiles)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest_value(self.to_json())

    def write(self, folder: Path) -> None:
        """Write ``development.json`` in a folder."""
        write_json(folder / DEVELOPMENT, self.to_json())

    @classmethod
    def read(cls, folder: Path, *, expected_digest: str) -> DevelopmentRecord:
        """Read ``development.json`` and hold it against the digest that a bundle carries.

        Raises
        ------
        RegistryError
            If it is absent or was changed.
        """
        path = folder / DEVELOPMENT
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RegistryError(f"cannot be read: {error}", where=path) from error
        if digest_value(document) != expected_digest:
            raise RegistryError(
                "was changed since the model was trained",
                where=path,
                fix="Restore it from a backup: without it overlap with development is not seen.",
            )
        return cls.from_json(document)
