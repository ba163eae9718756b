"""A section as a network is taught by it: looks at its tissue, and what was measured there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.image_scale import scale_slide
from storm_clinic.storm.neighbourhood import Side, neighbourhoods
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.targets import of_whole_assay


@dataclass(frozen=True, eq=False)
class TaughtSection:
    """A section as a network is taught by it.

    Attributes
    ----------
    name, patient : str
    image : float32 tensor, shape (n_looks, n_points, image_width)
        Embeddings of all points of the section's lattice; the first look is what inference sees,
        others are turned, mirrored and stained in other ways.
    xy_um : float32 tensor, shape (n_points, 2)
    around : int64 tensor, shape (n_spots, n_slots)
        Points around each measured spot, -1 where there is none.
    spots : int64 array, shape (n_spots,)
        Rows of the points whose expression was measured.
    target : float32 array, shape (n_spots, n_genes)
        log1p of counts per 10,000 counts of the whole assay.
    library : int64 array, shape (n_spots,)
    panel : bool array, shape (n_genes,)
        Genes that the assay looked for.
    """

    name: str
    patient: str
    image: Tensor
    xy_um: Tensor
    around: Tensor
    spots: NDArray[np.int64]
    target: NDArray[np.float32]
    library: NDArray[np.int64]
    panel: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        section: PairedSection,
        image: NDArray[Any],
        vocabulary: GeneVocabulary,
        *,
        side: Side = 5,
        scaled: bool,
    ) -> TaughtSection:
        """Put a section and its embeddings together.

        Parameters
        ----------
        section : PairedSection
            Points without a count are seen, and never taught.
        image : float array, shape (n_points, image_width) or (n_looks, n_points, image_width)
            Embeddings of its points.
        vocabulary : GeneVocabulary
            Genes to teach. Counts are divided by all of the assay's, so that the target does not
            depend on which genes are taught.
        side : 1, 3 or 5
            Points along an edge of a context.
        scaled : bool
            Whether the network wants embeddings scaled slide by slide.
        """
        found = of_whole_assay(section.counts, section.symbols, vocabulary)
        spots = np.flatnonzero(found.library > 0)
        around = neighbourhoods(
            section.centres_um, pitch_um=section.pitch_um, grid=section.grid, side=side
        )
        looks = image[None] if image.ndim == 2 else image
        seen = np.stack([scale_slide(look) for look in looks]) if scaled else np.array(looks)
        return cls(
            name=section.name,
            patient=section.patient,
            image=torch.from_numpy(seen.astype(np.float32, copy=False)),
            xy_um=torch.from_numpy(section.centres_um.astype(np.float32)),
            around=torch.from_numpy(around.rows[spots]),
            spots=spots,
            target=found.values[spots],
            library=found.library[spots],
            panel=found.known,
        )

    def contexts(self, wanted: Tensor, look: int = 0) -> Contexts:
        """H&E around some measured spots, by default as the network meets it at inference."""
        rows = self.around[wanted]
        points = rows.clamp(min=0)
        return Contexts(valid=rows >= 0, xy_um=self.xy_um[points], image=self.image[look, points])
