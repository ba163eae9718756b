"""A small contract, slides that fit it, and a store of them."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import fields, replace

import numpy as np
import pytest

from storm_clinic.features.store import FeatureContract, FeatureStore, SlideFeatures


@pytest.fixture(scope="session")
def extracted_contract():
    """Contract of features made by this package, 8 values a tile; keywords replace fields."""

    def make(**changes):
        base = FeatureContract(
            encoder="toy",
            encoder_digest="ab" * 32,
            width=8,
            mpp=0.5,
            tile_px=224,
            overlap_px=16,
            pooling="cls",
            tissue={"mpp": 8.0, "min_area_mm2": 0.1},
            licence="Apache-2.0",
        )
        return replace(base, **changes)

    return make


@pytest.fixture(scope="session")
def declared_contract(extracted_contract):
    """Contract of imported features; keywords replace fields."""
    base = {"encoder_digest": None, "provenance": "declared", "dtype": "float32"}
    return lambda **changes: extracted_contract(**base | changes)


@pytest.fixture(scope="session")
def toy_slide():
    """A slide of six tiles with everything a file can hold; keywords replace fields."""

    def make(slide_id="S-1", seed=0, **changes):
        rng = np.random.default_rng(seed)
        base = SlideFeatures(
            slide_id=slide_id,
            features=rng.normal(size=(6, 8)).astype(np.float32),
            coords=rng.integers(0, 100_000, (6, 2)),
            tissue=rng.uniform(size=6).astype(np.float16),
            failed_coords=np.array([[3, 4]]),
            slide_digest="quickhash",
            slide_mpp=0.2525,
            slide_mpp_source="slide",
            vendor="aperio",
        )
        return replace(base, **changes)

    return make


@pytest.fixture
def store(tmp_path, extracted_contract):
    """An empty store of extracted features."""
    return FeatureStore.create(tmp_path / "toy", extracted_contract())


@pytest.fixture(scope="session")
def same_slide():
    """Whether two slides hold the same values of the same types."""

    def compare(left, right):
        for item in fields(SlideFeatures):
            one, other = getattr(left, item.name), getattr(right, item.name)
            if isinstance(one, np.ndarray):
                if one.dtype != other.dtype or not np.array_equal(one, other):
                    return False
            elif one != other:
                return False
        return True

    return compare


@pytest.fixture
def sabotage(tmp_path, monkeypatch):
    """Code that every child runs when it starts, before anything of ours."""

    def install(code: str) -> None:
        folder = tmp_path / "sabotage"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
        # A child gets the sys.path of its parent.
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    return install
