"""Writing and reading a bundle: every byte is digested, and nothing but three files may be there.

model.safetensors   arrays of every model, named ``<model>/<array>``
manifest.json       what it is (see manifest.py), the digest of every file, the bundle digest
card.md             the model card, generated from the manifest
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.bundle.manifest import Manifest
from storm_clinic.study import Study

Arrays = dict[str, NDArray[Any]]
State = tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]


def required_models(study: Study) -> tuple[str, ...]:
    """Models that a bundle must hold: candidate, clinical comparator, comparators of claims."""
    raise NotImplementedError


def write_bundle(
    folder: Path,
    models: Mapping[str, State],
    manifest: Manifest,
    *,
    performance: str = "",
) -> Bundle:
    """Write a new bundle and return it as read back.

    Parameters
    ----------
    folder : Path
        Must not exist; appears whole or not at all.
    models : dict of model name to (arrays, settings)
        What ``FittedModel.state()`` gave, at least for `required_models`.
    manifest : Manifest
    performance : str
        Markdown table for the card, with where its numbers come from.
    """
    raise NotImplementedError


def read_bundle(folder: Path, *, expected_digest: str | None = None) -> Bundle:
    """Read a bundle, verifying every byte.

    Raises
    ------
    RegistryError
        If a file is missing, not expected, a link or changed, the format is newer than this
        program, or the bundle's digest is not ``expected_digest``.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory."""

    folder: Path
    digest: str
    manifest: Manifest
    study: Study
    settings: dict[str, dict[str, Any]]
    arrays: dict[str, Arrays]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models inside, the candidate first."""
        raise NotImplementedError

    def restore(self, model: str | None = None) -> Any:
        """The fitted model of that name (default: the candidate), as `heads.zoo.restore` gives."""
        raise NotImplementedError

    def risk_group(self, model: str, risk: NDArray[np.float64]) -> NDArray[np.int64]:
        """Risk group of each risk, 0 = lowest, by the thresholds fixed on development data."""
        raise NotImplementedError
