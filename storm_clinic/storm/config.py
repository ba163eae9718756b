"""How large a STORM network is, and what it is fed. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from storm_clinic.errors import CheckpointError

Modality = Literal["image", "expression"]
MODALITIES: tuple[Modality, ...] = ("image", "expression")
Size = Literal["tiny", "small", "base"]
GeneEncoding = Literal["mlp", "linear", "novae"]


@dataclass(frozen=True, kw_only=True)
class StormConfig:
    """The shape of a network; with it and a file of weights the network can be built again.

    Attributes
    ----------
    width : int
        Length of a token and of every embedding that comes out.
    n_layers, n_heads : int
    image_width : int
        Length of an image embedding that goes in.
    n_genes : int
        Size of the vocabulary.
    pitch_um : float
        The length, in µm, that counts as one step in the distance bias: neighbours of the spots
        that the network is for lie one pitch apart.
    gene_hidden, gene_width : int
        Widths of the gene encoder: inner, and of the embedding of a spot's expression; the latter
        is also that of Novae's embeddings.
    experts : "modality" or "one"
        Feed-forward networks of each block: one a modality, or one for both (an ablation).
    alibi : bool
        Whether attention falls with distance. Without it nothing tells places apart.
    dropout : float
        In training, on what each half of a block adds.
    image_axes : int
        On how many principal axes of the training embeddings the network sees an image; embeddings
        then come scaled slide by slide (`image_scale.scale_slide`). 0: raw embeddings, all numbers.
    readout : float
        In pitches. A spot is read out as the mean of its context's last tokens, each weighted by
        exp(-distance / readout): neighbours share tissue, and 25 looks at it err less than one.
        0: the middle token alone.
    gene_encoder : "mlp", "linear" or "novae"
        What makes a token of expression: the gene encoder, one linear layer on the raw vector (an
        ablation), or one on what a frozen Novae says of the spot.

    Raises
    ------
    CheckpointError
        If a number cannot be.
    """

    width: int
    n_layers: int
    n_heads: int
    image_width: int
    n_genes: int
    pitch_um: float
    gene_hidden: int = 128
    gene_width: int = 64
    experts: Literal["modality", "one"] = "modality"
    alibi: bool = True
    dropout: float = 0.0
    image_axes: int = 0
    readout: float = 0.0
    gene_encoder: GeneEncoding = "mlp"

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise CheckpointError(problem, where="configuration of STORM")

    def _problem(self) -> str | None:
        for name in _COUNTS:
            value = getattr(self, name)
            most = _MOST_LAYERS if name == "n_layers" else _MOST
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                return f"{name} must be a whole number from 1 to {most}, is {value!r}"
        if self.width % self.n_heads:
            return f"width ({self.width}) must be a multiple of n_heads ({self.n_heads})"
        if not 0 < self.pitch_um < float("inf"):
            return f"pitch_um must be a length, is {self.pitch_um!r}"
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed or type(value) is not type(allowed[0]):
                return f"{name} must be one of {allowed}, is {value!r}"
        axes = self.image_axes
        if isinstance(axes, bool) or not isinstance(axes, int) or not 0 <= axes <= self.image_width:
            return f"image_axes must be from 0 to image_width ({self.image_width}), is {axes!r}"
        if not 0 <= self.readout < float("inf"):
            return f"readout must be a number of pitches from 0, is {self.readout!r}"
        if not 0 <= self.dropout < 1:
            return f"dropout must be from 0 to below 1, is {self.dropout!r}"
        return None

    @classmethod
    def of_size(
        cls, size: Size, *, image_width: int, n_genes: int, pitch_um: float, **others: Any
    ) -> StormConfig:
        """One of the three named sizes; ``others`` are further fields."""
        if size not in _SIZES:
            raise CheckpointError(
                f"there is no size {size!r}: {', '.join(_SIZES)}", where="configuration of STORM"
            )
        sizes: dict[str, Any] = dict(
            zip(("width", "n_layers", "n_heads"), _SIZES[size], strict=True)
        )
        return cls(**sizes, image_width=image_width, n_genes=n_genes, pitch_um=pitch_um, **others)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StormConfig:
        """What `to_json` gave.

        Raises
        ------
        CheckpointError
            If a field is missing or unknown, or a number cannot be.
        """
        names = {field.name for field in fields(cls)}
        odd, missing = sorted(value.keys() - names), sorted(names - value.keys())
        if odd or missing:
            raise CheckpointError(
                f"unknown fields {odd}, missing fields {missing}", where="configuration of STORM"
            )
        return cls(**value)


_MOST, _MOST_LAYERS = 1_000_000, 1_000  # far beyond any real network
_COUNTS = ("width", "n_layers", "n_heads", "image_width", "n_genes", "gene_hidden", "gene_width")
_CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {"experts": ("modality", "one"), "alibi": (True, False), "gene_encoder": get_args(GeneEncoding)}
)
# (width, layers, heads). The paper gives tiny and base; small is ours, between them.
_SIZES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"tiny": (128, 3, 4), "small": (384, 4, 6), "base": (768, 6, 12)}
)
