"""Facts that rows of the catalogue share: statistics of colour, words on licences."""

from __future__ import annotations

from typing import Any

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
HOPTIMUS: dict[str, Any] = {
    "mean": (0.707223, 0.578729, 0.703617),
    "std": (0.211883, 0.230117, 0.177517),
}
HIBOU: dict[str, Any] = {"mean": (0.7068, 0.5755, 0.7220), "std": (0.1950, 0.2316, 0.1816)}
LUNIT: dict[str, Any] = {
    "mean": (0.70322989, 0.53606487, 0.66096631),
    "std": (0.21716536, 0.26081574, 0.20723464),
}

# Tiles at half a micron ("20x") that a network of 224 px takes as they are.
TILE_224: dict[str, Any] = {"tile_px": 224, "mpp": 0.5}

SWIGLU: dict[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}

BY_NC_ND: dict[str, Any] = {"licence": "CC-BY-NC-ND-4.0", "gated": True}
DERIVED = " Its licence covers what is derived from its outputs, trained models included."
NOT_RESAMPLED = (
    "Read at 224 px, so nothing is resampled. Some toolkits read 256 px and shrink them to 224, "
    "which shows 0.571 µm/px."
)
