"""A small transformer over a bag: a few latent vectors read all tiles, at linear cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from storm_clinic.heads.pooling import Pooled
from storm_clinic.heads.segments import Segments
from storm_clinic.heads.streamed_pooling import HiddenStream

_N_LAYERS = 2
_N_HEADS = 4
_WAVELENGTHS_UM = tuple(500.0 * 2**k for k in range(7))  # from a few tiles to a whole section


class LatentTransformer(nn.Module):
    """Latent vectors read the tiles, then one another, layer by layer; their mean is the bag's.

    Where it is known, a tile's place on its slide is added to it as sines and cosines of its
    distance in µm from the middle of the slide's tiles, at wavelengths from 0.5 to 32 mm.

    References
    ----------
    Lee et al., Set Transformer, ICML 2019 (pooling by attention of seed vectors). Jaegle et al.,
    Perceiver, ICML 2021. Vaswani et al., NeurIPS 2017, section 3.5 (sines of positions).
    """

    def __init__(self, n_hidden: int, n_latents: int) -> None:
        super().__init__()
        self.n_pooled = n_hidden
        self.latents = nn.Parameter(torch.empty(n_latents, n_hidden))
        self.place = nn.Linear(4 * len(_WAVELENGTHS_UM), n_hidden, bias=False)
        self.layers = nn.ModuleList(_Layer(n_hidden) for _ in range(_N_LAYERS))
        self.norm = nn.LayerNorm(n_hidden)

    def forward(self, hidden: Tensor, segments: Segments, places: Tensor | None) -> Pooled:
        """Mean of the latents; a tile's weight is its mean share in the last layer's reading."""
        latents, shares = self.read(hidden, segments, places)
        return Pooled(latents.mean(dim=1), shares.mean(dim=1, keepdim=True))

    def read(
        self, hidden: Tensor, segments: Segments, places: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The latents after all layers, (n_bags, n_latents, n_hidden), and shares in the reading.

        Shares are those of each tile in the last layer's reading, (n_tiles, n_latents).
        """
        hidden = self._placed(hidden, places)
        latents = self.latents.expand(len(segments.sizes), -1, -1)
        shares = hidden.new_zeros((len(hidden), latents.shape[1]))
        for layer in self.layers:
            latents, shares = layer(latents, hidden, segments)
        return self.norm(latents), shares

    def pool_stream(self, stream: HiddenStream, weighted: bool) -> Pooled:
        """The same of one bag, chunk by chunk."""
        latents, shares = self.read_stream(stream, weighted)
        weights = None if shares is None else shares.mean(dim=1, keepdim=True)
        return Pooled(latents.mean(dim=1), weights)

    def read_stream(self, stream: HiddenStream, weighted: bool) -> tuple[Tensor, Tensor | None]:
        """What `read` gives, of one bag, whose tiles each layer looks at anew."""
        latents: Tensor = self.latents[None]
        shares: Tensor | None = None
        for number, layer in enumerate(self.layers, start=1):
            latents, shares = layer.read_stream(  # type: ignore[operator]
                latents,
                stream,
                self._placed,
                self.place.parameters(),
                weighted=weighted and number == len(self.layers),
            )
        return self.norm(latents), shares

    def _placed(self, hidden: Tensor, places: Tensor | None) -> Tensor:
        if places is None:
            return hidden
        waves: Tensor = self.place(_waves(places))
        return hidden + waves.to(hidden.dtype)


class _Layer(nn.Module):
    """Reading of tiles, exchange among latents, feed-forward; each after a layer norm."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.n_heads = math.gcd(n_hidden, _N_HEADS)
        self.norm_tiles, self.norm_latents = nn.LayerNorm(n_hidden), nn.LayerNorm(n_hidden)
        self.query = nn.Linear(n_hidden, n_hidden)
        self.key_value = nn.Linear(n_hidden, 2 * n_hidden)
        self.read = nn.Linear(n_hidden, n_hidden)
        self.norm_exchange = nn.LayerNorm(n_hidden)
        self.exchange = nn.Linear(n_hidden, 3 * n_hidden)
        self.exchanged = nn.Linear(n_hidden, n_hidden)
        self.norm_forward = nn.LayerNorm(n_hidden)
        self.forward_in = nn.Linear(n_hidden, 2 * n_hidden)
        self.forward_out = nn.Linear(2 * n_hidden, n_hidden)

    def forward(self, latents: Tensor, tiles: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
        """New latents, (n_bags, n_latents, n_hidden), and tiles' shares, (n_tiles, n_latents)."""
        query = self._query(latents, tiles.dtype)
        key, value = self._key_value(tiles)
        products = torch.einsum("tlhw,thw->tlh", query[segments.of_tile], key)
        # Products may have been rounded; a softmax over thousands of tiles never is.
        weights = segments.softmax(products.to(value.dtype) / math.sqrt(key.shape[2]))
        read = segments.sum(weights[..., None] * value[:, None])
        return self._after_reading(latents, read), weights.mean(dim=2)

    def read_stream(
        self,
        latents: Tensor,
        stream: HiddenStream,
        placed: Callable[[Tensor, Tensor | None], Tensor],
        parameters: Iterable[Tensor],
        *,
        weighted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """What `forward` gives, of one bag; shares only where asked for.

        Parameters
        ----------
        latents : tensor, shape (1, n_latents, n_hidden)
            What the layer is given.
        stream : HiddenStream
            Tiles.
        placed : callable
            Adds their places to hidden tiles.
        parameters : iterable of tensors
            Of ``placed``.
        weighted : bool
            Whether shares are asked for.
        """

        def terms(
            hidden: Tensor, places: Tensor | None, query: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            key, value = self._key_value(placed(hidden, places))
            products = torch.einsum("lhw,thw->tlh", query, key)
            return products.to(value.dtype) / math.sqrt(key.shape[2]), value

        read = stream.mean(
            terms,
            [*self.norm_tiles.parameters(), *self.key_value.parameters(), *parameters],
            asked=self._query(latents, latents.dtype)[0],
            weighted=weighted,
        )
        shares = None if read.weights is None else read.weights.mean(dim=2)
        return self._after_reading(latents, read.means[None]), shares

    def _query(self, latents: Tensor, dtype: torch.dtype) -> Tensor:
        """What latents ask, (n_bags, n_latents, n_heads, width)."""
        query: Tensor = self.query(self.norm_latents(latents)).to(dtype)
        return query.view(*latents.shape[:2], self.n_heads, -1)

    def _key_value(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """What tiles answer to, and say, (n_tiles, n_heads, width) each."""
        key, value = self.key_value(self.norm_tiles(tiles)).to(tiles.dtype).chunk(2, dim=1)
        shape = (len(tiles), self.n_heads, tiles.shape[1] // self.n_heads)
        return key.view(shape), value.view(shape)

    def _after_reading(self, latents: Tensor, read: Tensor) -> Tensor:
        """New latents of the old ones and what they read, (n_bags, n_latents, n_heads, width)."""
        latents = latents + self.read(read.flatten(2))
        latents = latents + self.exchanged(self._exchange(self.norm_exchange(latents)))
        inner = nn.functional.gelu(self.forward_in(self.norm_forward(latents)))
        after: Tensor = latents + self.forward_out(inner)
        return after

    def _exchange(self, latents: Tensor) -> Tensor:
        n_bags, n_latents, n_hidden = latents.shape
        parts = self.exchange(latents).view(n_bags, n_latents, 3, self.n_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).reshape(n_bags, n_latents, n_hidden)


def _waves(places: Tensor) -> Tensor:
    """Sines and cosines of both coordinates, (n_tiles, 4 * n_wavelengths)."""
    frequencies = places.new_tensor([2 * math.pi / length for length in _WAVELENGTHS_UM])
    angles = (places[:, :, None] * frequencies).flatten(1)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
