from __future__ import annotations

import dataclasses
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from storm_clinic.encoders.catalogue import find_card
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.hub import choose_device, load_encoder
from storm_clinic.errors import EncoderError

VITS = ("h0-mini", "uni2-h", "virchow2")


@pytest.fixture
def checkpoint(shrunk, random_state, tmp_path):
    """A shrunk UNI2-h and its checkpoint's tensors, by name."""
    card = shrunk("uni2-h")
    return card, random_state(card)


@pytest.mark.parametrize("name", VITS)
def test_a_checkpoint_of_the_same_architecture_loads_from_a_folder(
    name, shrunk, random_state, random_tiles, tmp_path
):
    card = shrunk(name)
    state = random_state(card)
    save_file(state, tmp_path / "model.safetensors")
    encoder = load_encoder(card, weights=tmp_path, device="cpu")
    assert all(torch.equal(encoder.model.state_dict()[key], state[key]) for key in state)
    assert encoder.encode(random_tiles).shape == (3, card.width)


def test_safetensors_and_pytorch_files_give_the_same_encoder(checkpoint, random_tiles, tmp_path):
    card, state = checkpoint
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.bin")
    names = ("weights.safetensors", "weights.pth", "wrapped.bin")
    loaded = [load_encoder(card, weights=tmp_path / name, device="cpu") for name in names]
    assert len({encoder.digest for encoder in loaded}) == 1
    first, *others = (encoder.encode(random_tiles) for encoder in loaded)
    assert all(torch.equal(first, other) for other in others)


def test_the_digest_sees_names_shapes_types_and_values(checkpoint, tmp_path):
    from storm_clinic.encoders.weights import weights_digest

    _, state = checkpoint
    name = "blocks.0.attn.qkv.weight"
    tensor = state[name]
    nudged = tensor.clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(9.0))
    variants = [
        state,
        {**state, name: nudged},
        {**state, name: tensor.T.contiguous()},
        {**state, name: tensor.double()},
        {("renamed" if key == name else key): value for key, value in state.items()},
    ]
    assert len({weights_digest(variant) for variant in variants}) == len(variants)
    assert weights_digest(dict(reversed(state.items()))) == weights_digest(state)


def test_half_precision_weights_compute_in_single_precision(checkpoint, random_tiles, tmp_path):
    card, state = checkpoint
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "model.safetensors")
    encoder = load_encoder(card, weights=tmp_path, device="cpu")
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}


def _without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "blocks.1.attn.qkv.weight"), "1 missing: blocks.1.attn.qkv.weight"),
        (lambda s: {**s, "head.weight": torch.zeros(2)}, "1 unexpected: head.weight"),
        (
            lambda s: {**s, "cls_token": torch.zeros(1, 1, 7)},
            r"1 of another shape: cls_token \(1, 1, 7\) instead of \(1, 1, 48\)",
        ),
        (lambda s: _without(s, "reg_token"), "1 missing: reg_token"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_which_tensors(checkpoint, tmp_path, change, message):
    card, state = checkpoint
    save_file(change(state), tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=message):
        load_encoder(card, weights=tmp_path, device="cpu")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_checkpoint_is_named(checkpoint, tmp_path, suffix):
    card, state = checkpoint
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(EncoderError, match=rf"weights{suffix}: cannot be read"):
        load_encoder(card, weights=path, device="cpu")


@pytest.mark.parametrize("content", [b"", b"<html>Access denied</html>", b"\x80\x04."])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_file_that_is_no_checkpoint_is_named(checkpoint, tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(EncoderError, match=f"weights{suffix}"):
        load_encoder(checkpoint[0], weights=path, device="cpu")


class _Payload:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card, state = checkpoint
    torch.save({**state, "payload": _Payload()}, tmp_path / "weights.pth")
    (tmp_path / "weights.bin").write_bytes(pickle.dumps({"payload": _Payload()}))
    for name in ("weights.pth", "weights.bin"):
        with pytest.raises(EncoderError, match="could run code and is refused"):
            load_encoder(card, weights=tmp_path / name, device="cpu")
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_with_more_than_tensors_is_refused(checkpoint, tmp_path):
    card, state = checkpoint
    torch.save({**state, "epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match="more than tensors: 'epoch' is int"):
        load_encoder(card, weights=tmp_path / "weights.pth", device="cpu")


def test_weights_with_nan_are_refused(checkpoint, tmp_path):
    card, state = checkpoint
    state["norm.weight"] = state["norm.weight"] * float("nan")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match="not finite"):
        load_encoder(card, weights=tmp_path, device="cpu")


def test_a_folder_must_make_clear_which_file_it_means(checkpoint, tmp_path):
    card, state = checkpoint
    with pytest.raises(EncoderError, match="holds no weights"):
        load_encoder(card, weights=tmp_path, device="cpu")
    for name in ("one.pth", "two.pth"):
        torch.save(state, tmp_path / name)
    with pytest.raises(EncoderError, match=r"holds one\.pth, two\.pth: which"):
        load_encoder(card, weights=tmp_path, device="cpu")
    with pytest.raises(EncoderError, match="no such file"):
        load_encoder(card, weights=tmp_path / "three.pth", device="cpu")


def test_a_network_that_contradicts_its_card_is_refused(checkpoint, tmp_path):
    card, state = checkpoint
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=r"shape \(48,\), its card says 99"):
        load_encoder(dataclasses.replace(card, width=99), weights=tmp_path, device="cpu")
    with pytest.raises(EncoderError, match="9 prefix tokens, its card says 5"):
        load_encoder(dataclasses.replace(card, prefix_tokens=5), weights=tmp_path, device="cpu")


# ---- the hub -----------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty hub cache, with HF_HUB_OFFLINE in force (the library reads it once, on import)."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def _cached_snapshot(cache: Path, hub_id: str) -> Path:
    """A repository's folder in the cache, laid out as the hub's library does."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return snapshot


@pytest.mark.parametrize("name", VITS)
def test_weights_out_of_reach_say_where_they_come_from_and_what_to_do(name, hub_cache):
    card = find_card(name)
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, device="cpu")
    message = str(caught.value)
    assert f"https://huggingface.co/{card.hub_id}" in message
    assert card.licence in message
    assert "accept its terms" in message
    assert "--weights" in message


@pytest.mark.parametrize("file_name", ["model.safetensors", "pytorch_model.bin"])
def test_offline_the_cache_of_the_hub_is_enough(checkpoint, hub_cache, random_tiles, file_name):
    card, state = checkpoint
    path = _cached_snapshot(hub_cache, card.hub_id) / file_name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    encoder = load_encoder(card, device="cpu")
    assert encoder.encode(random_tiles).shape == (3, card.width)


def test_a_gate_that_is_closed_says_that_terms_must_be_accepted(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(repo_id, name):
        response = SimpleNamespace(headers={}, request=None)
        raise GatedRepoError("403 Client Error", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(EncoderError, match="terms are not accepted for this account") as caught:
        load_encoder("uni2-h", device="cpu")
    assert "hf auth login" in str(caught.value)


def test_an_encoder_without_a_source_asks_for_its_weights():
    card = dataclasses.replace(find_card("uni2-h"), hub_id=None)
    with pytest.raises(EncoderError, match="must be named"):
        load_encoder(card, device="cpu")


# ---- transformers ------------------------------------------------------------------------------


def _transformers_card(architecture: str, prefix_tokens: int, **changes) -> EncoderCard:
    return EncoderCard(
        name="small",
        loader="transformers",
        architecture=architecture,
        prefix_tokens=prefix_tokens,
        hub_id="nobody/small",
        tile_px=56,
        input_px=56,
        mpp=0.5,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        pooling="cls+mean",
        width=64,
        licence="MIT",
        citation="none",
        **changes,
    )


def _save_transformers_model(kind: str, folder: Path) -> torch.nn.Module:
    import transformers

    torch.manual_seed(1)
    common = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 56,
        "patch_size": 14,
    }
    if kind == "ViTModel":
        model = transformers.ViTModel(transformers.ViTConfig(**common), add_pooling_layer=False)
    else:
        config = transformers.Dinov2WithRegistersConfig(**common, num_register_tokens=4)
        model = transformers.Dinov2WithRegistersModel(config)
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("architecture", "prefix_tokens", "arguments"),
    [("ViTModel", 1, {"add_pooling_layer": False}), ("AutoModel", 5, {})],
)
def test_a_transformers_model_loads_from_a_local_folder(
    architecture, prefix_tokens, arguments, tmp_path
):
    original = _save_transformers_model(architecture, tmp_path)
    card = _transformers_card(architecture, prefix_tokens, arguments=arguments)
    encoder = load_encoder(card, weights=tmp_path, device="cpu")

    tiles = torch.randint(0, 256, (2, 56, 56, 3), dtype=torch.uint8)
    pixels = tiles.permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(card.mean)[:, None, None]) / torch.tensor(card.std)[
        :, None, None
    ]
    with torch.inference_mode():
        tokens = original(pixel_values=pixels).last_hidden_state
    # 56 px are 4 x 4 patches of 14 px; what comes before them is the class token and registers.
    expected = torch.cat([tokens[:, 0], tokens[:, -16:].mean(1)], dim=1)
    torch.testing.assert_close(encoder.encode(tiles), expected, atol=1e-5, rtol=1e-5)


def test_a_transformers_model_loads_by_hub_id_from_the_cache(hub_cache):
    snapshot = _cached_snapshot(hub_cache, "nobody/small")
    _save_transformers_model("ViTModel", snapshot)
    card = _transformers_card("ViTModel", 1, arguments={"add_pooling_layer": False})
    assert load_encoder(card, device="cpu").encode(
        torch.zeros(1, 56, 56, 3, dtype=torch.uint8)
    ).shape == (1, 64)


def test_a_transformers_folder_without_configuration_is_an_error(tmp_path):
    _save_transformers_model("ViTModel", tmp_path)
    (tmp_path / "config.json").unlink()
    card = _transformers_card("ViTModel", 1)
    with pytest.raises(EncoderError, match=r"holds no config\.json"):
        load_encoder(card, weights=tmp_path, device="cpu")


# ---- other loaders and devices -----------------------------------------------------------------


def test_a_function_may_build_the_network(tmp_path):
    class Colour(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.empty(3))

        def forward(self, pixels):
            return pixels.mean((2, 3)) * self.gain

    save_file({"gain": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "model.safetensors")
    card = EncoderCard(
        name="colour",
        loader=Colour,
        tile_px=8,
        input_px=8,
        mpp=0.5,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        pooling="pooled",
        width=3,
        licence="MIT",
        citation="none",
    )
    encoder = load_encoder(card, weights=tmp_path, device="cpu")
    white = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    torch.testing.assert_close(encoder.encode(white), torch.tensor([[1.0, 2.0, 3.0]]))


def test_a_network_with_buffers_outside_its_checkpoint_computes_them(tmp_path):
    class Shift(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.empty(3))
            self.register_buffer("shift", torch.arange(3.0), persistent=False)

        def forward(self, pixels):
            return pixels.mean((2, 3)) * self.gain + self.shift

    save_file({"gain": torch.ones(3)}, tmp_path / "model.safetensors")
    card = dataclasses.replace(
        _transformers_card("", 1), loader=Shift, pooling="pooled", prefix_tokens=0, width=3
    )
    encoder = load_encoder(card, weights=tmp_path, device="cpu")
    assert encoder.model.shift.tolist() == [0, 1, 2]


def test_a_device_that_is_not_there_is_named():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(EncoderError, match="no device is called 'tpu9'"):
        choose_device("tpu9")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        n_gpus = torch.cuda.device_count()
    with pytest.raises(EncoderError, match=f"shows {n_gpus} GPU"):
        choose_device(f"cuda:{n_gpus}")
