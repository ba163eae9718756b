"""Training sections of a pretraining: read, embedded, and written as shards unless they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.files import Workspace, digest_value
from storm_clinic.progress import Progress
from storm_clinic.storm.domain import MOST_ROWS, TrainingDomain
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.image_encoder import trainable_card
from storm_clinic.storm.image_scale import scale_slide
from storm_clinic.storm.novae import LoadedNovae, NovaeDraws, embed_draws, load_novae
from storm_clinic.storm.own_encoder import seen_by_encoder
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.pretraining_file import PretrainingFile
from storm_clinic.storm.section_digest import section_digest
from storm_clinic.storm.section_sources import read_sources
from storm_clinic.storm.shard_writer import Embedded, write_shards
from storm_clinic.storm.shards import FORMAT_VERSION, reusable_shards
from storm_clinic.storm.spot_cache import cached_embeddings, spots_folder
from storm_clinic.storm.spot_images import spot_tiles
from storm_clinic.storm.trained_on import TrainedSection
from storm_clinic.storm.variable_genes import most_variable_genes

_MOST_SAMPLES = 40_000  # spots that describe the training domain; thinned beyond that
_EMBEDDING = "embed sections"
_EMBEDDING_AGAIN = "embed sections by the trained encoder"


@dataclass(frozen=True, eq=False)
class TrainingSections:
    """What a card says of them.

    Attributes
    ----------
    n_sections, n_patients : int
    technologies : list of str
        Sorted.
    domain : TrainingDomain or None
        Of the encoder as it was; None of one section, as its limits are measured on sections that
        are left out.
    trained_on : list of TrainedSection
        By which another section is known to be one of these, or one that the encoder had seen.
    encoder_licence : str or None
        Of the encoder's weights, where a checkpoint brings them along.
    novae_digest : str or None
        Of the weights of Novae, where it embeds expression.
    """

    n_sections: int
    n_patients: int
    technologies: list[str]
    domain: TrainingDomain | None
    trained_on: list[TrainedSection]
    encoder_licence: str | None
    novae_digest: str | None


def prepare_shards(
    asked: PretrainingFile, workspace: Workspace, folder: Path, device: str, progress: Progress
) -> TrainingSections:
    """Embed all spots, and write shards unless the same were written before.

    Sections are read twice rather than kept. Shards hold tiles too where the encoder is trained.

    Parameters
    ----------
    asked : PretrainingFile
        Whose sections.
    workspace : Workspace
        Where embeddings are kept.
    folder : Path
        For the shards.
    device : str
        See `load_encoder`.
    progress : callable
        See `Progress`.
    """
    name, weights = asked.encoder.name, asked.encoder.weights_path(workspace)
    trains = asked.train_encoder is not None
    of = trainable_card(name, weights) if trains else name
    encoder = load_encoder(of, weights=weights, device=device)
    seen_before = seen_by_encoder(weights, encoder.digest)
    trained_on: list[TrainedSection] = []
    digests: list[str] = []

    def noted() -> Iterator[PairedSection]:
        for section in read_sources(asked.sections, workspace):
            trained_on.append(TrainedSection.of(section))
            digests.append(section_digest(section, {}))
            digests.append(digest_value([trained_on[-1].image, section.mpp]))
            yield section

    novae = None if asked.novae is None else load_novae(asked.novae.model)
    vocabulary = most_variable_genes(noted(), asked.n_genes)
    patients: set[str] = set()
    technologies: set[str] = set()
    samples = _Samples()
    scaled = bool(asked.network.image_axes)

    def embedded() -> Iterator[Embedded]:
        for section in read_sources(asked.sections, workspace):
            image = cached_embeddings(
                section,
                encoder,
                tile_um=asked.encoder.tile_um,
                folder=spots_folder(workspace, encoder),
            )
            patients.add(section.patient)
            technologies.add(section.technology)
            samples.add(section.name, image)
            progress(_EMBEDDING, len(samples.of), len(trained_on))
            tiles = partial(_tiles, section, asked.encoder.tile_um, encoder.card.tile_px)
            yield Embedded(
                section,
                scale_slide(image) if scaled else image,
                tiles if trains else None,
                _by_novae(section, novae, asked) if writes else None,
            )

    made_of = _made_of(asked, digests, encoder, vocabulary, novae)
    writes = reusable_shards(folder, made_of) is None
    if writes:
        write_shards(
            folder,
            embedded(),
            vocabulary,
            encoder=encoder.card.name,
            encoder_digest=encoder.digest,
            tile_um=asked.encoder.tile_um,
            side=asked.network.side,
            spots_per_shard=asked.spots_at_once,
            made_of=made_of,
        )
    else:
        deque(embedded(), maxlen=0)  # the card's facts are still asked for
    return TrainingSections(
        len(samples.of),
        len(patients),
        sorted(technologies),
        samples.domain(),
        [*trained_on, *seen_before],
        encoder.card.licence if trains or seen_before else None,
        None if novae is None else novae.digest,
    )


def domain_of_encoder(
    asked: PretrainingFile,
    encoder: LoadedEncoder,
    workspace: Workspace,
    n_sections: int,
    progress: Progress,
) -> TrainingDomain | None:
    """What training sections look like to another encoder than the shards', the trained one.

    Its embeddings are kept where those of others are. Other arguments as `prepare_shards`; None of
    one section.
    """
    samples = _Samples()
    for section in read_sources(asked.sections, workspace):
        folder = spots_folder(workspace, encoder)
        image = cached_embeddings(section, encoder, tile_um=asked.encoder.tile_um, folder=folder)
        samples.add(section.name, image)
        progress(_EMBEDDING_AGAIN, len(samples.of), n_sections)
    return samples.domain()


@dataclass
class _Samples:
    """Embeddings of some spots of each section, by its name."""

    of: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def add(self, section: str, image: NDArray[np.float32]) -> None:
        few = np.linspace(0, len(image) - 1, min(len(image), MOST_ROWS)).astype(np.int64)
        self.of[section] = image[few]
        if sum(map(len, self.of.values())) > _MOST_SAMPLES:
            self.of = {name: rows[::2] for name, rows in self.of.items()}

    def domain(self) -> TrainingDomain | None:
        return TrainingDomain.fit(self.of) if len(self.of) > 1 else None


def _by_novae(
    section: PairedSection, novae: LoadedNovae | None, asked: PretrainingFile
) -> NovaeDraws | None:
    if novae is None:
        return None
    return embed_draws(section, novae, **_draws(asked), seed=asked.seed)


def _draws(asked: PretrainingFile) -> dict[str, Any]:
    return {} if asked.novae is None else asked.novae.model_dump(exclude={"model"})


def _tiles(
    section: PairedSection, tile_um: float, tile_px: int, rows: NDArray[np.int64]
) -> NDArray[np.uint8]:
    return np.stack(list(spot_tiles(section, tile_um=tile_um, tile_px=tile_px, rows=rows)))


def _made_of(
    asked: PretrainingFile,
    sections: list[str],
    encoder: LoadedEncoder,
    vocabulary: GeneVocabulary,
    novae: LoadedNovae | None,
) -> str:
    """Digest of all that decides what stands in the shards, beside the code of this format."""
    return digest_value(
        [
            FORMAT_VERSION,
            sections,
            vocabulary.digest,
            [encoder.card.name, encoder.digest, encoder.precision],
            [asked.encoder.tile_um, asked.network.side, asked.spots_at_once],
            bool(asked.network.image_axes),
            asked.train_encoder is not None,
            None if novae is None else [novae.digest, _draws(asked), asked.seed],
        ]
    )
