"""What every room's tests share: where the real data lie, and small stand-ins for large things."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from temporary_postgres import Postgres, run_postgres

# Two workers of two threads each would wait for one another on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_REPOSITORY = Path(__file__).resolve().parent.parent

# No test may reach the registry of whoever runs it.
for _name in ("STORM_CLINIC_TRACKING_URI", "STORM_CLINIC_ARTIFACTS"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides and cohorts; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STORM_CLINIC_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        pytest.skip(f"no real data at {folder.name}/: set STORM_CLINIC_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory) -> Path:
    """A fresh ``mlflow.db`` to copy: MLflow takes over a second to make one."""
    from storm_clinic.files import Workspace
    from storm_clinic.tracking import Tracker

    database = Tracker(Workspace(tmp_path_factory.mktemp("mlflow"))).database
    assert database.client is not None
    return database.place.database_path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL on loopback; `Postgres.create_database` gives each test one of its own."""
    with run_postgres() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def write_tissue_slide() -> Callable[..., Path]:
    """Write a pyramidal TIFF that OpenSlide opens: white glass with one block of stained texture.

    ``size`` is (width, height) in level-0 px, ``tissue`` (left, top, right, bottom); ``mpp`` None
    leaves it unstated. Level 1 is 16 times coarser, so that a thumbnail never reads level 0.
    """

    def write(
        path: Path,
        *,
        size: tuple[int, int] = (768, 512),
        tissue: tuple[int, int, int, int] | None = (128, 128, 640, 384),
        mpp: float | None = 0.5,
        seed: int = 0,
    ) -> Path:
        rng = np.random.default_rng(seed)
        width, height = size
        pixels = np.full((height, width, 3), 244, dtype=np.uint8)
        if tissue is not None:
            left, top, right, bottom = tissue
            noise = rng.integers(-40, 40, (bottom - top, right - left, 3))
            pixels[top:bottom, left:right] = np.clip(np.array([190, 90, 150]) + noise, 0, 255)
        resolution = None if mpp is None else (10_000 / mpp, 10_000 / mpp)
        unit = None if mpp is None else "CENTIMETER"
        with tifffile.TiffWriter(path) as writer:
            for factor in (1, 16):
                blocks = pixels.reshape(height // factor, factor, width // factor, factor, 3)
                writer.write(
                    blocks.mean(axis=(1, 3)).astype(np.uint8),
                    tile=(64, 64),
                    compression="deflate",
                    photometric="rgb",
                    resolution=resolution,
                    resolutionunit=unit,
                    metadata=None,
                    subfiletype=int(factor > 1),
                )
        return path

    return write


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> tuple[Any, Path]:
    """The card of an encoder of 12 numbers that takes tiles of 64 px, and its weights."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from storm_clinic.encoders.contract import EncoderCard

    def build() -> Any:
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 12, 8, stride=8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
        )

    generator = torch.Generator().manual_seed(5)
    shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(state, path)
    card = EncoderCard(
        name="tiny",
        loader=build,
        tile_px=64,
        input_px=64,
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pooling="pooled",
        width=12,
        batch_size=4,
        licence="MIT",
        citation="none",
    )
    return card, path
