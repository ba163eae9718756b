"""A store keeps what it was given, refuses what does not fit, and knows what it holds."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from storm_clinic.errors import FeatureError, StorageError, UnsafeName
from storm_clinic.features import store as store_module
from storm_clinic.features.store import FeatureStore, SlideFeatures
from storm_clinic.files import part_of

N_TILES, WIDTH = 6, 8


# What is written comes back


def test_a_slide_comes_back_as_written_but_in_half_precision(store, toy_slide, same_slide):
    slide = toy_slide()
    store.write(slide)
    read = store.read("S-1")
    assert read.features.dtype == np.float16
    np.testing.assert_array_equal(read.features, slide.features.astype(np.float16))
    assert same_slide(replace(slide, features=read.features), read)


def test_each_file_states_the_licence_of_its_encoder(tmp_path, extracted_contract, toy_slide):
    for licence in ("Apache-2.0", None):
        store = FeatureStore.create(tmp_path / str(licence), extracted_contract(licence=licence))
        with h5py.File(store.write(toy_slide())) as file:
            stated = file.attrs.get("licence")
        assert (stated.decode() if isinstance(stated, bytes) else stated) == licence


def test_what_is_not_known_is_absent_not_invented(tmp_path, declared_contract, toy_slide):
    contract = declared_contract(mpp=None, tile_px=None, overlap_px=0)
    store = FeatureStore.create(tmp_path, contract)
    values = toy_slide().features
    path = store.write(SlideFeatures("S-1", values))
    read = store.read("S-1")
    assert (read.coords, read.tissue, read.failed_coords) == (None, None, None)
    assert (read.slide_digest, read.slide_mpp, read.vendor) == (None, None, None)
    with h5py.File(path) as file:
        assert list(file) == ["features"]
        assert not {"mpp", "tile_px", "tile_um", "encoder_digest"} & set(file.attrs)


def test_an_import_keeps_the_type_of_its_source(tmp_path, declared_contract, toy_slide):
    store = FeatureStore.create(tmp_path, declared_contract(dtype="float64"))
    values = np.random.default_rng(1).normal(size=(N_TILES, WIDTH))
    store.write(toy_slide(features=values))
    assert store.read("S-1").features.tobytes() == values.tobytes()


def test_the_file_says_what_the_format_table_says(store, toy_slide):
    path = store.write(toy_slide())
    with h5py.File(path) as file:
        attributes = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in file.attrs.items()
        }
        layout = {name: (file[name].dtype.str, file[name].shape) for name in file}
        assert all(file[name].chunks is None for name in file)
    assert attributes.pop("storm_clinic_version")
    assert attributes == {
        "format": "storm_clinic/slide-features",
        "format_version": 1,
        "slide_id": "S-1",
        "slide_digest": "quickhash",
        "provenance": "extracted",
        "encoder": "toy",
        "encoder_digest": "ab" * 32,
        "mpp": 0.5,
        "tile_px": 224,
        "tile_um": 112.0,
        "slide_mpp": 0.2525,
        "slide_mpp_source": "slide",
        "vendor": "aperio",
        "licence": "Apache-2.0",
    }
    assert layout == {
        "features": ("<f2", (N_TILES, WIDTH)),
        "coords": ("<i8", (N_TILES, 2)),
        "tissue": ("<f2", (N_TILES,)),
        "failed_coords": ("<i8", (1, 2)),
    }


def test_features_can_be_mapped_by_anyone_who_knows_numpy_alone(store, toy_slide):
    path = store.write(toy_slide())
    with h5py.File(path) as file:
        offset = file["features"].id.get_offset()
    raw = np.frombuffer(path.read_bytes(), "<f2", N_TILES * WIDTH, offset).reshape(N_TILES, WIDTH)
    mapped = store.memmap("S-1")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, raw)
    assert mapped.offset == offset
    assert offset % 64 == 0  # vector loads and torch want aligned rows
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1


def test_a_file_is_not_opened_again_to_be_mapped_unless_it_has_changed(
    store, toy_slide, monkeypatch
):
    path = store.write(toy_slide())
    first = np.array(store.memmap("S-1"))
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "read_header", lambda *_: pytest.fail("opened again"))
        np.testing.assert_array_equal(store.memmap("S-1"), first)
    store.write(replace(toy_slide(), features=-first))
    np.testing.assert_array_equal(store.memmap("S-1"), -first)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FeatureError, match=r"S-1.h5"):
        store.memmap("S-1")
    path.unlink()
    with pytest.raises(FeatureError, match="there is no such file"):
        store.memmap("S-1")
    path.symlink_to(path)
    with pytest.raises(FeatureError, match=r"S-1.h5: cannot be read as HDF5"):
        store.memmap("S-1")


def test_equal_input_gives_equal_bytes_in_another_process(
    store, tmp_path, extracted_contract, toy_slide
):
    first = store.write(toy_slide()).read_bytes()
    with ProcessPoolExecutor(1) as pool:
        other = FeatureStore.create(tmp_path / "other", extracted_contract())
        path = pool.submit(other.write, toy_slide()).result()
    assert path.read_bytes() == first
    assert store.write(toy_slide()).read_bytes() == first


def test_the_digest_of_features_is_the_documented_one(store, toy_slide):
    store.write(toy_slide())
    values = toy_slide().features.astype("<f2")
    expected = hashlib.sha256(b"<f2 6 8\n" + values.tobytes()).hexdigest()
    assert store.index()["features_digest"].item() == expected


def test_byte_order_and_memory_layout_do_not_change_the_file(
    tmp_path, declared_contract, toy_slide
):
    little = FeatureStore.create(tmp_path / "a", declared_contract())
    other = FeatureStore.create(tmp_path / "b", declared_contract())
    values = toy_slide().features
    swapped = np.asfortranarray(values.astype(">f4"))
    first = little.write(toy_slide()).read_bytes()
    assert other.write(toy_slide(features=swapped)).read_bytes() == first


# What cannot be stored is refused


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_a_value_beyond_half_precision_is_an_error_not_infinity(store, value, toy_slide):
    features = toy_slide().features
    features[2, 3] = value
    with pytest.raises(
        FeatureError, match=r"slide S-1: features: the value .* does not fit float16"
    ):
        store.write(toy_slide(features=features))
    assert not store.has("S-1")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_value_that_is_not_finite_is_refused_with_its_row(
    tmp_path, value, dtype, declared_contract, toy_slide
):
    store = FeatureStore.create(tmp_path, declared_contract(dtype=np.dtype(dtype).name))
    features = toy_slide().features.astype(dtype)
    features[4, 0] = value
    with pytest.raises(FeatureError, match="1 of 6 tiles hold NaN or infinity, the first is row 4"):
        store.write(toy_slide(features=features))


def test_the_largest_half_precision_value_still_fits(store, toy_slide):
    features = toy_slide().features
    features[0, 0] = -65504
    store.write(toy_slide(features=features))
    assert store.read("S-1").features[0, 0] == -65504


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros((6, 9), np.float32)}, "9 values a tile.*contract says 8"),
        ({"features": np.zeros((6, 8), np.int64)}, "must be floating point, is int64"),
        ({"coords": None}, "need the tiles' coordinates"),
    ],
)
def test_features_that_do_not_fit_the_contract_are_refused(store, changes, message, toy_slide):
    with pytest.raises(FeatureError, match=message):
        store.write(toy_slide(**changes))


def test_a_slide_without_tiles_is_refused(store):
    nothing = SlideFeatures("S-1", np.zeros((0, WIDTH), np.float32), np.zeros((0, 2), np.int64))
    with pytest.raises(FeatureError, match="there is no tile"):
        store.write(nothing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros(8)}, r"features must be \(n_tiles, width\), is \(8,\)"),
        ({"coords": np.zeros((5, 2), int)}, "6 rows of features but 5 of coords"),
        ({"coords": np.zeros((6, 3), int)}, r"coords must be \(n, 2\), is \(6, 3\)"),
        ({"tissue": np.zeros(7)}, r"6 rows of features but tissue is \(7,\)"),
        ({"failed_coords": np.zeros(2, int)}, r"failed_coords must be \(n, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_one_another_are_refused(changes, message, toy_slide):
    with pytest.raises(FeatureError, match=f"slide S-1: {message}"):
        toy_slide(**changes)


@pytest.mark.parametrize("slide_id", ["../S-1", "a/b", "", ".hidden", "S-1\n", "C:\\S"])
def test_an_id_that_would_leave_the_folder_is_refused(store, slide_id, toy_slide):
    for act in (store.path, store.read, store.has, lambda name: store.write(toy_slide(name))):
        with pytest.raises(UnsafeName):
            act(slide_id)


def test_a_full_disk_leaves_no_file_behind(store, toy_slide):
    # The part file is a link to a device that takes no byte.
    part = part_of(store.folder / "S-1.h5")
    part.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"S-1\.h5: the disk is full"):
        store.write(toy_slide())
    assert sorted(path.name for path in store.folder.iterdir()) == ["contract.json"]


def test_a_disk_that_fills_while_the_file_is_closed_is_reported_as_full(
    store, monkeypatch, toy_slide
):
    # HDF5 may hold all data back until the file closes; h5py then raises RuntimeError.
    def fail(self):
        raise RuntimeError(
            "Can't decrement id ref count (error message = 'No space left on device')"
        )

    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, "close", fail)
        with pytest.raises(StorageError, match="the disk is full"):
            store.write(toy_slide())
    assert not store.has("S-1")


def test_two_writers_of_one_slide_leave_one_whole_file(store, toy_slide):
    slides = [toy_slide(seed=seed) for seed in range(8)]
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(store.write, slides))
    read = store.read("S-1").features
    written = [slide.features.astype(np.float16) for slide in slides]
    assert sum(np.array_equal(read, values) for values in written) == 1
    assert [path.name for path in store.folder.glob("*.part")] == []


def test_a_failed_write_leaves_the_earlier_file(store, toy_slide):
    before = store.write(toy_slide()).read_bytes()
    part = part_of(store.folder / "S-1.h5")
    part.symlink_to("/dev/full")
    with pytest.raises(StorageError):
        store.write(toy_slide(seed=1))
    assert store.path("S-1").read_bytes() == before


# The index


def test_the_index_has_a_row_for_every_file(store, toy_slide):
    for number in (2, 1):
        store.write(toy_slide(f"S-{number}", seed=number, slide_digest=f"q{number}"))
    index = store.index()
    assert list(index["slide_id"]) == store.slide_ids() == ["S-1", "S-2"]
    assert list(index["slide_digest"]) == ["q1", "q2"]
    assert index["n_tiles"].tolist() == [N_TILES, N_TILES]
    assert index["n_failed"].tolist() == [1, 1]
    assert index["bytes"].tolist() == [
        store.path(name).stat().st_size for name in store.slide_ids()
    ]
    assert index["problem"].isna().all()
    assert index["features_digest"].nunique() == 2


def test_the_index_follows_the_files(store, toy_slide):
    store.write(toy_slide("S-1"))
    store.write(toy_slide("S-2", seed=2))
    first = store.index().set_index("slide_id")["features_digest"]
    store.path("S-1").unlink()
    store.write(toy_slide("S-2", seed=3))
    store.write(toy_slide("S-3", seed=1))
    second = store.index().set_index("slide_id")["features_digest"]
    assert list(second.index) == ["S-2", "S-3"]
    assert second["S-2"] != first["S-2"]


def test_files_that_the_index_knows_are_not_opened_again(store, toy_slide):
    for number in range(3):
        store.write(toy_slide(f"S-{number}", seed=number))
    before = store.index()
    stamp = (store.folder / "index.parquet").stat().st_mtime_ns
    # Rubbish of the same size and time would be noticed if anyone looked inside.
    for slide_id in store.slide_ids():
        path = store.path(slide_id)
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.index().equals(before)
    assert (store.folder / "index.parquet").stat().st_mtime_ns == stamp
    store.write(toy_slide("S-9"))
    after = store.index()
    assert after.iloc[:3].equals(before)
    assert after["slide_id"].iloc[3] == "S-9"


def test_one_bad_file_has_its_reason_in_the_index_and_hides_no_other(store, toy_slide):
    store.write(toy_slide("S-1"))
    store.path("S-2").write_bytes(b"not HDF5")
    (store.folder / "._S-3.h5").write_bytes(b"left by another system")
    index = store.index().set_index("slide_id")
    assert index["problem"].isna().tolist() == [False, True, False]
    assert "S-2.h5: cannot be read as HDF5" in index.loc["S-2", "problem"]
    assert "cannot become a file name" in index.loc["._S-3", "problem"]
    assert index.loc["S-2", "n_tiles"] == 0


@pytest.mark.parametrize("content", [b"", b"PAR1 rubbish PAR1"])
def test_a_damaged_index_is_made_again(store, content, toy_slide):
    store.write(toy_slide())
    before = store.index()
    (store.folder / "index.parquet").write_bytes(content)
    assert store.index().equals(before)


def test_the_index_of_another_contract_is_not_believed(tmp_path, extracted_contract, toy_slide):
    first = FeatureStore.create(tmp_path / "a", extracted_contract())
    first.write(toy_slide())
    first.index()
    second = FeatureStore.create(tmp_path / "b", extracted_contract(mpp=0.25))
    for name in ("index.parquet", "S-1.h5"):
        shutil.copy2(first.folder / name, second.folder / name)
    assert "mpp is 0.5, not 0.25" in second.index()["problem"].item()


def test_an_index_that_cannot_be_kept_is_still_given(store, monkeypatch, toy_slide):
    store.write(toy_slide())
    part = part_of(store.folder / "index.parquet")
    part.symlink_to("/dev/full")
    assert list(store.index()["slide_id"]) == ["S-1"]
    assert not (store.folder / "index.parquet").exists()


def test_an_empty_store_has_an_empty_index(store):
    assert len(store.index()) == 0
    assert store.slide_ids() == []


# Manners


def test_a_store_travels_to_worker_processes(store, toy_slide):
    with ProcessPoolExecutor(1) as pool:
        pool.submit(store.write, toy_slide()).result()
        assert pool.submit(store.slide_ids).result() == ["S-1"]


def test_reading_features_loads_neither_torch_nor_mlflow():
    code = (
        "import sys, storm_clinic.features.store, storm_clinic.steps.feature_store\n"
        "print(sorted({'torch', 'mlflow'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert run.stdout.strip() == "[]"
