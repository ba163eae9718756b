"""How much faster do other runtimes encode tiles than torch in fp32, and what do they change?

    python benchmarks/encoder_speed.py --tiles IMAGE [--repeats 5]

IMAGE is a picture of H&E tissue that Pillow opens; tiles of 224 px that are mostly tissue are cut
from it. One thread, whole calls of `encode` from uint8 to float32, all ways interleaved. The peer
is torch in fp32 as a network comes: eager, contiguous memory. EfficientNet-Lite0 has its published
weights; the ViT-S is drawn at random, which changes no arithmetic, but embeddings of a random
network lie close together, so that its drift is only an indication of a trained one's.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
from measuring import interleaved, section, table
from PIL import Image
from safetensors.torch import save_file

from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.drift import LEAST_CENTRED_COSINE, centred_cosine
from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.encoders.hub import build_model, load_encoder
from storm_clinic.encoders.runtimes import use_runtime
from storm_clinic.errors import EncoderError

PEER = "torch fp32, eager, contiguous"
OURS = (
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("torch", "bf16"),
    ("openvino", "bf16"),
)
SIDE = 224


def tissue_tiles(path: Path, count: int) -> torch.Tensor:
    """uint8 (count, 224, 224, 3), spread over the tissue of a picture."""
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    grid = pixels[: height * SIDE, : width * SIDE].reshape(height, SIDE, width, SIDE, 3)
    tiles = grid.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    tissue = tiles[tiles.mean(axis=(1, 2, 3)) < 215]
    return torch.from_numpy(tissue[np.linspace(0, len(tissue) - 1, count).astype(int)])


def random_vit(architecture: str, width: int, folder: Path) -> LoadedEncoder:
    """A ViT of timm with weights as timm draws them, through the package's own loading."""
    import timm

    card = EncoderCard(
        name=architecture,
        loader="timm",
        architecture=architecture,
        arguments={"num_classes": 0},
        tile_px=SIDE,
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        pooling="cls",
        prefix_tokens=1,
        width=width,
        licence="none",
        citation="none",
    )
    torch.manual_seed(0)
    drawn = timm.create_model(architecture, num_classes=0).state_dict()
    path = folder / f"{architecture}.safetensors"
    save_file({name: drawn[name].contiguous() for name in build_model(card).state_dict()}, path)
    return load_encoder(card, weights=path, device="cpu")


def plain(loaded: LoadedEncoder) -> LoadedEncoder:
    """The same weights in contiguous memory, as a loop over a DataLoader would use them."""
    card = dataclasses.replace(loaded.card, channels_last=False)
    model = build_model(loaded.card).to_empty(device="cpu").eval()
    model.load_state_dict(loaded.model.state_dict())
    model = model.to(memory_format=torch.contiguous_format)
    return dataclasses.replace(loaded, card=card, model=model)


def measure(loaded: LoadedEncoder, tiles: torch.Tensor, repeats: int) -> list[str]:
    size = len(tiles)
    ways = {PEER: plain(loaded)}
    problems = []
    for runtime, precision in OURS:
        name = f"{runtime} {precision}"
        try:
            ways[name], _ = use_runtime(loaded, runtime, precision=precision, batch_size=size)
        except EncoderError as error:
            problems.append(f"{name}: {error.problem}")
    calls = {name: lambda way=way: way.encode(tiles, pad_to=size) for name, way in ways.items()}
    timings = interleaved(calls, repetitions=repeats)
    exact = ways[PEER].encode(tiles)
    rows = []
    for name, way in ways.items():
        if name == PEER:
            continue
        found = way.encode(tiles)
        reached = centred_cosine(found, exact)
        worst = float(reached.min())
        rows.append(
            (
                name,
                way.runtime,
                timings.ratio(PEER, name),
                f"{float((found - exact).abs().max() / exact.abs().max()):.1e}",
                f"{float(reached.mean()):.5f}",
                f"{worst:.5f}",
                "yes" if worst >= LEAST_CENTRED_COSINE else "no: refused on these tiles",
            )
        )
    header = (
        "way",
        "runtime",
        "times faster than fp32 eager",
        "largest difference / largest value",
        "centred cosine, mean",
        "of the worst tile",
        f"worst ≥ {LEAST_CENTRED_COSINE}",
    )
    title = f"{loaded.card.name}, batches of {size} real tiles:"
    return [title, table(header, rows), *problems]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tiles = tissue_tiles(asked.tiles, 16)
    with tempfile.TemporaryDirectory() as folder:
        lite0 = load_encoder("efficientnet-lite0", device="cpu")
        body = measure(lite0, tiles, asked.repeats)
        small = random_vit("vit_small_patch16_224", 384, Path(folder))
        body += measure(small, tiles[:8], asked.repeats)
    packages = ("torch", "timm", "onnx", "onnxruntime", "openvino")
    print(section("Encoding tiles on a CPU, one thread", packages=packages, body=body))


if __name__ == "__main__":
    main()
