"""An encoder's network handed to ONNX Runtime or OpenVINO, in memory: no file is read or left."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from storm_clinic.encoders.contract import EncoderCard, Precision
from storm_clinic.encoders.encoding import embed

_OPSET = 17  # the first with layer normalisation as one operation
_Floats = NDArray[np.float32]


class FixedBatch:
    """Runs a network that takes just ``batch_size`` tiles on any number of them.

    Parameters
    ----------
    infer : function
        Takes float32 (batch_size, 3, side, side), gives (batch_size, width).
    batch_size : int
        Shorter batches are filled with zeros, longer ones cut into several.
    """

    def __init__(self, infer: Callable[[_Floats], _Floats], batch_size: int) -> None:
        self._infer = infer
        self.batch_size = batch_size

    def __call__(self, prepared: torch.Tensor) -> torch.Tensor:
        pixels = np.ascontiguousarray(prepared.numpy())
        found = [
            self._whole(pixels[first : first + self.batch_size])
            for first in range(0, len(pixels), self.batch_size)
        ]
        return torch.from_numpy(np.concatenate(found))

    def _whole(self, pixels: _Floats) -> _Floats:
        n_tiles = len(pixels)
        missing = self.batch_size - n_tiles
        return self._infer(np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0))))[:n_tiles]


class _Embedding(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.model, self.card = model, card

    def forward(self, prepared: torch.Tensor) -> torch.Tensor:
        return embed(self.model, prepared, self.card)


def export(model: torch.nn.Module, card: EncoderCard, batch_size: int) -> bytes:
    """The network with its weights and pooling as ONNX, for batches of one size.

    Raises
    ------
    ImportError, RuntimeError, ValueError, TypeError
        If the package onnx is missing, or torch cannot export this network; above 2 GB none can.
    """
    side = card.input_px
    example = torch.zeros(batch_size, 3, side, side)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # This exporter is called old, and says that shapes become constants: that is wanted.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            # In evaluation mode like what it wraps: the exporter leaves every part in the mode
            # of the whole, and normalisation by batch would from then on be that of training.
            _Embedding(model, card).eval(),
            (example,),
            buffer,  # type: ignore[arg-type]  # the stub forgets that this exporter takes it
            dynamo=False,
            opset_version=_OPSET,
            input_names=["pixels"],
            output_names=["embedding"],
        )
    return buffer.getvalue()


def for_onnxruntime(network: bytes, batch_size: int) -> FixedBatch:
    """Run an exported network with ONNX Runtime, in fp32, on as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # Threads that wait for work would take the cores of those that read tiles.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def infer(pixels: _Floats) -> _Floats:
        found: _Floats = session.run(["embedding"], {"pixels": pixels})[0]
        return found

    return FixedBatch(infer, batch_size)


def for_openvino(network: bytes, batch_size: int, precision: Precision) -> FixedBatch:
    """Run an exported network with OpenVINO, on as many threads as torch uses."""
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": "1",
    }
    compiled = core.compile_model(core.read_model(network), "CPU", settings)
    request = compiled.create_infer_request()

    def infer(pixels: _Floats) -> _Floats:
        # A copy: the request's own memory is overwritten by the next batch.
        found: _Floats = np.array(request.infer([pixels])[compiled.output(0)], dtype=np.float32)
        return found

    return FixedBatch(infer, batch_size)
