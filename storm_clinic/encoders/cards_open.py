"""Encoders whose weights are open to fetch: Owkin, Kaiko, Hibou, Lunit, GPFM."""

from __future__ import annotations

from typing import Any

from storm_clinic.encoders.card_facts import HALF, HIBOU, IMAGENET, LUNIT, TILE_224
from storm_clinic.encoders.contract import EncoderCard

_OWKIN_NOTES = (
    " Shown as it is read: at 224 px neither the hub's image processor nor a toolkit resizes. The "
    "licence covers results as well."
)
OWKIN = (
    EncoderCard(
        name="phikon",
        loader="transformers",
        architecture="ViTModel",
        arguments={"add_pooling_layer": False},
        hub_id="owkin/phikon",
        pooling="cls",
        prefix_tokens=1,
        width=768,
        parameters=85.8,
        precision="fp32",
        licence="Owkin non-commercial",
        citation="Filiot et al. 2023, medRxiv 2023.07.21.23292757",
        notes="The class token, without the pooling layer of ViTModel." + _OWKIN_NOTES,
        **TILE_224,
        **IMAGENET,
    ),
    EncoderCard(
        name="phikon-v2",
        loader="transformers",
        architecture="AutoModel",
        hub_id="owkin/phikon-v2",
        pooling="cls",
        prefix_tokens=1,
        width=1024,
        parameters=303.4,
        precision="fp32",
        licence="Owkin non-commercial",
        citation="Filiot et al. 2024, arXiv 2409.09173",
        notes="The hub names the licence 'other'; the text is Owkin's." + _OWKIN_NOTES,
        **TILE_224,
        **IMAGENET,
    ),
)

_HUB_KAIKO = "1aurent/{}.kaiko_ai_towards_large_pathology_fms"


def _kaiko(
    name: str, architecture: str, published: str, width: int, millions: float, **changes: Any
) -> EncoderCard:
    facts: dict[str, Any] = {
        "arguments": {"num_classes": 0, "dynamic_img_size": True},
        "prefix_tokens": 1,
    }
    return EncoderCard(
        name=name,
        loader="timm",
        architecture=architecture,
        hub_id=_HUB_KAIKO.format(published),
        pooling="cls",
        width=width,
        parameters=millions,
        precision="fp32",
        licence="Kaiko non-commercial",
        citation="Kaiko.ai 2024, arXiv 2404.15217",
        notes=(
            "The authors resize to 224 px, so 224 px are read and nothing is resampled; one "
            "toolkit reads 256 px (0.571 µm/px shown). Which µm/px it was trained at is not "
            "stated; 0.5 is the toolkits' choice. An early card of the hub's copy said Apache-2.0, "
            "corrected to non-commercial."
        ),
        **TILE_224,
        **HALF,
        **(facts | changes),
    )


KAIKO = (
    _kaiko("kaiko-vits16", "vit_small_patch16_224", "vit_small_patch16_224", 384, 21.7),
    _kaiko("kaiko-vits8", "vit_small_patch8_224", "vit_small_patch8_224", 384, 21.7),
    _kaiko("kaiko-vitb16", "vit_base_patch16_224", "vit_base_patch16_224", 768, 85.8),
    _kaiko("kaiko-vitb8", "vit_base_patch8_224", "vit_base_patch8_224", 768, 85.8),
    _kaiko(
        "kaiko-vitl14",
        "vit_large_patch14_reg4_dinov2",
        "vit_large_patch14_reg4_224",
        1024,
        304.4,
        arguments={"img_size": 518, "num_classes": 0, "dynamic_img_size": True},
        prefix_tokens=5,
    ),
    EncoderCard(
        name="midnight-12k",
        loader="transformers",
        architecture="AutoModel",
        hub_id="kaiko-ai/midnight",
        pooling="cls+mean",
        prefix_tokens=1,
        width=3072,
        parameters=1136.5,
        licence="MIT",
        citation="Karasikov et al. 2025, arXiv 2504.05186",
        notes=(
            "Class token and mean of patches, 3072; one toolkit's code keeps the class token, "
            "1536. Trained at 0.25, 0.5, 1 and 2 µm/px. Whether the hub asks for terms is "
            "disputed; the authors say no."
        ),
        **TILE_224,
        **HALF,
    ),
)


def _hibou(name: str, hub_id: str, width: int) -> EncoderCard:
    return EncoderCard(
        name=name,
        loader="transformers",
        remote_code=True,
        hub_id=hub_id,
        gated=True,
        interpolation="bicubic",
        pooling="pooled",
        width=width,
        licence="Apache-2.0",
        citation="Nechaev et al. 2024, arXiv 2406.05074",
        notes=(
            "The embedding is pooler_output, as on the authors' card; its patch tokens, which one "
            "toolkit takes registers and all, are not used. Its µm/px is not stated; 0.5 is the "
            "toolkits' choice. Whether the hub asks for terms is disputed."
        ),
        **TILE_224,
        **HIBOU,
    )


HISTAI = (
    _hibou("hibou-b", "histai/hibou-b", 768),
    _hibou("hibou-l", "histai/hibou-L", 1024),
)


def _lunit(patch_px: int) -> EncoderCard:
    return EncoderCard(
        name=f"lunit-vits{patch_px}",
        loader="timm",
        architecture=f"vit_small_patch{patch_px}_224",
        arguments={"num_classes": 0},
        hub_id=f"1aurent/vit_small_patch{patch_px}_224.lunit_dino",
        interpolation="bicubic",
        pooling="cls",
        prefix_tokens=1,
        width=384,
        parameters=21.7,
        precision="fp32",
        licence="Lunit public licence, non-commercial",
        citation="Kang et al., CVPR 2023, arXiv 2212.04690",
        notes=(
            "Normalised with Lunit's own statistics, to which the authors point; the hub's "
            "configuration and toolkits that follow it use ImageNet's. The numbers are second-hand "
            "(the release notes were not seen). Trained on patches of 512 px; the authors' "
            "network takes 224 px, and 0.5 µm/px is the toolkits' choice. No resize to 248 px and "
            "crop, as in the hub's configuration: 224 px are shown whole."
        ),
        **TILE_224,
        **LUNIT,
    )


LUNIT_DINO = (_lunit(8), _lunit(16))

GPFM = (
    EncoderCard(
        name="gpfm",
        loader="timm",
        architecture="vit_large_patch14_dinov2",
        arguments={"img_size": 224, "init_values": 1e-5, "num_classes": 0},
        hub_id="majiabo/GPFM",
        files=("GPFM.pth",),
        tile_px=512,
        mpp=0.25,
        interpolation="bicubic",
        pooling="cls",
        prefix_tokens=1,
        width=1024,
        parameters=303.2,
        precision="fp32",
        licence="CC-BY-NC-ND-4.0",
        citation="Ma et al., Nat. Biomed. Eng. 2025, 10.1038/s41551-025-01488-4",
        notes=(
            "The authors read 512 px at level 0 of a 40x slide (128 µm) and shrink them to 224 px, "
            "which shows 0.571 µm/px; toolkits read 112 µm. Three licences are named: the "
            "strictest, of the authors' repository, is given here (the hub's early card says "
            "CC-BY-NC-4.0, a toolkit MIT)."
        ),
        **IMAGENET,
    ),
)
