"""Encoders with convolutions: ImageNet baselines, CTransPath and its successor in CHIEF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storm_clinic.encoders import efficientnet_lite
from storm_clinic.encoders.card_facts import IMAGENET, TILE_224
from storm_clinic.encoders.contract import EncoderCard, State

if TYPE_CHECKING:
    import torch


def _without_classifier(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


BASELINES = (
    EncoderCard(
        name="efficientnet-lite0",
        loader="timm",
        architecture="tf_efficientnet_lite0",
        arguments={"num_classes": 0},
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        interpolation="bicubic",
        pooling="pooled",
        width=1280,
        parameters=3.4,
        packaged=efficientnet_lite.find_weights,
        convert=efficientnet_lite.to_timm,
        licence="Apache-2.0",
        citation="Tan and Le, ICML 2019, arXiv 1905.11946",
        precision="fp32",
        channels_last=True,
        notes=(
            "Trained on ImageNet, not on histology: for demonstrations and as a baseline. Its mpp "
            "is our choice. Pixels are normalised as (x - 127) / 128, as in the original code; the "
            "PyPI package's own example shows ImageNet's mean and std. The whole tile is shown, "
            "without the crop of ImageNet's evaluation. fp32 on a GPU too: bf16 moved embeddings "
            "of real tiles to a centred cosine of 0.98."
        ),
        **TILE_224,
    ),
    EncoderCard(
        name="resnet50-imagenet",
        loader="timm",
        architecture="resnet50",
        arguments={"num_classes": 0},
        hub_id="timm/resnet50.tv_in1k",
        convert=_without_classifier,
        pooling="pooled",
        width=2048,
        parameters=23.5,
        licence="not stated for the weights",
        citation="He et al., CVPR 2016, arXiv 1512.03385",
        precision="fp32",
        channels_last=True,
        notes=(
            "Trained on ImageNet, not on histology: a baseline. The average of the last stage, "
            "2048, as its authors pool; pipelines after CLAM take the third stage, 1024. Its mpp "
            "is our choice."
        ),
        **TILE_224,
        **IMAGENET,
    ),
)


def _build_swin() -> torch.nn.Module:
    from storm_clinic.encoders import swin_conv_stem

    return swin_conv_stem.build()


def _swin_state(state: State) -> State:
    from storm_clinic.encoders import swin_conv_stem

    return swin_conv_stem.from_published(state)


_SWIN: dict[str, Any] = {
    "loader": _build_swin,
    "convert": _swin_state,
    "needs": ("timm",),
    "pooling": "pooled",
    "width": 768,
    "parameters": 27.5,
    "precision": "fp32",
    **IMAGENET,
}
_SWIN_NOTES = (
    " Its network, a Swin-T with a convolutional stem, is built on today's timm instead of the "
    "authors' patched 0.5.4; tested with random weights under the published names, not with the "
    "published file. Two different files go by the name CTransPath: the digest of the weights in "
    "every feature store tells them apart."
)
CTRANSPATH = (
    EncoderCard(
        name="ctranspath",
        home="the authors' file ctranspath.pth (github.com/Xiyue-Wang/TransPath)",
        tile_px=224,
        mpp=1.0,
        licence="GPL-3.0, non-commercial academic use",
        citation="Wang et al., Med. Image Anal. 2022, 10.1016/j.media.2022.102559",
        notes="Wants about 1 µm/px, not 0.5: so its authors advise." + _SWIN_NOTES,
        **_SWIN,
    ),
    EncoderCard(
        name="chief-ctranspath",
        home="the authors' file CHIEF_CTransPath.pth (github.com/hms-dbmi/CHIEF)",
        tile_px=256,
        mpp=1.0,
        licence="AGPL-3.0",
        citation="Wang et al., Nature 2024, 10.1038/s41586-024-07894-z",
        notes=(
            "256 px at 1 µm/px shrunk to 224, which shows 1.143. The licence file says AGPL-3.0, "
            "the README GPLv3." + _SWIN_NOTES
        ),
        **_SWIN,
    ),
)
