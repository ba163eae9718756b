"""What is known about an encoder before its weights are opened. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from storm_clinic.errors import EncoderError
from storm_clinic.files import safe_name

if TYPE_CHECKING:
    import torch

Loader = Literal["timm", "transformers"]
Pooling = Literal["pooled", "cls", "cls+mean"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["bf16", "fp32"]
State = dict[str, "torch.Tensor"]
Colour = tuple[float, float, float]

# As the hub's own libraries name and prefer them.
PUBLISHED = ("model.safetensors", "pytorch_model.bin")
INSTALL = "pip install 'storm-clinic[models]'"


class Published(Protocol):
    """What `EncoderCard` and `SlideEncoderCard` share: where a network and its weights come from.

    See `EncoderCard` for the meaning of each.
    """

    @property
    def name(self) -> str: ...
    @property
    def loader(self) -> Loader | Callable[[], torch.nn.Module]: ...
    @property
    def architecture(self) -> str: ...
    @property
    def arguments(self) -> Mapping[str, Any]: ...
    @property
    def prefix_tokens(self) -> int: ...
    @property
    def hub_id(self) -> str | None: ...
    @property
    def gated(self) -> bool: ...
    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def home(self) -> str | None: ...
    @property
    def remote_code(self) -> bool: ...
    @property
    def member(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def install(self) -> str: ...
    @property
    def parameters(self) -> float: ...
    @property
    def packaged(self) -> Callable[[], Path] | None: ...
    @property
    def convert(self) -> Callable[[State], State] | None: ...
    @property
    def licence(self) -> str: ...


def needed_modules(card: Published) -> tuple[str, ...]:
    """Modules without which an encoder cannot be built, torch first."""
    if card.needs:
        return ("torch", *card.needs)
    return ("torch",) if callable(card.loader) else ("torch", card.loader)


@dataclass(frozen=True)
class EncoderCard:
    """The facts of one encoder: where it comes from, what it wants to see, what it gives.

    Attributes
    ----------
    name : str
        Also the name of its feature stores.
    loader : "timm", "transformers" or a function
        Which library builds the network. A function takes nothing and returns a
        ``torch.nn.Module`` whose weights are still to be filled in; called with (b, 3, h, w), it
        must give (b, width), or tokens (b, n, d) where ``pooling`` is not ``pooled``.
    architecture : str
        timm's name of the network, or the class in transformers (``AutoModel`` fits most).
    arguments : mapping
        Passed on when the network is built; the name of a layer class of timm may stand for it.
    tile_px : int
        Side of a tile as it is read.
    mpp : float
        Microns per pixel of a tile as it is read.
    mean, std : three floats
        Of red, green, blue on a scale of 0 to 1.
    pooling : str
        Which output is the embedding: ``pooled`` is the network's own pooled output (in
        transformers ``pooler_output``), ``cls`` the class token, ``cls+mean`` the class token
        followed by the mean of the patch tokens.
    prefix_tokens : int
        Class and register tokens before the first patch token; 0 where the network pools itself.
    width : int
        Length of the embedding.
    licence : str
        Of the weights, as their authors name it.
    citation : str
    input_px : int
        Side of the picture that the network gets. Tiles of another side are resized to
        ``resize_px`` and cropped to this about their centre.
    resize_px : int, optional
        Default: ``input_px``.
    interpolation : str
        Of that resizing.
    hub_id : str, optional
        Repository on the Hugging Face hub.
    gated : bool
        Whether terms must be accepted there before files can be fetched.
    files : tuple of str
        Names that the weights may have in that repository, the preferred one first.
    home : str, optional
        Where weights come from that are not on the hub, in words.
    remote_code : bool
        Whether the network exists only as Python files beside the weights. They run only from a
        folder on this machine and with consent; see `storm_clinic.encoders.remote_code`.
    member : str
        Method of that network that returns the encoder proper, where it is part of a larger one.
    needs : tuple of str
        Modules that must be importable, beside torch; default: the loader's.
    install : str
        How to get them.
    parameters : float
        Parameters of the network in millions; 0 where nobody has counted.
    packaged : function, optional
        Returns the path of the weights that an installed Python package brings.
    convert : function, optional
        Renames the tensors of the published file to those of the network built here.
    precision : "bf16" or "fp32"
        Arithmetic on a GPU. On a CPU it is fp32 unless another is asked for.
    channels_last : bool
        Memory order in which a convolutional network is fastest.
    batch_size : int
        Tiles a batch on a CPU. On a GPU the search for the largest batch that fits starts at
        eight times as many; see `storm_clinic.encoders.tuning`.
    notes : str
        Where sources disagree, and what was decided.

    Raises
    ------
    EncoderError
        If a field contradicts another.
    """

    name: str
    loader: Loader | Callable[[], torch.nn.Module]
    tile_px: int
    mpp: float
    mean: Colour
    std: Colour
    pooling: Pooling
    width: int
    licence: str
    citation: str
    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prefix_tokens: int = 0
    input_px: int = 224
    resize_px: int | None = None
    interpolation: Interpolation = "bilinear"
    hub_id: str | None = None
    gated: bool = False
    files: tuple[str, ...] = PUBLISHED
    home: str | None = None
    remote_code: bool = False
    member: str = ""
    needs: tuple[str, ...] = ()
    install: str = INSTALL
    parameters: float = 0.0
    packaged: Callable[[], Path] | None = None
    convert: Callable[[State], State] | None = None
    precision: Precision = "bf16"
    channels_last: bool = False
    batch_size: int = 16
    notes: str = ""

    def __post_init__(self) -> None:
        safe_name(self.name, what="encoder")
        problem = self._problem()
        if problem:
            raise EncoderError(problem, where=f"encoder {self.name}")

    def _problem(self) -> str | None:
        if min(self.tile_px, self.input_px, self.width, self.batch_size) < 1 or self.mpp <= 0:
            return "tile_px, input_px, mpp, width and batch_size must be positive"
        if self.resized_px < self.input_px:
            return f"resize_px ({self.resize_px}) must not be below input_px ({self.input_px})"
        if min(self.std) <= 0:
            return f"std must be positive, is {self.std}"
        if not callable(self.loader) and not self.architecture and self.loader == "timm":
            return "timm needs the name of an architecture"
        if self.remote_code and self.loader != "transformers":
            return "code beside the weights is run through transformers only"
        if (self.pooling == "pooled") != (self.prefix_tokens == 0):
            return f"pooling {self.pooling!r} does not go with {self.prefix_tokens} prefix tokens"
        return None

    @property
    def resized_px(self) -> int:
        """Side to which a tile is resized before the crop."""
        return self.resize_px or self.input_px

    def shown_mpp(self, tile_px: int, mpp: float) -> float:
        """Microns per pixel of the picture that the network gets, after resizing.

        A tile whose side is ``input_px`` is not touched.
        """
        return mpp if tile_px == self.input_px else mpp * tile_px / self.resized_px
