"""The feature store: a folder of feature files made in one way, with an index beside them.

The files are the truth. `index.parquet` is derived from them and brought up to date by file name,
size and modification time, so that opening a large store reads the index and not the files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from storm_clinic.errors import FeatureError
from storm_clinic.features.contract import FeatureContract, read_contract, settle_contract
from storm_clinic.features.file_reader import FileHeader, read_header, read_slide_file
from storm_clinic.features.file_writer import write_slide_file
from storm_clinic.features.guarded_file import damage
from storm_clinic.features.slide_features import Array, SlideFeatures
from storm_clinic.features.store_index import current_index
from storm_clinic.files import safe_name

__all__ = ["FeatureContract", "FeatureStore", "SlideFeatures"]

SUFFIX = ".h5"
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class FeatureStore:
    """Feature files of one cohort from one encoder.

    Attributes
    ----------
    folder : Path
    contract : FeatureContract
        What all files have in common; readers and writers are held to it.
    """

    folder: Path
    contract: FeatureContract
    # Of files that were mapped: size, times and inode, and what the file then said of itself.
    _headers: dict[str, tuple[_Stamp, FileHeader]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def open(cls, folder: str | Path) -> FeatureStore:
        """Open an existing store.

        Raises
        ------
        FeatureError
            If the folder holds no contract, or a damaged one.
        """
        folder = Path(folder)
        return cls(folder, read_contract(folder))

    @classmethod
    def create(cls, folder: str | Path, contract: FeatureContract) -> FeatureStore:
        """Create a store, or open the one that is there if its contract is the same.

        Raises
        ------
        ContractMismatch
            If the store there was made in another way; names each field with both values.
        StorageError
            If the folder may not be written.
        """
        folder = Path(folder)
        return cls(folder, settle_contract(folder, contract))

    def slide_ids(self) -> list[str]:
        """Ids of all slides that have a file, sorted."""
        with os.scandir(self.folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(SUFFIX)]
        return sorted(name.removesuffix(SUFFIX) for name in names)

    def path(self, slide_id: str) -> Path:
        """Where that slide's file is or would be.

        Raises
        ------
        UnsafeName
            If the id cannot become a file name.
        """
        return self.folder / f"{safe_name(slide_id, what='slide_id')}{SUFFIX}"

    def has(self, slide_id: str) -> bool:
        """Whether that slide has a file."""
        return self.path(slide_id).is_file()

    def write(self, slide: SlideFeatures) -> Path:
        """Write one slide's file atomically, in place of an earlier one; returns its path.

        Raises
        ------
        FeatureError
            If there is no tile, a value is not finite or does not fit the contract's type.
        ContractMismatch
            If width or type are not the contract's.
        StorageError
            If the disk is full or the folder may not be written.
        """
        path = self.path(slide.slide_id)
        write_slide_file(path, slide, self.contract)
        return path

    def read(self, slide_id: str, *, allow_nonfinite: bool = False) -> SlideFeatures:
        """Read one slide; every array is checked against the digest it was written with.

        Raises
        ------
        FeatureError
            If the file is absent, damaged or of a newer version, holds another slide, or (unless
            ``allow_nonfinite``) NaN or infinity; names file and key.
        ContractMismatch
            If it was made in another way than the store's contract says.
        """
        path = self.path(slide_id)
        slide = read_slide_file(path, self.contract, allow_nonfinite=allow_nonfinite)
        _require_id(slide.slide_id, slide_id, path)
        return slide

    def memmap(self, slide_id: str) -> Array:
        """The features of one slide as a read-only memory map, shape (n_tiles, width).

        The file's structure is checked, its values are not: that would read them all. A file that
        was mapped before, and has the same size and modification time, is not opened again.

        Raises
        ------
        FeatureError
            As `read`, but for damage to values.
        """
        path = self.path(slide_id)
        header = self._header(slide_id, path)
        shape = (header.n_tiles, header.width)
        if header.n_tiles == 0:
            return np.empty(shape, dtype=header.dtype)
        with damage(path):
            # NumPy would resolve a Path, part by part, which takes as long as mapping the file.
            return np.memmap(str(path), header.dtype, "r", header.offset, shape)

    def _header(self, slide_id: str, path: Path) -> FileHeader:
        try:
            found = path.stat()
        except OSError:
            return read_header(path, self.contract)  # says so
        stamp = found.st_size, found.st_mtime_ns, found.st_ino
        known = self._headers.get(slide_id)
        if known is not None and known[0] == stamp:
            return known[1]
        header = read_header(path, self.contract)
        _require_id(header.slide_id, slide_id, path)
        self._headers[slide_id] = stamp, header
        return header

    def index(self) -> pd.DataFrame:
        """One row a file, sorted by slide id.

        Columns: ``slide_id, n_tiles, width, dtype, slide_digest, slide_mpp, features_digest,
        provenance, n_failed, coords_digest, bytes, mtime_ns, problem``. A file that cannot be used
        has the reason in ``problem`` (None in all others) and zero tiles; one bad file never hides
        the rest.
        """
        return current_index(self.folder, self.contract)


def _require_id(found: str, asked: str, path: Path) -> None:
    if found != asked:
        raise FeatureError(
            f"holds slide {found!r}, not {asked!r}",
            where=path,
            fix="The file was renamed; give it its slide's name again.",
        )
