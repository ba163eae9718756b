"""Read single transcripts of Xenium and CosMx, gathered into square pseudo-spots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import PairedSection

BIN_UM = 55.0
XENIUM_QUALITY = 20.0  # the maker's own threshold of the Phred-scaled quality
_CONTROLS = r"^(?:NegControl|BLANK|UnassignedCodeword|DeprecatedCodeword|antisense|Intergenic)"
_COSMX_CONTROLS = r"^(?:NegPrb|Negative|SystemControl|FalseCode)"
_ROWS = 1_000_000  # transcripts in memory at once
Affine = NDArray[np.float64]


def read_xenium(
    path: str | Path,
    *,
    name: str,
    patient: str,
    mpp: float,
    to_image: Affine | None = None,
    image: str | Path | None = None,
    genes: Sequence[str] | None = None,
    bin_um: float = BIN_UM,
) -> PairedSection:
    """Gather ``transcripts.parquet`` or ``transcripts.csv.gz`` of Xenium into pseudo-spots.

    Transcripts of quality below 20 and of control probes are left out and counted.

    Parameters
    ----------
    path : str or Path
        Columns ``feature_name``, ``x_location``, ``y_location`` (µm) and ``qv``.
    name, patient, image
        See `PairedSection`.
    mpp : float
        Microns per pixel of the image.
    to_image : float array, shape (2, 3) or (3, 3), optional
        From transcripts in µm to level-0 pixels of the image: the affine part of the registration
        of H&E. Without it, a place in µm divided by ``mpp``.
    genes : sequence of str, optional
        The panel. Without it a gene that no transcript of the section bears counts as unknown.
    bin_um : float
        Side of a pseudo-spot, and its pitch.

    Raises
    ------
    SectionError
        If the file is damaged, lacks a column, or nothing is left.
    """
    columns = ["feature_name", "x_location", "y_location", "qv"]
    bins = _Bins(bin_um, genes)
    for part in _parts(Path(path), columns):
        poor = part["qv"] < XENIUM_QUALITY
        control = ~poor & part["feature_name"].str.contains(_CONTROLS)
        bins.leave_out("transcripts of low quality", int(poor.sum()))
        bins.leave_out("transcripts of control probes", int(control.sum()))
        part = part[~poor & ~control]
        bins.add(part["feature_name"], part[["x_location", "y_location"]].to_numpy(float))
    return bins.section(Path(path), name, patient, "xenium", mpp, to_image, image)


def read_cosmx(
    path: str | Path,
    *,
    name: str,
    patient: str,
    transcript_mpp: float,
    mpp: float,
    to_image: Affine | None = None,
    image: str | Path | None = None,
    genes: Sequence[str] | None = None,
    bin_um: float = BIN_UM,
) -> PairedSection:
    """Gather a CosMx ``*_tx_file.csv`` into pseudo-spots; see `read_xenium`.

    Parameters
    ----------
    path : str or Path
        Columns ``target``, ``x_global_px`` and ``y_global_px``.
    transcript_mpp : float
        Microns per pixel of these columns; it differs between instruments, so it has no default.
    name, patient, mpp, to_image, image, genes, bin_um
        See `read_xenium`.

    Raises
    ------
    SectionError
        As `read_xenium`.
    """
    columns = ["target", "x_global_px", "y_global_px"]
    bins = _Bins(bin_um, genes)
    for part in _parts(Path(path), columns):
        control = part["target"].str.contains(_COSMX_CONTROLS)
        bins.leave_out("transcripts of control probes", int(control.sum()))
        part = part[~control]
        places_um = part[["x_global_px", "y_global_px"]].to_numpy(float) * transcript_mpp
        bins.add(part["target"], places_um)
    return bins.section(Path(path), name, patient, "cosmx", mpp, to_image, image)


class _Bins:
    """Counts of genes in square bins, added part by part of a file of any length."""

    def __init__(self, bin_um: float, genes: Sequence[str] | None) -> None:
        self.bin_um = bin_um
        self.closed = genes is not None
        self.genes = {gene: column for column, gene in enumerate(genes or ())}
        self.parts: list[pd.DataFrame] = []
        self.left_out: dict[str, int] = {}

    def leave_out(self, why: str, n: int) -> None:
        if n:
            self.left_out[why] = self.left_out.get(why, 0) + n

    def add(self, names: pd.Series[str], places_um: NDArray[np.float64]) -> None:
        """Count transcripts by gene and bin."""
        codes, found = pd.factorize(names)
        if not self.closed:
            for gene in found:
                self.genes.setdefault(str(gene), len(self.genes))
        columns = np.array([self.genes.get(str(gene), -1) for gene in found], dtype=np.int64)
        cells = np.floor(places_um / self.bin_um).astype(np.int64)
        table = pd.DataFrame({"x": cells[:, 0], "y": cells[:, 1], "gene": columns[codes]})
        self.leave_out("transcripts outside the panel", int((table["gene"] < 0).sum()))
        grouped = table[table["gene"] >= 0].groupby(["y", "x", "gene"], sort=True)
        self.parts.append(grouped.size().rename("n").reset_index())

    def section(
        self,
        path: Path,
        name: str,
        patient: str,
        technology: str,
        mpp: float,
        to_image: Affine | None,
        image: str | Path | None,
    ) -> PairedSection:
        """The section whose spots are the bins with a transcript, row by row."""
        table = pd.concat(self.parts) if self.parts else pd.DataFrame()
        if table.empty:
            raise SectionError("no transcript is left", where=path)
        # Genes by name, or as the panel has them, so that no order of transcripts shows.
        symbols = tuple(self.genes) if self.closed else tuple(sorted(self.genes))
        order = np.empty(len(symbols), dtype=np.int64)
        order[[self.genes[gene] for gene in symbols]] = np.arange(len(symbols))
        cells = table.groupby(["y", "x"], sort=True)
        rows, columns = cells.ngroup().to_numpy(), order[table["gene"].to_numpy()]
        grid = table[["x", "y"]].drop_duplicates().sort_values(["y", "x"]).to_numpy()
        shape = (len(grid), len(symbols))
        counts = sparse.coo_array((table["n"].to_numpy(), (rows, columns)), shape=shape)
        centres_um = (grid + 0.5) * self.bin_um
        return PairedSection(
            name=name,
            patient=patient,
            technology=technology,
            grid="square",
            spot_um=self.bin_um,
            pitch_um=self.bin_um,
            image=None if image is None else Path(image),
            mpp=mpp,
            centres_px=_mapped(centres_um, to_image, mpp, path),
            counts=counts,
            symbols=symbols,
            spots=tuple(f"{x}x{y}" for x, y in grid.tolist()),
            left_out=self.left_out,
        )


def _mapped(
    centres_um: NDArray[np.float64], to_image: Affine | None, mpp: float, where: Path
) -> NDArray[np.float64]:
    if to_image is None:
        return centres_um / mpp
    linear, shift = np.asarray(to_image)[:2, :2], np.asarray(to_image)[:2, 2]
    scale = 1 / np.sqrt(abs(np.linalg.det(linear)))
    if not abs(scale / mpp - 1) < 0.05:
        raise SectionError(
            f"the map to the image says {scale:.4g} µm per pixel, mpp says {mpp:.4g}", where=where
        )
    mapped: NDArray[np.float64] = centres_um @ linear.T + shift
    return mapped


def _parts(path: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_ROWS, columns=columns):
                    yield _checked(batch.to_pandas(), columns, path)
        else:
            with pd.read_csv(path, usecols=columns, chunksize=_ROWS) as reader:
                for part in reader:
                    yield _checked(part, columns, path)
    except (OSError, EOFError, ValueError, KeyError, pa.ArrowException) as error:
        raise SectionError(
            f"cannot be read with columns {', '.join(columns)}: {error}", where=path
        ) from error


def _checked(part: pd.DataFrame, columns: list[str], path: Path) -> pd.DataFrame:
    absent = [column for column in columns if column not in part.columns]
    if absent:
        raise SectionError(f"has no column {', '.join(absent)}", where=path)
    if part[columns].isna().to_numpy().any():
        raise SectionError("a transcript lacks its gene, place or quality", where=path)
    names = part[columns[0]]
    if len(names) and isinstance(names.iloc[0], bytes):  # older Xenium files
        part = part.assign(**{columns[0]: names.str.decode("utf-8")})
    return part
