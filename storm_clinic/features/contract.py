"""What every file of one feature store has in common, and the file that says so."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.files import create_once, digest_value, json_text, parse_json, safe_name

CONTRACT_NAME = "contract.json"
_FORMAT = "storm_clinic/feature-contract"
_VERSION = 1
_DTYPES = ("float16", "float32", "float64")
_PROVENANCES = ("extracted", "declared", "embedded")
MPP_RANGE = (0.05, 20.0)


@dataclass(frozen=True)
class FeatureContract:
    """How the features of one store were made.

    Attributes
    ----------
    encoder : str
        Name of the encoder; also the name of the store's folder.
    encoder_digest : str or None
        SHA-256 of the encoder's weights; None only where others made the features.
    width : int
        Length of one tile's embedding.
    mpp, tile_px : float or None, int or None
        Pixel size (µm) and side of a tile as the encoder saw it; both None where nobody knows.
    overlap_px : int
        How far neighbouring tiles overlap, at ``mpp``; below 0 is the gap between them.
    dtype : str
        ``float16`` for what we extract; the source's type for imports.
    provenance : str
        ``extracted`` (by this package from slides), ``declared`` (imported; the importer vouches
        for it) or ``embedded`` (by a slide encoder from another store: one row a slide).
    pooling : str or None
        Which of the encoder's outputs was kept.
    tissue : mapping
        Parameters of the tissue finder that chose the tiles.
    source_digest : str or None
        Digest of the contract of the store that embedded features were made from; else None.
    licence : str or None
        Licence of the encoder's weights. For information; two contracts may differ in it.

    Raises
    ------
    FeatureError
        If a field is out of range, or an extracted store lacks geometry or digest.
    """

    encoder: str
    encoder_digest: str | None
    width: int
    mpp: float | None
    tile_px: int | None
    overlap_px: int = 0
    dtype: str = "float16"
    provenance: str = "extracted"
    pooling: str | None = None
    tissue: Mapping[str, Any] = field(default_factory=dict)
    source_digest: str | None = None
    licence: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        safe_name(self.encoder, what="encoder")
        problem = self._problem()
        if problem:
            raise FeatureError(problem, where=f"contract of {self.encoder}")

    def _problem(self) -> str | None:
        lowest, highest = MPP_RANGE
        if self.width < 1:
            return f"width must be positive, is {self.width}"
        if self.dtype not in _DTYPES:
            return f"dtype must be one of {', '.join(_DTYPES)}, is {self.dtype!r}"
        if self.provenance not in _PROVENANCES:
            return f"provenance must be one of {', '.join(_PROVENANCES)}, is {self.provenance!r}"
        if (self.mpp is None) != (self.tile_px is None):
            return f"mpp ({self.mpp}) and tile_px ({self.tile_px}) must both be known, or neither"
        if self.mpp is not None and not lowest <= self.mpp <= highest:
            return f"mpp must lie within {lowest} to {highest} µm, is {self.mpp}"
        if self.tile_px is not None and self.tile_px < 1:
            return f"tile_px must be positive, is {self.tile_px}"
        if self.tile_px is not None and self.overlap_px >= self.tile_px:
            return f"overlap_px must lie below tile_px, is {self.overlap_px}"
        if self.provenance != "declared" and (self.mpp is None or not self.encoder_digest):
            return f"{self.provenance} features need mpp, tile_px and the encoder's digest"
        if (self.provenance == "embedded") != (self.source_digest is not None):
            return "embedded features, and no others, need the digest of the store they come from"
        return None

    @property
    def geometry_known(self) -> bool:
        """Whether the physical size of a tile is known."""
        return self.mpp is not None

    @property
    def tile_um(self) -> float | None:
        """Side of a tile in µm."""
        if self.mpp is None or self.tile_px is None:
            return None
        return self.mpp * self.tile_px

    @property
    def step_um(self) -> float | None:
        """Distance of neighbouring tiles in µm."""
        if self.mpp is None or self.tile_px is None:
            return None
        return self.mpp * (self.tile_px - self.overlap_px)

    @property
    def digest(self) -> str:
        """SHA-256 over every field that two stores must share to be used together."""
        return digest_value(self._compared())

    def to_json(self) -> dict[str, Any]:
        """The contract as `contract.json` holds it."""
        document: dict[str, Any] = {"format": _FORMAT, "format_version": _VERSION}
        return document | self._compared() | {"licence": self.licence}

    @classmethod
    def from_json(cls, document: Any, *, where: str | Path) -> FeatureContract:
        """Build from what `to_json` gave; ``where`` is named in errors.

        Raises
        ------
        FeatureError
            If it is not such a document, is of a newer version, or a field is wrong.
        """
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise FeatureError("not the contract of a feature store", where=where)
        if document.get("format_version") != _VERSION:
            raise FeatureError(
                f"format_version {document.get('format_version')!r} is not {_VERSION}, "
                "the one this version reads",
                where=where,
                fix="Update storm-clinic.",
            )
        given = {k: v for k, v in document.items() if k not in ("format", "format_version")}
        known = {item.name for item in fields(cls)}
        wrong = sorted(known ^ {*given, "source_digest"})
        if wrong:
            raise FeatureError(f"missing or unknown field {', '.join(wrong)}", where=where)
        check_types(cls, given, where)
        try:
            return cls(**given)
        except (TypeError, FeatureError) as error:
            reason = error.problem if isinstance(error, FeatureError) else str(error)
            raise FeatureError(reason, where=where) from error

    def differences(self, other: FeatureContract) -> list[tuple[str, Any, Any]]:
        """Fields that differ, each with this contract's value and the other's.

        A tissue parameter counts as a field of its own, ``tissue.<name>``; None where it is absent.
        """
        ours, theirs = self._flat(), other._flat()
        keys = [*ours, *(key for key in theirs if key not in ours)]
        pairs = [(key, ours.get(key), theirs.get(key)) for key in keys]
        return [pair for pair in pairs if pair[1] != pair[2]]

    def require_same(self, other: FeatureContract, *, where: str | Path) -> None:
        """Refuse another contract.

        Raises
        ------
        ContractMismatch
            Naming every field that differs with both values: this contract's, then the other's.
        """
        found = self.differences(other)
        if found:
            listed = "; ".join(f"{key} is {ours!r}, not {theirs!r}" for key, ours, theirs in found)
            raise ContractMismatch(
                f"made in another way than is asked for: {listed}",
                where=where,
                fix="Features of two kinds cannot share a folder or a model; use another name, "
                "or make them again.",
            )

    def _flat(self) -> dict[str, Any]:
        values = self._compared()
        tissue = values.pop("tissue")
        return values | {f"tissue.{key}": value for key, value in tissue.items()}

    def _compared(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.compare}
        if self.source_digest is None:
            del values["source_digest"]  # stores of tiles keep the digest they always had
        return values | {"tissue": _plain(self.tissue)}


def check_types(kind: type, given: Mapping[str, Any], where: str | Path) -> None:
    """Hold values out of JSON against the annotations of a dataclass; whole numbers are floats too.

    Raises
    ------
    FeatureError
        Naming the fields that are of another type.
    """
    wrong = [
        f"{name} must be {hint.replace('Mapping[str, Any]', 'an object')}, is {given[name]!r}"
        for name, hint in inspect.get_annotations(kind).items()
        if name in given and not _is_of(given[name], hint)
    ]
    if wrong:
        raise FeatureError("; ".join(wrong), where=where)


def _is_of(value: Any, hint: str) -> bool:
    allowed = tuple(_JSON_TYPES[part] for part in hint.split(" | "))
    if isinstance(value, bool):  # an int, for Python
        return bool in allowed
    return isinstance(value, allowed) or (isinstance(value, int) and float in allowed)


_JSON_TYPES: dict[str, type] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "None": type(None),
    "Mapping[str, Any]": dict,
}


def _plain(value: Any) -> Any:
    """Mappings as dicts and tuples as lists, as they come back from JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise FeatureError(f"a tissue parameter is {value}", where="contract")
    return value


def read_contract(folder: Path) -> FeatureContract:
    """Read a store's contract.

    Raises
    ------
    FeatureError
        If the folder holds none, or what it holds is not one.
    """
    path = folder / CONTRACT_NAME
    try:
        document = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise FeatureError(
            f"no feature store: it holds no {CONTRACT_NAME}",
            where=folder,
            fix="Make one with 'storm-clinic extract' or 'storm-clinic features import'.",
        ) from None
    except (OSError, ValueError) as error:
        raise FeatureError(f"cannot be read: {error}", where=path) from error
    return FeatureContract.from_json(document, where=path)


def settle_contract(folder: Path, contract: FeatureContract) -> FeatureContract:
    """Create the folder's contract unless there is one; return the one that holds.

    Of several processes that start at once exactly one creates it; the others compare.

    Raises
    ------
    ContractMismatch
        If the folder's contract is another.
    StorageError
        If it cannot be written.
    """
    path = folder / CONTRACT_NAME
    if not path.exists():
        create_once(path, json_text(contract.to_json()).encode("utf-8"))
    held = read_contract(folder)
    held.require_same(contract, where=path)
    return held
