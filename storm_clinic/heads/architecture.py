"""Everything that fixes the shape of a network on tiles, tables and covariates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from storm_clinic.errors import InputError

Fusion = Literal["late", "early", "cross"]
STORM = "storm"  # the pooling in which inputs of tiles look at one another


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes a network's shape.

    Attributes
    ----------
    pooling : str
        A name of `POOLINGS`.
    fusion : "late", "early" or "cross"
    tiles, tables : dict of str to int
        Width of each input.
    n_clinical : int
        Covariates.
    shared : tuple of bool
        One a raw output: whether it is one number for all patients.
    n_branches : int
        Branches of `BranchAttention`.
    n_hidden, n_attention, n_top, n_latents : int
        Units of a hidden layer and of the attention, tiles kept by ``top``, latents of
        ``transformer`` and, of each input, of ``storm``.
    """

    pooling: str
    fusion: Fusion
    tiles: Mapping[str, int]
    tables: Mapping[str, int]
    n_clinical: int
    shared: tuple[bool, ...]
    n_branches: int
    n_hidden: int
    n_attention: int = 0
    n_top: int = 0
    n_latents: int = 0

    @property
    def n_outputs(self) -> int:
        """Raw outputs a patient."""
        return len(self.shared)

    def to_json(self) -> dict[str, Any]:
        """All of it, ready for JSON; inputs as pairs, since their order counts."""
        pairs = {name: list(getattr(self, name).items()) for name in ("tiles", "tables")}
        return asdict(self) | pairs | {"shared": list(self.shared)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Architecture:
        """Rebuild from `to_json`.

        Raises
        ------
        InputError
            If a field is missing or unknown.
        """
        try:
            pairs = {name: dict(document[name]) for name in ("tiles", "tables")}
            return cls(**{**document, **pairs, "shared": tuple(document["shared"])})
        except TypeError as error:
            raise InputError(f"is no architecture: {error}", where="model settings") from error
