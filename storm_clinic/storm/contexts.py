"""What STORM is shown: neighbourhoods of spots, with what is absent or masked in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from storm_clinic.errors import SectionError
from storm_clinic.storm.config import Modality
from storm_clinic.storm.neighbourhood import Neighbourhood


@dataclass(frozen=True, eq=False)
class Contexts:
    """A batch of neighbourhoods; slots in the raster order of `neighbourhood.neighbourhoods`.

    A token is *present* where its spot is valid and its modality is at hand. Absent tokens take no
    part at all; their values may be anything, even NaN. A *masked* token is present, but its value
    is replaced by a learned one: it can be predicted, and its value reaches nothing.

    Attributes
    ----------
    valid : bool tensor, shape (b, n_slots)
        Where a neighbour exists. n_slots is 25, 9 or 1, the spot itself in the middle.
    xy_um : float tensor, shape (b, n_slots, 2)
        Centres in µm, from any origin.
    image : float tensor, shape (b, n_slots, image_width), or None
        Image embeddings; None where no spot has one.
    expression : float tensor, shape (b, n_slots, n_genes), or None
        log1p of counts per 10,000 of the panel; None where no spot has one.
    panel : bool tensor, shape (b, n_genes), or None
        Genes that were measured; needed with ``expression``, unless that is embedded already.
    image_present, expression_present : bool tensor, shape (b, n_slots), or None
        Where the modality is at hand; None means at every valid spot.
    image_masked, expression_masked : bool tensor, shape (b, n_slots), or None
        Which present tokens to mask; None means none.

    Raises
    ------
    SectionError
        If shapes do not go together, or neither modality is given.
    """

    valid: Tensor
    xy_um: Tensor
    image: Tensor | None = None
    expression: Tensor | None = None
    panel: Tensor | None = None
    image_present: Tensor | None = None
    expression_present: Tensor | None = None
    image_masked: Tensor | None = None
    expression_masked: Tensor | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise SectionError(problem, where="contexts")

    def _problem(self) -> str | None:
        slots = tuple(self.valid.shape)
        if len(slots) != 2 or slots[1] % 2 == 0:
            return f"valid must be (b, n_slots) with a middle slot, is {slots}"
        if tuple(self.xy_um.shape) != (*slots, 2):
            return f"xy_um must be {(*slots, 2)}, is {tuple(self.xy_um.shape)}"
        if not self.modalities:
            return "neither image nor expression is given"
        for name in ("image", "expression"):
            values = getattr(self, name)
            if values is not None and (values.dim() != 3 or tuple(values.shape[:2]) != slots):
                return f"{name} must be {slots} and a width, is {tuple(values.shape)}"
        if self.panel is not None and self.expression is not None:
            shape = (slots[0], self.expression.shape[2])
            if tuple(self.panel.shape) != shape or self.panel.dtype != torch.bool:
                return f"panel must be bool and {shape}, is {tuple(self.panel.shape)}"
        for name in _FLAGS:
            flags = getattr(self, name)
            if flags is not None and (tuple(flags.shape) != slots or flags.dtype != torch.bool):
                return f"{name} must be bool and {slots}, is {flags.dtype} {tuple(flags.shape)}"
        return None

    @classmethod
    def gather(
        cls,
        around: Neighbourhood,
        wanted: Tensor,
        *,
        xy_um: Tensor,
        image: Tensor | None = None,
        expression: Tensor | None = None,
        panel: Tensor | None = None,
    ) -> Contexts:
        """Contexts of some spots of one section, from values that lie there once a spot.

        Parameters
        ----------
        around : Neighbourhood
            Of all spots of the section.
        wanted : int tensor, shape (b,)
            Rows of the spots that the contexts are about.
        xy_um : float tensor, shape (n_spots, 2)
            Centres in µm.
        image : float tensor, shape (n_spots, image_width), optional
            Image embeddings.
        expression : float tensor, shape (n_spots, n_genes), optional
            log1p of counts per 10,000.
        panel : bool tensor, shape (n_genes,), optional
            Genes that the section's assay measured.
        """
        rows = torch.as_tensor(around.rows, device=wanted.device)[wanted]
        spots = rows.clamp(min=0)  # what stands in empty slots is never read
        return cls(
            valid=rows >= 0,
            xy_um=xy_um[spots],
            image=None if image is None else image[spots],
            expression=None if expression is None else expression[spots],
            panel=None if panel is None else panel.expand(len(wanted), -1),
        )

    @property
    def n_slots(self) -> int:
        return self.valid.shape[1]

    @property
    def middle(self) -> int:
        """Slot of the spot that the context is about."""
        return self.n_slots // 2

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that are given, image first."""
        given: list[Modality] = []
        if self.image is not None:
            given.append("image")
        if self.expression is not None:
            given.append("expression")
        return tuple(given)

    def present(self, modality: Modality) -> Tensor:
        """Where tokens of a modality take part, (b, n_slots)."""
        at_hand = self.image_present if modality == "image" else self.expression_present
        return self.valid if at_hand is None else self.valid & at_hand

    def masked(self, modality: Modality) -> Tensor:
        """Where tokens of a modality are replaced by the learned one, (b, n_slots)."""
        masked = self.image_masked if modality == "image" else self.expression_masked
        return torch.zeros_like(self.valid) if masked is None else masked


_FLAGS = ("valid", "image_present", "expression_present", "image_masked", "expression_masked")
