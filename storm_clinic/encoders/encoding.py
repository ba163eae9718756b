"""Pixels to embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional

from storm_clinic.encoders.contract import EncoderCard, Precision
from storm_clinic.encoders.drift import DriftWatch
from storm_clinic.errors import EncoderError

_GPU_FACTOR = 8


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """An encoder with its weights, on a device.

    Attributes
    ----------
    card : EncoderCard
    model : torch.nn.Module
        In evaluation mode, fp32 weights.
    digest : str
        SHA-256 of the weights' content; see `weights_digest`.
    device : torch.device
    run : function, optional
        Takes prepared pixels, gives embeddings, instead of `embed`: the same network, compiled or
        in another runtime.
    runtime : str
        What computes the network, with its version.
    asked_precision : str, optional
        Instead of what suits card and device; see `storm_clinic.encoders.runtimes`.
    drift : DriftWatch, optional
        Watches the first tiles where the precision is below the one that is known to serve.
    """

    card: EncoderCard
    model: torch.nn.Module
    digest: str
    device: torch.device
    run: Callable[[torch.Tensor], torch.Tensor] | None = None
    runtime: str = f"torch {torch.__version__}"
    asked_precision: Precision | None = None
    drift: DriftWatch | None = None

    @property
    def batch_size(self) -> int:
        """Tiles a batch that suit the device; on a GPU where the search for more begins."""
        return self.card.batch_size * (1 if self.device.type == "cpu" else _GPU_FACTOR)

    @property
    def precision(self) -> Precision:
        """Arithmetic in use: "bf16" (autocast; in torch on a CPU, of products alone) or "fp32"."""
        return self.asked_precision or self._usual_precision

    @property
    def needs_watch(self) -> bool:
        """Whether bf16 is used where the card does not vouch for it."""
        return self.precision == "bf16" != self._usual_precision

    @property
    def _usual_precision(self) -> Precision:
        return "fp32" if self.device.type == "cpu" else self.card.precision

    def encode(self, tiles: torch.Tensor, *, pad_to: int | None = None) -> torch.Tensor:
        """Embed a batch of tiles.

        Parameters
        ----------
        tiles : uint8 tensor, shape (b, side, side, 3)
            RGB. Sides other than the card's ``input_px`` are resized and cropped as it says.
        pad_to : int, optional
            Fill the batch up to this many tiles, so that every batch has one shape: the same tile
            then gives the same bits wherever the last, shorter batch ends.

        Returns
        -------
        float32 tensor on the CPU, shape (b, width)

        Raises
        ------
        EncoderError
            If the tiles are of another type or shape.
        """
        return self.encode_on_device(tiles, pad_to=pad_to).cpu()

    def encode_on_device(self, tiles: torch.Tensor, *, pad_to: int | None = None) -> torch.Tensor:
        """`encode`, with the embeddings left on the device, perhaps still being computed."""
        if tiles.dtype != torch.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
            raise EncoderError(
                f"tiles must be uint8 (b, side, side, 3), are {tiles.dtype} {tuple(tiles.shape)}",
                where=f"encoder {self.card.name}",
            )
        n_tiles = len(tiles)
        with torch.inference_mode():
            pixels = tiles.to(self.device, non_blocking=True)
            if pad_to is not None and n_tiles < pad_to:
                pixels = functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, pad_to - n_tiles))
            prepared = prepare(pixels, self.card)
            with self._arithmetic():
                if self.run is None:
                    embedding = embed(self.model, prepared, self.card)
                else:
                    embedding = self.run(prepared)
            embedding = embedding[:n_tiles].float()
            if self.drift is not None:
                self.drift.judge(embedding, lambda n: embed(self.model, prepared[:n], self.card))
            return embedding

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        if self.device.type == "cpu":
            return _products_in_bf16()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@contextmanager
def _products_in_bf16() -> Iterator[None]:
    """Matrix products of bf16 factors, summed and kept in fp32.

    Autocast on a CPU keeps activations in bf16, which moved embeddings twice as far.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def prepare(tiles: torch.Tensor, card: EncoderCard) -> torch.Tensor:
    """Resize, crop and normalise as a card says.

    Parameters
    ----------
    tiles : uint8 tensor, shape (b, side, side, 3)
        RGB.
    card : EncoderCard
        Says how.

    Returns
    -------
    float32 tensor, shape (b, 3, input_px, input_px)
    """
    pixels = tiles.permute(0, 3, 1, 2)  # a view: its memory stays channels-last
    if pixels.shape[2:] != (card.input_px, card.input_px):
        pixels = _resize_and_crop(pixels, card)
    # Computed in float64, so that (x - 127) / 128 has exact factors.
    factors = _column([1 / (255 * std) for std in card.std], tiles.device)
    shifts = _column([-m / s for m, s in zip(card.mean, card.std, strict=True)], tiles.device)
    order = torch.channels_last if card.channels_last else torch.contiguous_format
    return torch.addcmul(shifts, pixels.float(), factors).contiguous(memory_format=order)


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _resize_and_crop(pixels: torch.Tensor, card: EncoderCard) -> torch.Tensor:
    side, wanted = card.resized_px, card.input_px
    if pixels.shape[2] != side:
        resized = functional.interpolate(
            pixels.float(),
            size=(side, side),
            mode=card.interpolation,
            align_corners=False,
            antialias=True,
        )
        # The published pipelines resize 8-bit images: results are whole numbers from 0 to 255.
        pixels = resized.round_().clamp_(0, 255)
    start = (side - wanted) // 2
    return pixels[:, :, start : start + wanted, start : start + wanted]


def embed(model: torch.nn.Module, prepared: torch.Tensor, card: EncoderCard) -> torch.Tensor:
    """Run the network and pool its output as the card says.

    Returns
    -------
    tensor, shape (b, width)
    """
    if card.pooling == "pooled":
        pooled: torch.Tensor = (
            model(pixel_values=prepared).pooler_output
            if card.loader == "transformers" and not card.member
            else model(prepared)
        )
        return pooled
    tokens = _tokens(model, prepared, card).float()
    class_token = tokens[:, 0]
    if card.pooling == "cls":
        return class_token
    # Registers hold what the network parks outside the picture; they are not patches.
    return torch.cat([class_token, tokens[:, card.prefix_tokens :].mean(dim=1)], dim=1)


def _tokens(model: torch.nn.Module, prepared: torch.Tensor, card: EncoderCard) -> torch.Tensor:
    """All tokens after the final normalisation, shape (b, prefix + patches, d)."""
    if card.loader == "timm":
        tokens: torch.Tensor = model.forward_features(prepared)  # type: ignore[operator]
    elif card.loader == "transformers":
        tokens = model(pixel_values=prepared).last_hidden_state
    else:
        tokens = model(prepared)
    return tokens
