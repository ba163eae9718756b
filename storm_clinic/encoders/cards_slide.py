"""Encoders of whole slides that take tile features: TITAN, PRISM, Prov-GigaPath, CHIEF."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from storm_clinic.encoders.card_facts import BY_NC_ND, DERIVED
from storm_clinic.encoders.contract import State
from storm_clinic.encoders.slide_contract import SlideEncoderCard, SlideTiles

if TYPE_CHECKING:
    import torch


def _titan(network: Any, tiles: SlideTiles) -> torch.Tensor:
    embedding: torch.Tensor = network.encode_slide_from_patch_features(
        tiles.features, tiles.coords, tiles.pitch
    )
    return embedding.reshape(1, -1)


def _prism(network: Any, tiles: SlideTiles) -> torch.Tensor:
    embedding: torch.Tensor = network.slide_representations(tiles.features)["image_embedding"]
    return embedding.reshape(1, -1)


def _gigapath(network: Any, tiles: SlideTiles) -> torch.Tensor:
    if tiles.coords is None:
        raise ValueError("Prov-GigaPath needs coordinates")
    # Without all_layer_embed the list has one entry: the last layer.
    layers: list[torch.Tensor] = network(tiles.features, tiles.coords.float())
    return layers[-1].reshape(1, -1)


def _build_gigapath() -> torch.nn.Module:
    from gigapath import slide_encoder

    # Its own loader of weights unpickles; only its network is used. It prints while it is built.
    with redirect_stdout(sys.stderr):
        network: torch.nn.Module = slide_encoder.gigapath_slide_enc12l768d(
            in_chans=1536, global_pool=False
        )
    return network


def _chief(network: Any, tiles: SlideTiles) -> torch.Tensor:
    embedding: torch.Tensor = network(tiles.features)
    return embedding


def _build_chief() -> torch.nn.Module:
    from storm_clinic.encoders import chief

    return chief.Aggregator()


def _chief_state(state: State) -> State:
    from storm_clinic.encoders import chief

    return chief.from_published(state)


SLIDE_CARDS = (
    SlideEncoderCard(
        name="titan",
        loader="transformers",
        remote_code=True,
        apply=_titan,
        needs=("transformers", "einops", "einops_exts"),
        install="pip install 'storm-clinic[models]' einops einops-exts",
        tile_encoder="conch-v1.5",
        tile_width=768,
        tile_px=512,
        mpp=0.5,
        coordinates="level0",
        pooling="encode_slide_from_patch_features",
        width=768,
        hub_id="MahmoodLab/TITAN",
        citation="Ding et al. 2025, 10.1038/s41591-025-03982-3",
        notes=(
            "Takes corners in level-0 px and the distance between neighbours in the same px: 1024 "
            "for tiles of 512 px at 0.5 µm/px on a slide of 0.25, 512 on one of 0.5. transformers "
            "5 may refuse its code, and its card exists in two states, preview and final." + DERIVED
        ),
        **BY_NC_ND,
    ),
    SlideEncoderCard(
        name="prism",
        loader="transformers",
        remote_code=True,
        apply=_prism,
        needs=("transformers", "environs", "sacremoses"),
        install="pip install 'storm-clinic[models]' environs sacremoses",
        tile_encoder="virchow",
        tile_width=2560,
        tile_px=224,
        mpp=0.5,
        coordinates="none",
        pooling="slide_representations image_embedding",
        width=1280,
        hub_id="paige-ai/Prism",
        citation="Shaikovski et al. 2024, arXiv 2405.10254",
        notes=(
            "Takes Virchow's 2560 values (class token and mean of patches) and no coordinates. "
            "transformers 5 may refuse its code; a toolkit pins 4.42.4." + DERIVED
        ),
        **BY_NC_ND,
    ),
    SlideEncoderCard(
        name="prov-gigapath-slide",
        loader=_build_gigapath,
        apply=_gigapath,
        needs=("gigapath", "flash_attn"),
        install=(
            "pip install git+https://github.com/prov-gigapath/prov-gigapath flash-attn "
            "(needs a GPU of NVIDIA)"
        ),
        tile_encoder="prov-gigapath",
        tile_width=1536,
        tile_px=256,
        mpp=0.5,
        coordinates="cells",
        pooling="class token of the last layer",
        width=768,
        hub_id="prov-gigapath/prov-gigapath",
        gated=True,
        files=("slide_encoder.pth",),
        licence="Apache-2.0, research use only",
        citation="Xu et al., Nature 2024, 10.1038/s41586-024-07441-w",
        notes=(
            "The class token, as its README and default give; a comment in the authors' demo says "
            "it was not trained in pre-training, a maintainer's reply calls it fine, and two "
            "toolkits average the tiles. The last layer, as in the authors' pipeline; one toolkit "
            "takes the last but one. Coordinates are pixels at 0.5 µm/px, a cell of the grid for "
            "each 256; toolkits that hand over level-0 px spread or squeeze the slide. float32, "
            "because float16 is inexact above 2048."
        ),
    ),
    SlideEncoderCard(
        name="chief",
        loader=_build_chief,
        convert=_chief_state,
        apply=_chief,
        needs=(),
        tile_encoder="chief-ctranspath",
        tile_width=768,
        tile_px=256,
        mpp=1.0,
        coordinates="none",
        pooling="attention-weighted mean of tiles",
        width=768,
        parameters=0.66,
        precision="fp32",
        home="the authors' file CHIEF_pretraining.pth (github.com/hms-dbmi/CHIEF)",
        licence="AGPL-3.0",
        citation="Wang et al., Nature 2024, 10.1038/s41586-024-07894-z",
        notes=(
            "WSI_feature of the authors' code: the mean of the input under its attention. The "
            "anatomic site, which their code asks for, does not enter it. Its tiles come from the "
            "CTransPath of CHIEF, not from the earlier one. The licence file says AGPL-3.0, the "
            "README GPLv3."
        ),
    ),
)
