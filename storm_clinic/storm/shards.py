"""Spots for pretraining on disk: shards of some thousand spots, one in memory at a time.

A shard is one safetensors file, written by `storm_clinic.storm.shard_writer`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy import sparse
from torch import Tensor

from storm_clinic.encoders.weights import weights_digest
from storm_clinic.errors import SectionError
from storm_clinic.files import digest_value, parse_json, safe_name
from storm_clinic.storm.genes import GeneVocabulary

FORMAT, FORMAT_VERSION = "storm_clinic/storm-shards", 2
INDEX = "shards.json"


class Shard(NamedTuple):
    """Spots of one or more sections, or of a part of one. Neighbours brought along stand last.

    Attributes
    ----------
    image : float16 tensor, shape (n_spots, image_width)
    counts : sparse CSR array of int32, shape (n_spots, n_genes)
        By gene of the vocabulary.
    xy_um : float32 tensor, shape (n_spots, 2)
        Centres, from any origin of their section.
    neighbours : int32 tensor, shape (n_own, n_slots)
        Rows around each of the shard's own spots, which are the first ``n_own``; -1 for none.
    section : int32 tensor, shape (n_spots,)
        Row of ``panels``.
    panels : bool tensor, shape (n_sections, n_genes)
    tiles : uint8 tensor, shape (n_spots, tile_px, tile_px, 3), or None
        H&E around each spot, where the image encoder is trained too.
    novae : float16 tensor, shape (n_draws, n_spots, width), or None
        Embeddings by Novae for each of ``n_draws`` sets of visible spots; NaN where it has none.
    visible : bool tensor, shape (n_draws, n_spots), or None
        These sets.
    """

    image: Tensor
    counts: Any
    xy_um: Tensor
    neighbours: Tensor
    section: Tensor
    panels: Tensor
    tiles: Tensor | None = None
    novae: Tensor | None = None
    visible: Tensor | None = None

    @property
    def n_own(self) -> int:
        return len(self.neighbours)


@dataclass(frozen=True)
class ShardFile:
    """What the index says of one file: its name, digest, own spots, sections and their patients."""

    name: str
    digest: str
    n_own: int
    sections: tuple[str, ...]
    patients: tuple[str, ...]


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards.

    Attributes
    ----------
    folder : Path
    files : tuple of ShardFile
    vocabulary : GeneVocabulary
    image_width, n_slots : int
        Numbers of an embedding, and spots of a neighbourhood.
    encoder, encoder_digest : str
    tile_um : float
        How the image embeddings were made.
    made_of : str
        Digest of all that they were written from; empty where their writer did not say.
    tile_px : int
        Side of the tiles that they hold; 0 if they hold none.
    novae_draws, novae_width : int
        Sets of visible spots that they hold Novae's embeddings for, and numbers an embedding; 0 if
        none.
    """

    folder: Path
    files: tuple[ShardFile, ...]
    vocabulary: GeneVocabulary
    image_width: int
    n_slots: int
    encoder: str
    encoder_digest: str
    tile_um: float
    made_of: str = ""
    tile_px: int = 0
    novae_draws: int = 0
    novae_width: int = 0

    @property
    def n_spots(self) -> int:
        return sum(file.n_own for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over the contents of all shards and the vocabulary, in order."""
        return digest_value([[file.digest for file in self.files], self.vocabulary.digest])

    def to_json(self) -> dict[str, Any]:
        """What stands in the index."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "files": [asdict(file) for file in self.files],
            "genes": self.vocabulary.to_json(),
            "image_width": self.image_width,
            "n_slots": self.n_slots,
            "encoder": self.encoder,
            "encoder_digest": self.encoder_digest,
            "tile_um": self.tile_um,
            "made_of": self.made_of,
            "tile_px": self.tile_px,
            "novae_draws": self.novae_draws,
            "novae_width": self.novae_width,
        }

    def is_whole(self) -> bool:
        """Whether every file is there and holds the very tensors that were written; reads all."""
        for file in self.files:
            path = self.folder / safe_name(file.name, what="shard")
            try:
                state = load_file(path)
            except (SafetensorError, OSError):
                return False
            if weights_digest(state) != file.digest:
                return False
        return True

    def read(self, place: int) -> Shard:
        """Read the shard of that place in ``files``.

        Raises
        ------
        SectionError
            If the file is missing or damaged.
        """
        path = self.folder / safe_name(self.files[place].name, what="shard")
        try:
            parts = load_file(path)
            counts = sparse.csr_array(
                tuple(parts.pop(name).numpy() for name in ("values", "genes", "starts")),
                shape=(len(parts["image"]), len(self.vocabulary)),
            )
            return Shard(counts=counts, **parts)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise SectionError(f"is no readable shard: {error}", where=path, fix=_AGAIN) from error


def read_shards(folder: str | Path) -> ShardSet:
    """Open what `shard_writer.write_shards` wrote; no shard is read yet.

    Raises
    ------
    SectionError
        If the index is missing, damaged or of another version.
    """
    path = Path(folder) / INDEX
    try:
        facts = parse_json(path.read_text(encoding="utf-8"))
        stated = (facts.pop("format"), facts.pop("format_version"))
        if stated != (FORMAT, FORMAT_VERSION):
            raise SectionError(
                f"is {stated[0]} version {stated[1]}, not {FORMAT} version {FORMAT_VERSION}",
                where=path,
                fix=_AGAIN,
            )
        files = tuple(
            ShardFile(**{**file, **{name: tuple(file[name]) for name in ("sections", "patients")}})
            for file in facts.pop("files")
        )
        vocabulary = GeneVocabulary.from_json(facts.pop("genes"))
        found = ShardSet(folder=path.parent, files=files, vocabulary=vocabulary, **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SectionError(f"is no index of shards: {error!r}", where=path, fix=_AGAIN) from error
    return found


def reusable_shards(folder: str | Path, made_of: str) -> ShardSet | None:
    """Shards that were written from the very same before, or None where they must be written.

    Nothing is lost with shards that are of other data, damaged or not all there: they are made of
    what is at hand, and come out the same.

    Parameters
    ----------
    folder : str or Path
        Where they would lie.
    made_of : str
        Digest of all that they would be written from.
    """
    try:
        found = read_shards(folder)
    except SectionError:
        return None
    return found if found.made_of == made_of and found.is_whole() else None


_AGAIN = "Write the shards again."
