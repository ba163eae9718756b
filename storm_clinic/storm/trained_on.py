"""Which sections a network has seen, as its card says it: digests, and no name in plain text.

An entry is the SHA-256 of the section's image, and its name and patient as HMAC-SHA256 under that
digest. This keeps names out of sight and lets anyone who has the same section recognise it; it does
not keep them from somebody who tries likely names one by one. Imports no torch.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from storm_clinic.errors import CheckpointError, SectionError
from storm_clinic.files import digest_file
from storm_clinic.storm.paired import PairedSection

TRAINED_ON = "trained_on"


@dataclass(frozen=True, order=True)
class TrainedSection:
    """One section that a network was trained on.

    Attributes
    ----------
    image : str
        SHA-256 of the image file.
    section, patient : str
        HMAC-SHA256 of the names under ``image``.
    """

    image: str
    section: str
    patient: str

    @classmethod
    def of(cls, section: PairedSection) -> TrainedSection:
        """The entry of a section; its image is read once.

        Raises
        ------
        SectionError
            If the section has no image, or it is missing.
        """
        if section.image is None or not section.image.is_file():
            raise SectionError("its image is missing", where=f"section {section.name}")
        image = digest_file(section.image)
        return cls(
            image,
            _hidden(image, "section", section.name),
            _hidden(image, "patient", section.patient),
        )

    def shares(self, section: PairedSection, image: str) -> str | None:
        """What this entry has in common with a section, most telling first; None for nothing."""
        if self.image == image:
            return "image"
        if self.section == _hidden(self.image, "section", section.name):
            return "section"
        if self.patient == _hidden(self.image, "patient", section.patient):
            return "patient"
        return None


def to_card(seen: Iterable[TrainedSection]) -> list[dict[str, str]]:
    """What stands on a card under ``trained_on``: each section once, in no order of the data."""
    return [asdict(one) for one in sorted(set(seen))]


def from_card(card: Mapping[str, Any], *, where: str | Path) -> tuple[TrainedSection, ...]:
    """The record of a card.

    Raises
    ------
    CheckpointError
        If there is none, or it is damaged.
    """
    if TRAINED_ON not in card:
        raise CheckpointError(
            "does not say which sections it was trained on: what is left out might be among them",
            where=where,
            fix="Pretrain or fine-tune it again with this version, which records them.",
        )
    try:
        found = tuple(TrainedSection(**one) for one in card[TRAINED_ON])
        if not found or not all(isinstance(text, str) for one in found for text in _texts(one)):
            raise TypeError("no list of sections")
    except (TypeError, AttributeError) as error:
        raise CheckpointError(
            f"its record of training sections is damaged: {error!r}", where=where
        ) from error
    return found


def seen_before(
    record: Sequence[TrainedSection],
    sections: Sequence[PairedSection],
    *,
    unit: Literal["section", "patient"],
) -> dict[str, str]:
    """Sections that a network was trained on, by name, and what gives it away.

    Parameters
    ----------
    record : sequence of TrainedSection
        The network's.
    sections : sequence of PairedSection
        That are to be left out.
    unit : "section" or "patient"
        What is left out: another section of the same patient counts for "patient" only.

    Returns
    -------
    dict of str to str
        "image", "section" (of the same name) or "patient".
    """
    found: dict[str, str] = {}
    for section in sections:
        image = TrainedSection.of(section).image
        shared = {entry.shares(section, image) for entry in record}
        asked = ("image", "section", "patient") if unit == "patient" else ("image", "section")
        reason = next((what for what in asked if what in shared), None)
        if reason is not None:
            found[section.name] = reason
    return found


def _hidden(image: str, what: str, name: str) -> str:
    return hmac.new(image.encode(), f"{what}\0{name}".encode(), hashlib.sha256).hexdigest()


def _texts(one: TrainedSection) -> tuple[str, str, str]:
    return one.image, one.section, one.patient
