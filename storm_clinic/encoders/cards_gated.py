"""Encoders whose weights lie behind terms: Bioptimus, Mahmood Lab, Paige, Prov-GigaPath."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storm_clinic.encoders.card_facts import (
    BY_NC_ND,
    CLIP,
    DERIVED,
    HOPTIMUS,
    IMAGENET,
    NOT_RESAMPLED,
    SWIGLU,
    TILE_224,
)
from storm_clinic.encoders.contract import EncoderCard, State

if TYPE_CHECKING:
    import torch

_UNI_PAPER = "Chen et al., Nat. Med. 2024, 10.1038/s41591-024-02857-3"

_H_OPTIMUS: dict[str, Any] = {
    "loader": "timm",
    "architecture": "vit_giant_patch14_reg4_dinov2",
    "arguments": {
        "img_size": 224,
        "init_values": 1e-5,
        "num_classes": 0,
        "dynamic_img_size": False,
    },
    "pooling": "cls",
    "prefix_tokens": 5,
    "width": 1536,
    "interpolation": "bicubic",
    "parameters": 1134.8,
    **TILE_224,
    **HOPTIMUS,
}
_H_OPTIMUS_NOTES = (
    "Published for tiles of 224 px, which are not resized; the authors run fp16, this package bf16."
)

BIOPTIMUS = (
    EncoderCard(
        name="h0-mini",
        loader="timm",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments={
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
            "num_classes": 0,
            "global_pool": "",
            **SWIGLU,
        },
        hub_id="bioptimus/H0-mini",
        interpolation="bicubic",
        pooling="cls+mean",
        prefix_tokens=5,
        width=1536,
        parameters=85.7,
        citation="Filiot et al. 2025, arXiv 2501.16239",
        notes=(
            "Toolkits differ: 768 (class token) or 1536. Here 1536; the first 768 are the class "
            "token." + DERIVED
        ),
        **TILE_224,
        **HOPTIMUS,
        **BY_NC_ND,
    ),
    EncoderCard(
        name="h-optimus-0",
        hub_id="bioptimus/H-optimus-0",
        licence="Apache-2.0",
        citation="Saillard et al. 2024, github.com/bioptimus/releases",
        notes=(
            _H_OPTIMUS_NOTES + " Whether the hub asks for terms is disputed: the stored card does "
            "not, another toolkit lists it as gated."
        ),
        **_H_OPTIMUS,
    ),
    EncoderCard(
        name="h-optimus-1",
        hub_id="bioptimus/H-optimus-1",
        citation="Bioptimus 2025, huggingface.co/bioptimus/H-optimus-1",
        notes=_H_OPTIMUS_NOTES + " There is no paper." + DERIVED,
        **BY_NC_ND,
        **_H_OPTIMUS,
    ),
)


def _build_conch() -> torch.nn.Module:
    from storm_clinic.encoders import conch

    return conch.build()


def _conch_state(state: State) -> State:
    from storm_clinic.encoders import conch

    return conch.from_published(state)


MAHMOOD_LAB = (
    EncoderCard(
        name="uni",
        loader="timm",
        architecture="vit_large_patch16_224",
        arguments={"init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
        hub_id="MahmoodLab/UNI",
        pooling="cls",
        prefix_tokens=1,
        width=1024,
        parameters=303.4,
        citation=_UNI_PAPER,
        notes=NOT_RESAMPLED + DERIVED,
        **TILE_224,
        **IMAGENET,
        **BY_NC_ND,
    ),
    EncoderCard(
        name="uni2-h",
        loader="timm",
        architecture="vit_giant_patch14_224",
        arguments={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "num_classes": 0,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **SWIGLU,
        },
        hub_id="MahmoodLab/UNI2-h",
        pooling="cls",
        prefix_tokens=9,
        width=1536,
        parameters=681.4,
        citation=_UNI_PAPER,
        notes=NOT_RESAMPLED + DERIVED,
        **TILE_224,
        **IMAGENET,
        **BY_NC_ND,
    ),
    EncoderCard(
        name="conch",
        loader=_build_conch,
        convert=_conch_state,
        needs=("conch",),
        install="pip install git+https://github.com/mahmoodlab/CONCH",
        hub_id="MahmoodLab/CONCH",
        files=("pytorch_model.bin",),
        tile_px=448,
        mpp=0.5,
        input_px=448,
        interpolation="bicubic",
        pooling="pooled",
        width=512,
        precision="fp32",
        citation="Lu et al., Nat. Med. 2024, 10.1038/s41591-024-02856-4",
        notes=(
            "The attention-pooled embedding before the projection to text, as its authors advise "
            "for slides; one toolkit gives the projected one, which is 512 wide too. Normalised "
            "with CLIP's statistics, unlike CONCH v1.5. Read at 448 px, so nothing is resampled; "
            "another toolkit reads 512 px and shrinks them." + DERIVED
        ),
        **CLIP,
        **BY_NC_ND,
    ),
    EncoderCard(
        name="conch-v1.5",
        loader="transformers",
        remote_code=True,
        member="return_conch",
        needs=("transformers", "einops", "einops_exts"),
        install="pip install 'storm-clinic[models]' einops einops-exts",
        hub_id="MahmoodLab/TITAN",
        tile_px=512,
        mpp=0.5,
        input_px=448,
        pooling="pooled",
        width=768,
        citation="Ding et al. 2024, arXiv 2411.19666",
        notes=(
            "Its network comes with TITAN's repository. 512 px at 0.5 µm/px are shrunk to 448, "
            "which shows 0.571 µm/px, as its maintainers do; another toolkit reads 448 px. "
            "Bilinear here, bicubic in one toolkit. ImageNet's statistics, unlike CONCH." + DERIVED
        ),
        **IMAGENET,
        **BY_NC_ND,
    ),
)

_VIRCHOW: dict[str, Any] = {
    "img_size": 224,
    "init_values": 1e-5,
    "mlp_ratio": 5.3375,
    "num_classes": 0,
    "global_pool": "",
    "dynamic_img_size": True,
    **SWIGLU,
}
PAIGE = (
    EncoderCard(
        name="virchow",
        loader="timm",
        architecture="vit_huge_patch14_224",
        arguments=_VIRCHOW,
        hub_id="paige-ai/Virchow",
        gated=True,
        interpolation="bicubic",
        pooling="cls+mean",
        prefix_tokens=1,
        width=2560,
        parameters=631.2,
        licence="Apache-2.0 with additional terms",
        citation="Vorontsov et al., Nat. Med. 2024, 10.1038/s41591-024-03141-0",
        notes=(
            "Class token and mean of patches, 2560; some toolkits keep the class token alone, "
            "1280. There are no registers. The licence file is Apache-2.0, but the hub asks for "
            "further terms: read them."
        ),
        **TILE_224,
        **IMAGENET,
    ),
    EncoderCard(
        name="virchow2",
        loader="timm",
        architecture="vit_huge_patch14_224",
        arguments=_VIRCHOW | {"reg_tokens": 4},
        hub_id="paige-ai/Virchow2",
        interpolation="bicubic",
        pooling="cls+mean",
        prefix_tokens=5,
        width=2560,
        parameters=631.2,
        citation="Zimmermann et al. 2024, arXiv 2408.00738",
        notes=(
            "Trained at 0.25, 0.5, 1 and 2 µm/px. The mean is over patch tokens only: four "
            "register tokens follow the class token." + DERIVED
        ),
        **TILE_224,
        **IMAGENET,
        **BY_NC_ND,
    ),
)

GIGAPATH = (
    EncoderCard(
        name="prov-gigapath",
        loader="timm",
        architecture="vit_giant_patch14_dinov2",
        arguments={
            "img_size": 224,
            "patch_size": 16,
            "init_values": 1e-5,
            "num_classes": 0,
        },
        hub_id="prov-gigapath/prov-gigapath",
        gated=True,
        files=("pytorch_model.bin",),
        tile_px=256,
        mpp=0.5,
        resize_px=256,
        interpolation="bicubic",
        pooling="cls",
        prefix_tokens=1,
        width=1536,
        parameters=1134.9,
        licence="Apache-2.0, research use only",
        citation="Xu et al., Nature 2024, 10.1038/s41586-024-07441-w",
        notes=(
            "256 px are read and the central 224 shown, so 0.5 µm/px stays, as on the authors' "
            "card; timm's own configuration and one toolkit shrink the whole tile (0.571). The "
            "patch is 16 px in spite of timm's name for the network. The file says Apache-2.0, but "
            "any deployed use is declared out of scope."
        ),
        **IMAGENET,
    ),
)
