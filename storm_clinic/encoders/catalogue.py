"""The encoders that are known by name: a table of facts, and those that other packages add."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from storm_clinic.encoders import efficientnet_lite
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.errors import EncoderError
from storm_clinic.study import did_you_mean

ENTRY_POINTS = "storm_clinic.encoders"

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HOPTIMUS_MEAN, _HOPTIMUS_STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}

_CARDS = (
    EncoderCard(
        name="efficientnet-lite0",
        loader="timm",
        architecture="tf_efficientnet_lite0",
        arguments={"num_classes": 0},
        tile_px=224,
        mpp=0.5,
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        interpolation="bicubic",
        pooling="pooled",
        width=1280,
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
    ),
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
            **_SWIGLU,
        },
        hub_id="bioptimus/H0-mini",
        gated=True,
        tile_px=224,
        mpp=0.5,
        mean=_HOPTIMUS_MEAN,
        std=_HOPTIMUS_STD,
        interpolation="bicubic",
        pooling="cls+mean",
        prefix_tokens=5,
        width=1536,
        licence="CC-BY-NC-ND-4.0",
        citation="Filiot et al. 2025, arXiv 2501.16239",
        notes=(
            "Toolkits differ: 768 (class token) or 1536. Here 1536; the first 768 are the class "
            "token. Its licence covers what is derived from its outputs, trained models included."
        ),
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
            **_SWIGLU,
        },
        hub_id="MahmoodLab/UNI2-h",
        gated=True,
        tile_px=224,
        mpp=0.5,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        pooling="cls",
        prefix_tokens=9,
        width=1536,
        licence="CC-BY-NC-ND-4.0",
        citation="Chen et al., Nat. Med. 2024, 10.1038/s41591-024-02857-3",
        notes=(
            "Read at 224 px, so nothing is resampled. Some toolkits read 256 px and shrink them "
            "to 224, which shows 0.571 µm/px. Its licence covers what is derived from its outputs, "
            "trained models included."
        ),
    ),
    EncoderCard(
        name="virchow2",
        loader="timm",
        architecture="vit_huge_patch14_224",
        arguments={
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.3375,
            "reg_tokens": 4,
            "num_classes": 0,
            "global_pool": "",
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        hub_id="paige-ai/Virchow2",
        gated=True,
        tile_px=224,
        mpp=0.5,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        interpolation="bicubic",
        pooling="cls+mean",
        prefix_tokens=5,
        width=2560,
        licence="CC-BY-NC-ND-4.0",
        citation="Zimmermann et al. 2024, arXiv 2408.00738",
        notes=(
            "Trained at 0.25, 0.5, 1 and 2 µm/px. The mean is over patch tokens only: four "
            "register tokens follow the class token. Its licence covers what is derived from its "
            "outputs, trained models included."
        ),
    ),
)
_BY_NAME = {card.name: card for card in _CARDS}


def encoder_names() -> list[str]:
    """Names of all encoders, built in or added by installed packages, sorted."""
    return sorted({*_BY_NAME, *(point.name for point in _added())})


def find_card(name: str) -> EncoderCard:
    """The facts of an encoder.

    A package adds one by an entry point of the group ``storm_clinic.encoders`` whose name is the
    encoder's and whose object is a function without arguments that returns an `EncoderCard`.

    Raises
    ------
    EncoderError
        If no encoder has that name, two packages claim it, or the function does not do that.
    """
    points = [point for point in _added() if point.name == name]
    owners = (["storm_clinic"] if name in _BY_NAME else []) + [_owner(point) for point in points]
    if len(owners) > 1:
        raise EncoderError(
            f"claimed by {' and '.join(owners)}",
            where=f"encoder {name}",
            fix="Uninstall one of them.",
        )
    if not owners:
        raise EncoderError(
            f"no encoder is called {name!r}{did_you_mean(name, encoder_names())}", where="encoder"
        )
    return _BY_NAME[name] if name in _BY_NAME else _card_from(points[0])


def _added() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINTS))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _card_from(point: EntryPoint) -> EncoderCard:
    where = f"encoder {point.name} of {_owner(point)}"
    try:
        card = point.load()()
    except EncoderError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise EncoderError(
            f"cannot be loaded: {type(error).__name__}: {error}",
            where=where,
            fix="Repair or uninstall that package.",
        ) from error
    if not isinstance(card, EncoderCard) or card.name != point.name:
        raise EncoderError(
            f"its function must return an EncoderCard named {point.name!r}, returned {card!r:.80}",
            where=where,
        )
    return card
