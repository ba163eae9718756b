"""The network and cohort that several benchmarks look at: gated attention on one image input."""

from __future__ import annotations

import numpy as np

from storm_clinic.heads.architecture import Architecture
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.network import TileNetwork
from storm_clinic.heads.network_inputs import Encoded, TileScale


def attention_network(
    width: int,
    n_hidden: int,
    n_attention: int,
    *,
    n_branches: int = 1,
    shared: tuple[bool, ...] = (False,),
) -> TileNetwork:
    """Gated attention on tiles of so many numbers, with weights by seed."""
    plan = Architecture(
        pooling="attention",
        fusion="late",
        tiles={"image": width},
        tables={},
        n_clinical=0,
        shared=shared,
        n_branches=n_branches,
        n_hidden=n_hidden,
        n_attention=n_attention,
    )
    return TileNetwork(plan, seed=0)


def image_cohort(bags: Bags) -> Encoded:
    """Patients of whom nothing but their tiles is known, which are taken as they are."""
    everybody = {"image": np.ones(len(bags), dtype=np.bool_)}
    scale = TileScale(np.zeros(bags.width), np.ones(bags.width))
    return Encoded({"image": (bags, scale)}, {}, everybody, np.empty((len(bags), 0)), ())
