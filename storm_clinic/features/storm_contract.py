"""What every STORM file of one folder has in common, and the ``contract.json`` that says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import CONTRACT_NAME, check_types
from storm_clinic.files import create_once, digest_value, json_text, parse_json, safe_name

FORMAT = "storm_clinic/storm-contract"
_VERSION = 1


@dataclass(frozen=True)
class StormContract:
    """How the STORM files of one folder were made.

    Attributes
    ----------
    checkpoint, checkpoint_digest : str
        Name of the checkpoint, also of the folder, and its digest.
    encoder, encoder_digest : str
        Tile encoder beneath.
    source_digest : str
        Digest of the contract of the tile store.
    width : int
        Length of a tile's embedding.
    mpp, tile_px, overlap_px : float, int, int
        Geometry of the tiles, as in the tile store.
    n_genes : int
        Genes that are imputed; 0 where there is no expression.
    genes_digest : str or None
        Of their symbols in order.
    min_r : float or None
        What the lower bound of a gene's held-out correlation had to exceed; None where evidence
        was not asked for.
    per_tile : bool
        Whether every tile's expression is stored, and not its mean alone.
    licence : str or None
        Of checkpoint and encoder together. For information; not compared.
    """

    checkpoint: str
    checkpoint_digest: str
    encoder: str
    encoder_digest: str
    source_digest: str
    width: int
    mpp: float
    tile_px: int
    overlap_px: int
    n_genes: int
    genes_digest: str | None
    min_r: float | None
    per_tile: bool
    licence: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        safe_name(self.checkpoint, what="checkpoint")

    @property
    def digest(self) -> str:
        """SHA-256 over every field that is compared."""
        values = asdict(self)
        del values["licence"]
        return digest_value(values)

    def settle(self, folder: Path) -> None:
        """Create the folder's contract unless there is one; hold this against the one that is.

        Raises
        ------
        ContractMismatch
            Naming every field that differs with both values.
        FeatureError
            If the folder holds files of another kind.
        StorageError
            If it cannot be written.
        """
        path = folder / CONTRACT_NAME
        if not path.exists():
            create_once(path, json_text(self.to_json()).encode("utf-8"))
        self.read(folder).require_same(
            self,
            where=path,
            fix="Ask for the same, or delete the folder to make it anew; the tile features "
            "stay, and need not be extracted again.",
        )

    def require_same(self, other: StormContract, *, where: str | Path, fix: str) -> None:
        """Refuse another contract.

        Raises
        ------
        ContractMismatch
            Naming every field that differs with both values: this contract's, then the other's.
        """
        listed = [
            f"{item.name} is {ours!r}, not {theirs!r}"
            for item in fields(self)
            if item.compare
            and (ours := getattr(self, item.name)) != (theirs := getattr(other, item.name))
        ]
        if listed:
            raise ContractMismatch(
                f"made in another way than is asked for: {'; '.join(listed)}", where=where, fix=fix
            )

    def to_json(self) -> dict[str, Any]:
        """The contract as `contract.json` holds it."""
        return {"format": FORMAT, "format_version": _VERSION, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> StormContract:
        """Read a folder's contract.

        Raises
        ------
        FeatureError
            If there is none, or what it holds is not one.
        """
        path = folder / CONTRACT_NAME
        return cls.from_json(_document(path), where=path)

    @classmethod
    def from_json(cls, document: Any, *, where: str | Path) -> StormContract:
        """Build from what `to_json` gave; ``where`` is named in errors.

        Raises
        ------
        FeatureError
            If it is not such a document, is of a newer version, or a field is wrong.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise FeatureError("not the contract of STORM files", where=where)
        if document.get("format_version") != _VERSION:
            raise FeatureError(
                f"its format_version is not {_VERSION}, the one this version reads",
                where=where,
                fix="Update storm-clinic.",
            )
        given = {k: v for k, v in document.items() if k not in ("format", "format_version")}
        check_types(cls, given, where)
        try:
            return cls(**given)
        except TypeError as error:
            raise FeatureError(f"missing or unknown field: {error}", where=where) from error


def is_storm_folder(folder: Path) -> bool:
    """Whether a folder's contract says that it holds STORM files."""
    document = _document(folder / CONTRACT_NAME)
    return document is not None and document.get("format") == FORMAT


def _document(path: Path) -> dict[str, Any] | None:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
