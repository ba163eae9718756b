"""Which program computes an encoder's network: torch, ONNX Runtime or OpenVINO.

torch is the default, and what is installed besides does not change that: a feature file's numbers
follow from the command and the versions. Another runtime is used where it is asked for, and only
after it was seen to give the same numbers, but for rounding of fp32. Nothing is chosen by a clock,
which would choose differently on the next machine; what is faster was measured beforehand, by
``benchmarks/encoder_speed.py``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal, cast, get_args

import torch

from storm_clinic.encoders.contract import EncoderCard, Precision
from storm_clinic.encoders.drift import DriftWatch
from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.onnx_network import export, for_onnxruntime, for_openvino
from storm_clinic.errors import EncoderError, InputError

Runtime = Literal["torch", "onnxruntime", "openvino"]
RUNTIMES = (*get_args(Runtime), "auto")
PRECISIONS = get_args(Precision)
INSTALL = "pip install 'storm-clinic[fast]'"

# Largest difference that counts as the same, of the largest value: float16 keeps 5e-4.
LARGEST_DIFFERENCE = 1e-5
_CHECKED_TILES = 4


@dataclass(frozen=True)
class ChosenRuntime:
    """What computes the network, and where it is not what was wished for, why.

    Attributes
    ----------
    runtime : str
        Name and version, as feature files state it.
    runtime_note : str or None
    """

    runtime: str
    runtime_note: str | None = None


def use_runtime(
    loaded: LoadedEncoder,
    runtime: str = "torch",
    *,
    precision: str | None = None,
    batch_size: int | None = None,
) -> tuple[LoadedEncoder, ChosenRuntime]:
    """Have an encoder's network computed by a runtime.

    Parameters
    ----------
    loaded : LoadedEncoder
        As `load_encoder` gives it.
    runtime : str
        "torch", "onnxruntime", "openvino", or "auto": on a CPU what is known to be fastest and is
        installed, that is ONNX Runtime for convolutional networks in fp32, OpenVINO in bf16, torch
        for the rest.
    precision : str, optional
        "fp32" or "bf16"; default: what the card says on a GPU, fp32 on a CPU. Embeddings of real
        tiles must stay close to those of fp32, see `storm_clinic.encoders.drift`.
    batch_size : int, optional
        Tiles a batch that the network is prepared for; default: the encoder's.

    Raises
    ------
    InputError
        If runtime or precision are none of these.
    EncoderError
        If the runtime is not installed, works on CPUs only, cannot run this network or gives other
        numbers; "auto" then keeps torch and says why in the note.
    """
    _require_one_of("runtime", runtime, RUNTIMES)
    if precision is not None:
        _require_one_of("precision", precision, PRECISIONS)
        loaded = replace(loaded, asked_precision=cast(Precision, precision))
    if loaded.precision == "bf16" and loaded.device.type == "cpu":
        _require_bf16(loaded.card)
    wanted = _fastest(loaded) if runtime == "auto" else runtime
    if wanted == "torch":
        return loaded, ChosenRuntime(loaded.runtime)
    try:
        other = _prepared(loaded, wanted, batch_size or loaded.batch_size)
    except EncoderError as error:
        if runtime != "auto":
            raise
        return loaded, ChosenRuntime(loaded.runtime, f"not {wanted}: {error.problem}")
    return other, ChosenRuntime(other.runtime)


def watched(loaded: LoadedEncoder) -> LoadedEncoder:
    """The encoder with a `DriftWatch`, where it computes in bf16 and its card does not say so."""
    return replace(loaded, drift=DriftWatch(loaded.card.name)) if loaded.needs_watch else loaded


def _require_one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"must be one of {', '.join(known)}, is {value!r}", where=what)


def _require_bf16(card: EncoderCard) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise EncoderError(
            "this processor does not multiply in bf16",
            where=f"encoder {card.name}",
            fix="Use --precision fp32.",
        )


def _fastest(loaded: LoadedEncoder) -> str:
    """As measured on CPUs; see ``benchmarks/RESULTS.md``."""
    if loaded.device.type != "cpu":
        return "torch"
    if loaded.precision == "bf16":
        return "openvino"
    return "onnxruntime" if loaded.card.channels_last else "torch"


def _prepared(loaded: LoadedEncoder, runtime: str, batch_size: int) -> LoadedEncoder:
    where = f"encoder {loaded.card.name}"
    if loaded.device.type != "cpu":
        raise EncoderError(
            f"{runtime} is used on CPUs only, the device is {loaded.device}",
            where=where,
            fix="Use --runtime torch, or --device cpu.",
        )
    missing = [name for name in ("onnx", runtime) if importlib.util.find_spec(name) is None]
    if missing:
        raise EncoderError(f"{' and '.join(missing)} not installed", where=where, fix=INSTALL)
    try:
        run = _network_of(loaded, runtime, batch_size)
    # The libraries' own errors share no class; what they say is handed on.
    except Exception as error:
        raise EncoderError(
            f"{runtime} cannot run this network: {type(error).__name__}: {str(error)[:500]}",
            where=where,
            fix="Use --runtime torch.",
        ) from error
    other = replace(loaded, run=run, runtime=f"{runtime} {version(runtime)}")
    if other.precision == "fp32":
        _require_same(loaded, other)
    return other


def _network_of(
    loaded: LoadedEncoder, runtime: str, batch_size: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    network = export(loaded.model, loaded.card, batch_size)
    if runtime == "onnxruntime":
        if loaded.precision != "fp32":
            raise ValueError("it computes in fp32 only")
        return for_onnxruntime(network, batch_size)
    return for_openvino(network, batch_size, loaded.precision)


def _require_same(loaded: LoadedEncoder, other: LoadedEncoder) -> None:
    """Hold a runtime against torch on coarse noise, a blank tile and a black one."""
    side = loaded.card.tile_px
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_CHECKED_TILES, 3, 14, 14, generator=generator)
    noise = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear").mul(255)
    tiles = noise.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    tiles[0], tiles[1] = 255, 0
    expected = loaded.encode(tiles)
    difference = float((other.encode(tiles) - expected).abs().max() / expected.abs().max())
    if not difference <= LARGEST_DIFFERENCE:
        raise EncoderError(
            f"{other.runtime} gives other numbers than torch: they differ by {difference:.2g} of "
            f"the largest, {LARGEST_DIFFERENCE:g} is allowed",
            where=f"encoder {loaded.card.name}",
            fix="Use --runtime torch.",
        )
