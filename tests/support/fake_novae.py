"""A stand-in for the package novae: what it is handed, and how far it reads, are as there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from scipy import sparse


def fake_novae() -> SimpleNamespace:
    """Sums expression over two steps of the graph that it is given, as Novae reads two.

    Like Novae it leaves 0 where none lies exactly two steps away, and wants genes named once.
    """

    class Novae:
        @staticmethod
        def from_pretrained(name: str) -> Novae:
            return Novae()

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {"weight": torch.ones(2)}

        def compute_representations(self, table) -> None:
            assert table.var_names.is_unique
            assert (table.obs["novae_sid"] == "s").all()
            step = (table.obsp["spatial_distances"].toarray() > 0).astype(float)
            within = step + np.eye(table.n_obs)
            two = ((within @ step) > 0) & (within == 0)
            latent = ((within @ within) > 0) @ table.X.toarray()
            table.obsm["novae_latent"] = np.where(two.any(axis=1)[:, None], latent, 0.0)

    def spatial_neighbors(table, *, radius: float, delaunay: bool) -> None:
        assert not delaunay
        table.obs["novae_sid"] = "s"
        everything = np.ones((table.n_obs, table.n_obs))
        table.obsp["spatial_distances"] = sparse.csr_matrix(everything)

    return SimpleNamespace(Novae=Novae, spatial_neighbors=spatial_neighbors)
