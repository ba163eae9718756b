"""Checking a store finds what would spoil a study, and nothing where all is well."""

from __future__ import annotations

import hashlib
import shutil

import h5py
import numpy as np
import pytest

from storm_clinic.features.inspection import inspect_store
from storm_clinic.features.store import FeatureStore


def findings(store):
    return {
        (found.slide_id, found.severity, found.code): found.finding
        for found in inspect_store(store)
    }


def plant(store, slide_id, values):
    """Put values into a file that writing would have refused, under a digest that fits."""
    values = np.asarray(values, "<f2")
    shape = " ".join(map(str, values.shape))
    digest = hashlib.sha256(f"<f2 {shape}\n".encode() + values.tobytes()).hexdigest()
    with h5py.File(store.path(slide_id), "r+") as file:
        for name in list(file):
            del file[name]
        file.create_dataset("features", data=values).attrs["sha256"] = np.bytes_(digest)


def test_a_sound_store_has_no_findings(store, toy_slide):
    for number in range(3):
        slide = toy_slide(f"S-{number}", seed=number, slide_digest=f"q{number}")
        store.write(slide if number else toy_slide("S-0", failed_coords=None, slide_digest="q0"))
    assert set(findings(store)) == {
        ("S-1", "warning", "failed tiles"),
        ("S-2", "warning", "failed tiles"),
    }
    assert findings(store)["S-1", "warning", "failed tiles"] == "1 of 7 tiles could not be read"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_errors(store, toy_slide, value):
    store.write(toy_slide())
    values = np.random.default_rng(0).normal(size=(4, 8))
    values[[1, 3], 0] = value
    plant(store, "S-1", values)
    assert findings(store) == {("S-1", "error", "not finite"): "2 of 4 tiles hold NaN or infinity"}


def test_a_file_without_tiles_is_an_error(store, toy_slide):
    store.write(toy_slide())
    plant(store, "S-1", np.zeros((0, 8)))
    assert findings(store) == {("S-1", "error", "no tiles"): "there is no tile"}


def test_embeddings_that_do_not_differ_between_tiles_are_errors(store, toy_slide):
    row = np.arange(8, dtype=np.float32)
    store.write(toy_slide(features=np.tile(row, (6, 1)), failed_coords=None))
    assert findings(store) == {
        ("S-1", "error", "constant rows"): "all 6 tiles have the same embedding"
    }


def test_columns_that_do_not_differ_between_tiles_are_warned_of(store, toy_slide):
    features = toy_slide().features
    features[:, [2, 5]] = 0
    store.write(toy_slide(features=features, failed_coords=None))
    assert findings(store) == {
        ("S-1", "warning", "constant columns"): "2 of 8 values are the same in all 6 tiles"
    }


def test_a_single_tile_is_not_called_constant(store, toy_slide):
    whole = toy_slide()
    store.write(
        toy_slide(
            features=whole.features[:1],
            coords=whole.coords[:1],
            tissue=None,
            failed_coords=None,
        )
    )
    assert findings(store) == {}


def test_one_place_that_was_encoded_twice_is_warned_of(store, toy_slide):
    coords = toy_slide().coords.copy()
    coords[3] = coords[0]
    store.write(toy_slide(coords=coords, failed_coords=None))
    assert findings(store) == {
        ("S-1", "warning", "repeated tiles"): "1 tiles lie where another one does"
    }


def test_the_same_slide_under_two_names_is_an_error(store, toy_slide):
    store.write(toy_slide("S-1", seed=1, failed_coords=None))
    store.write(toy_slide("S-2", seed=2, failed_coords=None))
    assert findings(store) == {("S-1", "error", "same slide"): "also there as S-2"}


def test_the_same_features_under_two_names_are_an_error_without_slide_digests(
    tmp_path, declared_contract, toy_slide
):
    store = FeatureStore.create(tmp_path, declared_contract())
    for name in ("S-1", "S-2"):
        store.write(toy_slide(name, slide_digest=None, failed_coords=None))
    store.write(toy_slide("S-3", seed=3, slide_digest=None, failed_coords=None))
    assert findings(store) == {("S-1", "error", "same features"): "also there as S-2"}


def test_files_that_cannot_be_used_are_errors_with_their_reason(
    store, tmp_path, toy_slide, extracted_contract
):
    store.write(toy_slide("S-1", failed_coords=None))
    other = FeatureStore.create(tmp_path / "other", extracted_contract(mpp=0.25))
    shutil.copy(other.write(toy_slide("S-2")), store.path("S-2"))
    shutil.copy(store.path("S-1"), store.path("S-3"))
    data = bytearray(store.path("S-1").read_bytes())
    with h5py.File(store.path("S-1")) as file:
        data[file["features"].id.get_offset()] ^= 1
    store.path("S-4").write_bytes(data[:500])
    store.path("S-1").write_bytes(data)
    found = findings(store)
    assert set(found) == {
        ("S-1", "error", "unreadable"),
        ("S-2", "error", "contract"),
        ("S-3", "error", "unreadable"),
        ("S-4", "error", "unreadable"),
    }
    assert "SHA-256 differs" in found["S-1", "error", "unreadable"]
    assert "mpp is 0.25, not 0.5" in found["S-2", "error", "contract"]
    assert "holds slide 'S-1', not 'S-3'" in found["S-3", "error", "unreadable"]


def test_progress_counts_slides(store, toy_slide):
    for number in range(3):
        store.write(toy_slide(f"S-{number}", seed=number))
    seen = []
    inspect_store(store, progress=lambda *args: seen.append(args))
    assert seen == [("checking features", done, 3) for done in (1, 2, 3)]
