"""Leakage: the same patient, slide or feature array where data must be apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from storm_clinic.errors import CohortError, LeakageError
from storm_clinic.files import digest_value

_FORMAT = "storm-clinic-fingerprints"
_MOST = 10

Owners = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Fingerprints:
    """What identifies the data of some patients without giving them away.

    Attributes
    ----------
    label : str
        Name of the cohort or of the development data.
    patient_keys : tuple of str
        Keys under one secret; sorted.
    slides, features : mapping of digest to patient keys
        Whose a slide (by the slide's digest) or a feature array (by the array's) is. Slides whose
        digest nobody knows are compared by their features alone.
    """

    label: str
    patient_keys: tuple[str, ...]
    slides: Owners
    features: Owners

    @classmethod
    def of(
        cls,
        label: str,
        patient_keys: Sequence[str],
        slide_ids: Sequence[Sequence[str]] = (),
        index: pd.DataFrame | None = None,
    ) -> Fingerprints:
        """Fingerprints of patients and of the slides that stand for them.

        Parameters
        ----------
        label : str
            The cohort's name.
        patient_keys : sequence of str, length n_patients
            Their keys.
        slide_ids : sequence of sequence of str, length n_patients or 0
            Slides of each patient.
        index : DataFrame, optional
            The feature store's index by slide id, with ``slide_digest`` and ``features_digest``.

        Raises
        ------
        CohortError
            If a slide is not in the index, or lengths differ.
        """
        if len(slide_ids) not in (0, len(patient_keys)):
            raise CohortError(f"slides of {len(slide_ids)} patients for {len(patient_keys)} keys")
        keys = [k for k, slides in zip(patient_keys, slide_ids, strict=False) for _ in slides]
        names = [slide for slides in slide_ids for slide in slides]
        unique = tuple(sorted(set(patient_keys)))
        if index is None or not names:
            return cls(label, unique, {}, {})
        absent = [name for name in names if name not in index.index]
        if absent:
            raise CohortError(f"{len(absent)} slides of {label} have no feature file")
        rows = index.loc[names]
        return cls(
            label,
            unique,
            _owners(rows["slide_digest"], keys),
            _owners(rows["features_digest"], keys),
        )

    @classmethod
    def union(cls, label: str, parts: Sequence[Fingerprints]) -> Fingerprints:
        """Several cohorts as one."""
        keys = sorted({key for part in parts for key in part.patient_keys})
        slides = _merged([part.slides for part in parts])
        return cls(label, tuple(keys), slides, _merged([part.features for part in parts]))

    @property
    def features_digest(self) -> str:
        """One SHA-256 over all feature arrays and whose they are."""
        return digest_value({digest: list(keys) for digest, keys in self.features.items()})

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for JSON: keys and digests, no ids."""
        return {
            "format": _FORMAT,
            "format_version": 1,
            "label": self.label,
            "patient_keys": list(self.patient_keys),
            "slides": {digest: list(keys) for digest, keys in self.slides.items()},
            "features": {digest: list(keys) for digest, keys in self.features.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fingerprints:
        """Rebuild from `to_json`.

        Raises
        ------
        CohortError
            If it is something else.
        """
        if value.get("format") != _FORMAT or value.get("format_version") != 1:
            raise CohortError(f"not fingerprints ({_FORMAT}, version 1)")
        try:
            slides = {str(digest): tuple(keys) for digest, keys in value["slides"].items()}
            features = {str(digest): tuple(keys) for digest, keys in value["features"].items()}
            return cls(str(value["label"]), tuple(value["patient_keys"]), slides, features)
        except (KeyError, TypeError, AttributeError) as problem:
            raise CohortError(f"fingerprints are damaged: {problem!r}") from problem


def check_disjoint(development: Fingerprints, validation: Fingerprints) -> None:
    """Refuse data that share a patient, a slide or a feature array.

    Raises
    ------
    LeakageError
        With the number of each, and the keys of up to ten.
    """
    patients = sorted(set(development.patient_keys) & set(validation.patient_keys))
    found = []
    if patients:
        found.append(f"{_count(len(patients), 'patient')}: {_listed(patients)}")
    for what, ours, theirs in (
        ("slide", development.slides, validation.slides),
        ("feature array", development.features, validation.features),
    ):
        both = [f"{_say(ours[d])} and {_say(theirs[d])}" for d in ours if d in theirs]
        if both:
            found.append(f"{_count(len(both), what)} (of patients {_listed(sorted(both))})")
    if found:
        raise LeakageError(
            f"{development.label} and {validation.label} share {'; '.join(found)}",
            fix="Take them out of one of the two: a model may not be judged on what it has seen.",
        )


def check_within(data: Fingerprints) -> None:
    """Refuse data in which one slide or feature array stands for two patients.

    Folds could not keep such patients apart.

    Raises
    ------
    LeakageError
        With the number of each, and the keys of up to ten.
    """
    found = []
    for what, owners in (("slide", data.slides), ("feature array", data.features)):
        shared = sorted(_say(keys) for keys in owners.values() if len(keys) > 1)
        if shared:
            found.append(f"{_count(len(shared), what)} (patients {_listed(shared)})")
    if found:
        raise LeakageError(
            f"{data.label}: several patients share {'; '.join(found)}",
            fix="Find out whose they are and correct the slides table.",
        )


def _owners(digests: pd.Series[str], keys: Sequence[str]) -> Owners:
    owners: dict[str, set[str]] = {}
    for digest, key in zip(digests, keys, strict=True):
        if isinstance(digest, str) and digest:
            owners.setdefault(digest, set()).add(key)
    return {digest: tuple(sorted(owners[digest])) for digest in sorted(owners)}


def _merged(parts: Sequence[Owners]) -> Owners:
    merged: dict[str, set[str]] = {}
    for part in parts:
        for digest, keys in part.items():
            merged.setdefault(digest, set()).update(keys)
    return {digest: tuple(sorted(merged[digest])) for digest in sorted(merged)}


def _say(keys: tuple[str, ...]) -> str:
    return " = ".join(keys)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MOST} more" if len(items) > _MOST else ""
    return ", ".join(items[:_MOST]) + more
