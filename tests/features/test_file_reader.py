"""What a feature file may hold is fixed; everything else, and all damage, is noticed by name."""

from __future__ import annotations

import hashlib
import shutil

import h5py
import numpy as np
import pytest

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.store import FeatureStore


def test_a_slide_that_is_not_there_is_named(store):
    with pytest.raises(FeatureError, match=r"S-2\.h5: there is no such file"):
        store.read("S-2")


def test_a_file_of_another_encoder_is_refused_with_both_values(
    store, tmp_path, extracted_contract, toy_slide
):
    other = FeatureStore.create(tmp_path / "b", extracted_contract(encoder="else", mpp=0.25))
    shutil.copy(other.write(toy_slide()), store.path("S-1"))
    with pytest.raises(ContractMismatch) as caught:
        store.read("S-1")
    assert "encoder is 'else', not 'toy'" in str(caught.value)
    assert "mpp is 0.25, not 0.5" in str(caught.value)
    with pytest.raises(ContractMismatch):
        store.memmap("S-1")


def test_a_renamed_file_is_noticed(store, toy_slide):
    store.write(toy_slide()).rename(store.path("S-2"))
    for read in (store.read, store.memmap):
        with pytest.raises(FeatureError, match=r"S-2\.h5: holds slide 'S-1', not 'S-2'"):
            read("S-2")


def refused(store, slide, change):
    """What reading says after the slide's file was changed by ``change(file)``."""
    path = store.write(slide)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(FeatureError) as caught:
        store.read(slide.slide_id)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path)).removeprefix(": ")


def soft_link(file):
    file.move("features", "old")
    file["features"] = h5py.SoftLink("/old")


def external_link(file):
    del file["features"]
    file["features"] = h5py.ExternalLink("other.h5", "/features")


def stray_link(file):
    file["elsewhere"] = h5py.ExternalLink("other.h5", "/features")


def virtual_dataset(file):
    layout = h5py.VirtualLayout((6, 8), "f2")
    layout[:] = h5py.VirtualSource("other.h5", "features", (6, 8))
    del file["features"]
    file.create_virtual_dataset("features", layout)


def external_storage(file):
    del file["features"]
    storage = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("features", (6, 8), "f2", external=storage)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (soft_link, "features: is a link to somewhere else"),
        (external_link, "features: is a link to somewhere else"),
        (stray_link, "elsewhere: is a link to somewhere else"),
        (virtual_dataset, "features: must be stored contiguously in this file"),
        (external_storage, "features: must be stored contiguously in this file"),
    ],
)
def test_a_file_cannot_make_us_read_another(store, toy_slide, change, message):
    assert refused(store, toy_slide(), change).startswith(message)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("features", np.zeros((6, 8), "i4"), "features: must not be of type int32"),
        ("features", np.zeros((1, 6, 8), "f2"), "features: must not be of shape (1, 6, 8)"),
        ("features", np.zeros((6, 7), "f2"), "features: 7 values a tile as float16"),
        ("features", np.zeros((6, 8), "f4"), "features: 8 values a tile as float32"),
        ("features", np.zeros((5, 8), "f2"), "coords: 6 rows, but features has 5"),
        ("features", np.zeros((6, 8), "f2"), "features: its values are not those that were wri"),
        ("coords", np.zeros((6, 2), "i4"), "coords: must not be of type int32"),
        ("coords", np.zeros((6, 3), "i8"), "coords: must not be of shape (6, 3)"),
        ("coords", np.zeros((7, 2), "i8"), "coords: 7 rows, but features has 6"),
        ("tissue", np.zeros(5, "f2"), "tissue: 5 rows, but features has 6"),
        ("failed_coords", np.zeros((1, 2), "i8"), "failed_coords: its values are not those"),
    ],
)
def test_a_dataset_of_another_kind_is_refused(store, toy_slide, name, array, message):
    def change(file):
        sha256 = file[name].attrs["sha256"]
        del file[name]
        file.create_dataset(name, data=array).attrs["sha256"] = sha256

    assert refused(store, toy_slide(), change).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (6, 8), "chunks": (1, 8)}, "features: must be stored contiguously"),
        # Claims terabytes, holds none: reading it must not try to allocate them.
        ({"shape": (10**12, 8)}, "features: its values are not all there"),
    ],
)
def test_a_dataset_stored_otherwise_is_refused(store, toy_slide, options, message):
    def change(file):
        del file["features"]
        file.create_dataset("features", dtype="f2", **options)

    assert refused(store, toy_slide(), change).startswith(message)


def test_features_must_be_there_and_be_a_dataset(store, toy_slide):
    def remove(file):
        del file["features"]

    def make_group(file):
        remove(file)
        file.create_group("features")

    assert "features: there is no such dataset" in refused(store, toy_slide(), remove)
    assert "features: must be a dataset" in refused(store, toy_slide(), make_group)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("slide_id", None, "attribute slide_id is missing. The file is damaged; make it again."),
        ("slide_id", 7, "attribute slide_id must be text, is 7"),
        ("slide_mpp", "x", "attribute slide_mpp must be a number, is x"),
        ("encoder", h5py.Empty("f4"), "attribute encoder must be text"),
        ("format_version", 2, "format_version 2 is not 1, the one this version reads. Update"),
        ("format_version", None, "attribute format_version is missing"),
        ("format", None, "not a feature file of this program. Bring features made elsewhere in"),
        ("tile_px", None, "made in another way than its store's contract says: tile_px is None"),
    ],
)
def test_an_attribute_that_is_wrong_is_named(store, toy_slide, name, value, message):
    def change(file):
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = np.bytes_(value) if isinstance(value, str) else value

    assert refused(store, toy_slide(), change).startswith(message)


def test_features_with_nan_are_read_only_by_checks(store, toy_slide):
    values = toy_slide().features.astype("<f2")
    values[1, 1] = np.nan
    digest = hashlib.sha256(b"<f2 6 8\n" + values.tobytes()).hexdigest()

    def change(file):
        file["features"][...] = values
        file["features"].attrs["sha256"] = np.bytes_(digest)

    message = refused(store, toy_slide(), change)
    assert message.startswith("features: 1 of 6 tiles hold NaN or infinity, the first is row 1")
    assert np.isnan(store.read("S-1", allow_nonfinite=True).features).sum() == 1


@pytest.mark.parametrize("seed", range(80))
def test_damage_is_an_error_or_does_no_harm(store, seed, toy_slide, same_slide):
    path = store.write(toy_slide())
    whole, before = path.read_bytes(), store.read("S-1")
    path.write_bytes(damaged(whole, seed))
    try:
        after = store.read("S-1")
    except FeatureError as error:
        named = str(path) in str(error)
    else:
        # Some bytes of a file carry no meaning; then nothing may have changed.
        named = same_slide(before, after)
    assert named


def damaged(data: bytes, seed: int) -> bytes:
    """Truncate, flip one bit, scramble 64 bytes, or blank 512, by turns."""
    rng = np.random.default_rng(seed)
    at = int(rng.integers(len(data)))
    if seed % 4 == 0:
        return data[:at]
    if seed % 4 == 1:
        return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
    length = min(64 if seed % 4 == 2 else 512, len(data) - at)
    filling = rng.bytes(length) if seed % 4 == 2 else bytes(length)
    return data[:at] + filling + data[at + length :]


@pytest.mark.parametrize("name", ["features", "coords", "tissue", "failed_coords"])
def test_one_flipped_bit_in_any_value_is_found(store, name, toy_slide):
    path = store.write(toy_slide())
    with h5py.File(path) as file:
        offset = file[name].id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FeatureError, match=f"{name}: its values are not those"):
        store.read("S-1")
