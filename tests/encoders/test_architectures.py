"""Networks of the catalogue against what is published of them, without their weights."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from storm_clinic.encoders.catalogue import encoder_names, find_card
from storm_clinic.encoders.encoding import embed
from storm_clinic.encoders.hub import build_model, load_encoder

# name: parameters in millions as papers and model cards give them (ViT-S 22, B 86, L 303-304,
# H 631, ViT-g/14 of Virchow's and DINOv2's kind 1.1 billion), patches of a picture of 224 px,
# token width, class and register tokens, embedding.
VITS = {
    "h0-mini": (86, 256, 768, 5, 1536),
    "h-optimus-0": (1135, 256, 1536, 5, 1536),
    "h-optimus-1": (1135, 256, 1536, 5, 1536),
    "uni": (303, 196, 1024, 1, 1024),
    "uni2-h": (681, 256, 1536, 9, 1536),
    "virchow": (631, 256, 1280, 1, 2560),
    "virchow2": (631, 256, 1280, 5, 2560),
    "prov-gigapath": (1135, 196, 1536, 1, 1536),
    "kaiko-vits16": (21.7, 196, 384, 1, 384),
    "kaiko-vits8": (21.7, 784, 384, 1, 384),
    "kaiko-vitb16": (85.8, 196, 768, 1, 768),
    "kaiko-vitb8": (85.8, 784, 768, 1, 768),
    "kaiko-vitl14": (304, 256, 1024, 5, 1024),
    "lunit-vits16": (21.7, 196, 384, 1, 384),
    "lunit-vits8": (21.7, 784, 384, 1, 384),
    "gpfm": (303, 256, 1024, 1, 1024),
}


@pytest.mark.parametrize("name", sorted(VITS))
def test_a_vit_has_the_published_size_and_gives_the_tokens_its_card_says(name):
    millions, patches, token_width, prefix_tokens, width = VITS[name]
    card = find_card(name)
    model = build_model(card)
    assert next(model.parameters()).is_meta  # gigabytes were not drawn at random
    found = sum(p.numel() for p in model.parameters()) / 1e6
    assert found == pytest.approx(millions, rel=0.01)
    assert card.parameters == pytest.approx(found, rel=0.005)  # from which memory is estimated
    tokens = model.forward_features(torch.empty(1, 3, 224, 224, device="meta"))
    assert tokens.shape == (1, patches + prefix_tokens, token_width)
    assert (card.prefix_tokens, card.width) == (prefix_tokens, width)


def test_every_encoder_that_timm_builds_alone_is_in_the_table_above():
    timm_vits = {
        name
        for name in encoder_names()
        if find_card(name).loader == "timm" and find_card(name).pooling != "pooled"
    }
    assert timm_vits == set(VITS)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        # 40 blocks; a gated feed-forward has twice the hidden width in its first layer.
        (
            "prov-gigapath",
            {
                "patch_embed.proj.weight": (1536, 3, 16, 16),
                "pos_embed": (1, 197, 1536),
                "blocks.39.mlp.fc1.weight": (8192, 1536),
                "blocks.39.mlp.fc2.weight": (1536, 4096),
                "blocks.39.ls2.gamma": (1536,),
            },
        ),
        (
            "h-optimus-0",
            {
                "patch_embed.proj.weight": (1536, 3, 14, 14),
                "reg_token": (1, 4, 1536),
                "pos_embed": (1, 256, 1536),  # of patches alone
                "blocks.39.mlp.fc1.weight": (8192, 1536),
            },
        ),
        ("uni", {"blocks.23.ls1.gamma": (1024,), "pos_embed": (1, 197, 1024)}),
        ("uni2-h", {"reg_token": (1, 8, 1536), "blocks.23.mlp.fc1.weight": (8192, 1536)}),
        ("virchow", {"pos_embed": (1, 257, 1280), "blocks.31.mlp.fc1.weight": (6832, 1280)}),
        ("gpfm", {"pos_embed": (1, 257, 1024), "blocks.23.ls1.gamma": (1024,)}),
        # Trained at 518 px, 37 x 37 patches; shown 224.
        ("kaiko-vitl14", {"pos_embed": (1, 1369, 1024), "reg_token": (1, 4, 1024)}),
        ("lunit-vits8", {"pos_embed": (1, 785, 384), "patch_embed.proj.weight": (384, 3, 8, 8)}),
    ],
)
def test_tensors_have_the_published_names_and_shapes(name, tensors):
    state = build_model(find_card(name)).state_dict()
    assert {key: tuple(state[key].shape) for key in tensors} == tensors


@pytest.mark.parametrize("name", sorted(VITS))
def test_pooling_takes_class_and_patch_tokens_and_no_register(name, shrunk, random_state):
    card = shrunk(name)
    model = build_model(card)
    model.load_state_dict(random_state(card), assign=True)
    model.eval()
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found = embed(model, pixels, card)
        tokens = model.forward_features(pixels)
    class_token, patches = tokens[:, 0], tokens[:, -VITS[name][1] :]
    doubled = VITS[name][4] == 2 * VITS[name][2]
    expected = torch.cat([class_token, patches.mean(1)], 1) if doubled else class_token
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["kaiko-vits16", "kaiko-vitb16"])
def test_full_size_weights_load_from_a_folder_and_embed_as_by_hand(name, tmp_path, random_tiles):
    import timm

    card = find_card(name)
    torch.manual_seed(2)
    original = timm.create_model(card.architecture, num_classes=0).eval()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    encoder = load_encoder(card, weights=tmp_path, device="cpu")
    pixels = random_tiles[:1].permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    with torch.inference_mode():
        expected = original.forward_features((pixels - mean) / std)[:, 0]
    torch.testing.assert_close(encoder.encode(random_tiles[:1]), expected, atol=1e-4, rtol=1e-4)


# ---- transformers ------------------------------------------------------------------------------


def _config(name, **changes):
    """The published architecture of an encoder that transformers builds."""
    import transformers

    if name == "phikon":
        return transformers.ViTConfig(**changes)  # its defaults are ViT-B/16
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    giant = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
    facts = {
        "phikon-v2": {**large, "patch_size": 16, "image_size": 224},
        "midnight-12k": {**giant, "patch_size": 14, "image_size": 224, "use_swiglu_ffn": True},
    }[name]
    return transformers.Dinov2Config(**(facts | changes))


@pytest.mark.parametrize(("name", "width"), [("phikon", 768), ("phikon-v2", 1024)])
def test_transformers_encoders_give_the_class_token(name, width):
    card, config = find_card(name), _config(name)
    assert (card.pooling, card.prefix_tokens, card.width) == ("cls", 1, width)
    assert config.hidden_size == width


def test_midnight_gives_class_token_and_mean():
    card = find_card("midnight-12k")
    assert (card.pooling, card.width) == ("cls+mean", 2 * _config("midnight-12k").hidden_size)


@pytest.mark.parametrize("name", ["phikon", "phikon-v2", "midnight-12k"])
def test_the_card_states_the_parameters_of_a_transformers_network(name):
    import transformers

    card, config = find_card(name), _config(name)
    kind = getattr(transformers, card.architecture)
    with torch.device("meta"):
        if card.architecture == "AutoModel":
            model = kind.from_config(config)
        else:
            model = kind(config, **card.arguments)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert card.parameters == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("name", ["phikon", "phikon-v2", "midnight-12k"])
def test_a_small_transformers_network_of_a_row_loads_and_pools(name, tmp_path, random_tiles):
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(4)
    config = _config(name, **small)
    if name == "phikon":
        original = transformers.ViTModel(config, add_pooling_layer=False)
    else:
        original = transformers.Dinov2Model(config)
    original.eval().save_pretrained(tmp_path)
    doubled = name == "midnight-12k"
    card = dataclasses.replace(find_card(name), width=64 if doubled else 32)
    encoder = load_encoder(card, weights=tmp_path, device="cpu")
    pixels = random_tiles.permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    with torch.inference_mode():
        tokens = original(pixel_values=(pixels - mean) / std).last_hidden_state
    expected = tokens[:, 0]
    if doubled:
        expected = torch.cat([expected, tokens[:, -256:].mean(1)], 1)
    torch.testing.assert_close(encoder.encode(random_tiles), expected, atol=1e-4, rtol=1e-4)


# ---- networks with convolutions ----------------------------------------------------------------


def _ctranspath_file():
    """Random weights under the names of the published file, and of a network that has the stem."""
    from torchvision.models import swin_t

    torch.manual_seed(6)
    reference = swin_t().eval()
    for parameter in reference.parameters():
        # Of a size at which every block matters and no signal dies or explodes.
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.08)
    stem = {
        "0.weight": torch.randn(12, 3, 3, 3),
        "3.weight": torch.randn(24, 12, 3, 3) * 0.2,
        "6.weight": torch.randn(96, 24, 1, 1) * 0.2,
        "6.bias": torch.randn(96),
        **{f"1.{part}": torch.rand(12) + 0.5 for part in ("weight", "bias", "running_mean")},
        **{f"4.{part}": torch.rand(24) + 0.5 for part in ("weight", "bias", "running_mean")},
        "1.running_var": torch.rand(12) + 0.5,
        "4.running_var": torch.rand(24) + 0.5,
        "1.num_batches_tracked": torch.tensor(9),
        "4.num_batches_tracked": torch.tensor(9),
    }
    norm = {"weight": torch.rand(96) + 0.5, "bias": torch.randn(96)}
    published = {f"patch_embed.proj.{key}": value for key, value in stem.items()}
    published |= {f"patch_embed.norm.{key}": value for key, value in norm.items()}
    published |= _published_names(reference.state_dict())
    published |= {"head.weight": torch.zeros(3, 768), "head.bias": torch.zeros(3)}
    return reference, stem, norm, published


def _published_names(state):
    """Torchvision's Swin-T under the names of the patched timm 0.5.4."""
    named = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "norm":
            named[key] = value
        elif parts[0] == "features" and int(parts[1]) % 2 == 1:  # 1, 3, 5, 7: the stages
            rest = ".".join(parts[3:]).replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
            named[f"layers.{int(parts[1]) // 2}.blocks.{parts[2]}.{rest}"] = value
        elif parts[0] == "features" and parts[1] != "0":  # 2, 4, 6: halving, at a stage's end
            named[f"layers.{int(parts[1]) // 2 - 1}.downsample.{'.'.join(parts[2:])}"] = value
    return named


def test_ctranspath_equals_torchvisions_swin_behind_the_stem_written_out(tmp_path, random_tiles):
    from torch.nn import functional

    reference, stem, norm, published = _ctranspath_file()
    torch.save({"model": published}, tmp_path / "ctranspath.pth")
    card = find_card("ctranspath")
    encoder = load_encoder(card, weights=tmp_path / "ctranspath.pth", device="cpu")

    random_tiles[1] //= 4  # darker, so that the two tiles differ
    pixels = random_tiles[:2].permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    x = (pixels - mean) / std
    with torch.inference_mode():
        for conv, bn in (("0", "1"), ("3", "4")):
            x = functional.conv2d(x, stem[f"{conv}.weight"], stride=2, padding=1)
            shift = [stem[f"{bn}.{part}"][:, None, None] for part in ("running_mean", "bias")]
            scale = [stem[f"{bn}.{part}"][:, None, None] for part in ("running_var", "weight")]
            x = ((x - shift[0]) / (scale[0] + 1e-5).sqrt() * scale[1] + shift[1]).relu()
        x = functional.conv2d(x, stem["6.weight"], stem["6.bias"]).permute(0, 2, 3, 1)
        x = functional.layer_norm(x, (96,), norm["weight"], norm["bias"])
        expected = reference.norm(reference.features[1:](x)).mean((1, 2))
    torch.testing.assert_close(encoder.encode(random_tiles[:2]), expected, atol=1e-4, rtol=1e-4)
    assert expected.shape == (2, 768)
    assert (expected[0] - expected[1]).abs().max() > 0.01


def test_tables_that_ctranspaths_file_holds_and_the_network_computes_are_left_out():
    from storm_clinic.encoders.swin_conv_stem import from_published

    given = ("layers.0.blocks.1.attn_mask", "layers.0.blocks.0.attn.relative_position_index")
    kept = "layers.0.blocks.0.attn.relative_position_bias_table"
    state = dict.fromkeys((*given, kept, "head.bias"), torch.zeros(1))
    assert list(from_published(state)) == [kept]


def test_resnet50_gives_its_last_stage_and_needs_no_classifier(tmp_path, random_tiles):
    from torchvision.models import resnet50

    torch.manual_seed(8)
    original = resnet50().eval()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    encoder = load_encoder("resnet50-imagenet", weights=tmp_path, device="cpu")
    original.fc = torch.nn.Identity()
    pixels = random_tiles[:1].permute(0, 3, 1, 2) / 255
    card = encoder.card
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    with torch.inference_mode():
        expected = original((pixels - mean) / std)
    torch.testing.assert_close(encoder.encode(random_tiles[:1]), expected, atol=1e-3, rtol=1e-3)


# ---- CONCH -------------------------------------------------------------------------------------


@pytest.fixture
def conch_package(tmp_path, monkeypatch):
    """A stand-in for the authors' package: the same module, class, method and configuration."""
    folder = tmp_path / "site" / "conch" / "open_clip_custom"
    (folder / "model_configs").mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    config = {"embed_dim": 512, "custom_text": True}
    (folder / "model_configs" / "conch_ViT-B-16.json").write_text(json.dumps(config))
    (folder / "coca_model.py").write_text(
        "import torch\n"
        "class CoCa(torch.nn.Module):\n"
        "    def __init__(self, embed_dim):\n"
        "        super().__init__()\n"
        "        self.visual = torch.nn.Linear(3, embed_dim)\n"
        "        self.text = torch.nn.Linear(2, 2)\n"
        "    def encode_image(self, image, normalize=True, proj_contrast=True):\n"
        "        assert image.shape[1:] == (3, 448, 448)\n"
        "        assert not normalize and not proj_contrast\n"
        "        return self.visual(image.mean((2, 3)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "conch"]:
        del sys.modules[name]


def test_conch_is_asked_for_the_embedding_before_projection(conch_package, tmp_path):
    state = {
        "visual.weight": torch.randn(512, 3),
        "visual.bias": torch.randn(512),
        "text.weight": torch.zeros(2, 2),
        "text.bias": torch.zeros(2),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    encoder = load_encoder("conch", weights=tmp_path, device="cpu")
    white = torch.full((1, 448, 448, 3), 255, dtype=torch.uint8)
    pixel = (1 - torch.tensor(encoder.card.mean)) / torch.tensor(encoder.card.std)
    expected = state["visual.weight"] @ pixel + state["visual.bias"]
    torch.testing.assert_close(encoder.encode(white)[0], expected, atol=1e-4, rtol=1e-4)


def test_conch_without_its_package_says_how_to_get_it(tmp_path):
    from storm_clinic.errors import EncoderError

    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pip install git.*mahmoodlab/CONCH"):
        load_encoder("conch", weights=tmp_path, device="cpu")
