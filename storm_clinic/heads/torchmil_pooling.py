"""Poolings of the package torchmil behind one adapter: published ones under our protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from storm_clinic.errors import StudyError
from storm_clinic.heads.pooling import Pooled
from storm_clinic.heads.segments import Segments


@dataclass(frozen=True)
class _Published:
    """One of torchmil's models: how it is built, and the layer that its bag's vector enters.

    Attributes
    ----------
    model : str
        Class in ``torchmil.models``.
    arguments : callable
        From units of the attention to keyword arguments.
    classifier : str
        Last layer; the model's own score is not used, only what this layer is given.
    masked : bool
        Whether it wants a mask of real tiles.
    """

    model: str
    arguments: Callable[[int], dict[str, Any]]
    classifier: str
    masked: bool


def _attention(units: int) -> dict[str, Any]:
    return {"att_dim": units}


PUBLISHED: Mapping[str, _Published] = {
    # Shao et al., NeurIPS 2021. Heads must divide the units.
    "transmil": _Published(
        "TransMIL", lambda units: {"att_dim": 4 * -(-units // 4)}, "classifier", masked=False
    ),
    # Li, Li and Eliceiri, CVPR 2021.
    "dsmil": _Published("DSMIL", _attention, "bag_classifier", masked=True),
    # Zhang et al., CVPR 2022.
    "dtfd": _Published("DTFDMIL", _attention, "u_classifier", masked=True),
}


class TorchmilPooling(nn.Module):
    """The bag's vector of a torchmil model, bag by bag; objective, readout and tuning are ours.

    Losses that a paper adds on instances or pseudo-bags are left out. ``transmil`` and ``dtfd``
    depend on the order of tiles, which is that of the feature files; ``dtfd`` groups them at
    random, here the same way each time.

    Parameters
    ----------
    name : str
        A name of this module's table.
    n_hidden : int
        Units of each tile.
    n_attention : int
        Units of the model's attention.

    Raises
    ------
    StudyError
        If torchmil is not installed.
    """

    def __init__(self, name: str, n_hidden: int, n_attention: int) -> None:
        super().__init__()
        try:
            from torchmil import models
        except ImportError as error:
            raise StudyError(
                f"the pooling {name!r} needs the package torchmil, which cannot be imported: "
                f"{error}",
                fix="Install it with: pip install 'storm-clinic[torchmil]'",
            ) from error
        self._published = PUBLISHED[name]
        build = getattr(models, self._published.model)
        self.model: nn.Module = build(
            in_shape=(n_hidden,), **self._published.arguments(n_attention)
        )
        self._seen: list[Tensor] = []
        last = self.model.get_submodule(self._published.classifier)
        last.register_forward_pre_hook(lambda _, given: self._seen.append(given[0]))
        with torch.no_grad():
            self.n_pooled = self._vector(torch.zeros(2, n_hidden)).shape[0]

    def forward(self, hidden: Tensor, segments: Segments, _places: Tensor | None) -> Pooled:
        """Vectors of the bags, (n_bags, n_pooled); zeros for an empty one."""
        bags = torch.split(hidden, segments.sizes.tolist())
        nothing = hidden.new_zeros(self.n_pooled)
        vectors = [self._vector(bag) if len(bag) else nothing for bag in bags]
        return Pooled(torch.stack(vectors))

    def _vector(self, bag: Tensor) -> Tensor:
        self._seen.clear()
        masks = [bag.new_ones(1, len(bag))] if self._published.masked else []
        with _same_chance():
            self.model(bag[None], *masks)
        vector = self._seen[-1].reshape(-1)
        self._seen.clear()  # or a fitted model would keep activations
        return vector


@contextmanager
def _same_chance() -> Iterator[None]:
    """NumPy's global generator, of which torchmil draws, in one state; restored afterwards."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)
