"""From feature files to bags, with a cache that notices when they change."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest

from storm_clinic.errors import FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.heads import bag_cache
from storm_clinic.heads.bag_cache import build_bags
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.packed_array import write_packed

PATIENTS = [["s1", "s3"], ["s2"]]


def tiles_of(slide_id: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, int(slide_id[1:])])
    return rng.normal(size=(int(slide_id[1:]) + 2, 5)).astype(np.float16)


def put(store: FeatureStore, slide_id: str, features: np.ndarray, coords=None, mpp=None) -> None:
    store.write(
        SlideFeatures(
            slide_id=slide_id,
            features=features,
            coords=coords,
            tissue=None,
            failed_coords=None,
            slide_digest=f"sha256:{slide_id}",
            slide_mpp=mpp,
            slide_mpp_source=None,
            vendor=None,
        )
    )


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    contract = FeatureContract("tiny", None, width=5, mpp=None, tile_px=None, provenance="declared")
    store = FeatureStore.create(tmp_path / "tiny", contract)
    for slide_id in ("s1", "s2", "s3"):
        put(store, slide_id, tiles_of(slide_id))
    return store


@pytest.mark.parametrize("cached", [False, True])
def test_a_patients_bag_holds_the_tiles_of_all_their_slides_in_order(store, tmp_path, cached):
    bags = build_bags(store, PATIENTS, tmp_path / "cache" if cached else None)
    assert (bags.bag(0) == np.concatenate([tiles_of("s1"), tiles_of("s3")])).all()
    assert (bags.bag(1) == tiles_of("s2")).all()
    assert bags.bag(0).dtype == np.float16


def test_a_second_study_of_the_same_files_maps_what_was_packed(store, tmp_path, monkeypatch):
    first = build_bags(store, PATIENTS, tmp_path / "cache")
    monkeypatch.setattr(bag_cache, "_pack", lambda *_: pytest.fail("packed again"))
    second = build_bags(store, PATIENTS, tmp_path / "cache")
    assert isinstance(second.bag(0), np.memmap)
    assert (first.bag(0) == second.bag(0)).all()


def blank_tiles(cache: Path, patients: list[list[str]] = PATIENTS) -> None:
    """Whoever still reads a tile would see a 0, with a checksum that fits."""
    (packed,) = cache.glob("bags-*.npy")
    bags = [[np.zeros_like(tiles_of(slide_id)) for slide_id in slides] for slides in patients]
    n_tiles = sum(len(piece) for pieces in bags for piece in pieces)
    write_packed(packed, np.dtype(np.float16), (n_tiles, 5), bags)


def test_means_of_bags_lie_beside_them_and_no_tile_is_read_for_them_again(store, tmp_path):
    cache = tmp_path / "cache"
    patients = [*PATIENTS, []]
    expected = build_bags(store, patients).pooled_mean()
    np.testing.assert_array_equal(build_bags(store, patients, cache).pooled_mean(), expected)
    blank_tiles(cache, patients)
    bags = build_bags(store, patients, cache)
    np.testing.assert_array_equal(bags.pooled_mean(), expected)
    order = [2, 1, 0, 1]
    np.testing.assert_array_equal(bags.take(order).pooled_mean(), expected[order])
    assert (bags.bag(0) == 0).all()


def test_means_of_joined_cohorts_are_each_their_own(store, tmp_path):
    build_bags(store, PATIENTS, tmp_path / "cache")
    blank_tiles(tmp_path / "cache")
    cached = build_bags(store, PATIENTS, tmp_path / "cache")
    in_memory = build_bags(store, [["s2"], ["s1"]])
    expected = build_bags(store, [*PATIENTS, ["s2"], ["s1"]]).pooled_mean()
    joined = Bags.concat([cached, in_memory])
    np.testing.assert_array_equal(joined.pooled_mean(), expected)
    # A bag that is part of another is not taken for it.
    part = replace(cached, stop=cached.stop - 1)
    assert (part.pooled_mean() == 0).all()


def test_means_that_were_cut_or_changed_are_refused_with_what_to_do(store, tmp_path):
    cache = tmp_path / "cache"
    expected = build_bags(store, PATIENTS, cache).pooled_mean()
    (path,) = cache.glob("means-*.npy")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1  # within the last mean
    for damaged in (bytes(flipped), whole[:-10], b""):
        path.write_bytes(damaged)
        with pytest.raises(FeatureError, match=r"means-.*npy: was changed .*Delete it"):
            build_bags(store, PATIENTS, cache)
    path.unlink()
    np.testing.assert_array_equal(build_bags(store, PATIENTS, cache).pooled_mean(), expected)


def test_means_go_with_an_array_that_was_deleted_as_damaged(store, tmp_path):
    cache = tmp_path / "cache"
    expected = build_bags(store, PATIENTS).pooled_mean()
    build_bags(store, PATIENTS, cache)
    blank_tiles(cache)
    (means,) = cache.glob("means-*.npy")
    means.unlink()
    assert (build_bags(store, PATIENTS, cache).pooled_mean() == 0).all()  # of the blank tiles
    (packed,) = cache.glob("bags-*.npy")
    packed.unlink()
    np.testing.assert_array_equal(build_bags(store, PATIENTS, cache).pooled_mean(), expected)


def test_a_slide_that_was_extracted_again_is_packed_again(store, tmp_path):
    build_bags(store, PATIENTS, tmp_path / "cache")
    put(store, "s2", tiles_of("s2", seed=1))
    again = build_bags(store, PATIENTS, tmp_path / "cache")
    assert (again.bag(1) == tiles_of("s2", seed=1)).all()
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
    assert names == ["bags", "bags", "means", "means"]


def test_a_slide_without_features_is_named(store, tmp_path):
    with pytest.raises(FeatureError, match="1 slides have no features, the first is 's9'"):
        build_bags(store, [["s1"], ["s9"]], tmp_path / "cache")


def test_a_damaged_slide_is_named_and_leaves_no_cache(store, tmp_path):
    path = store.path("s2")
    data = bytearray(path.read_bytes())
    at = data.index(tiles_of("s2").tobytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(FeatureError, match=r"s2\.h5"):
        build_bags(store, PATIENTS, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cut_cache_file_is_refused_with_what_to_do(store, tmp_path):
    build_bags(store, PATIENTS, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("bags-*")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FeatureError, match=r"bags-.*npy.*Delete it"):
        build_bags(store, PATIENTS, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["bags", "places"])
def test_a_bit_that_flipped_in_a_packed_bag_is_met_by_whoever_reads_that_bag(store, tmp_path, kind):
    place(store)
    intact = build_bags(store, PATIENTS, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(f"{kind}-*.npy")
    damaged = bytearray(path.read_bytes())
    # Behind the last row stand two checksums of four bytes; before them lies the second bag.
    damaged[-2 * 4 - 1] ^= 1
    path.unlink()
    path.write_bytes(damaged)
    bags = build_bags(store, PATIENTS, tmp_path / "cache")

    def read(bags: Bags, rows: slice) -> np.ndarray:
        return bags.gather(rows)[0] if kind == "bags" else bags.gather_places(rows)

    first, second, both = slice(0, 1), slice(1, 2), slice(0, 2)
    assert (read(bags, first) == read(intact, first)).all()
    for rows in (second, both, second):
        with pytest.raises(FeatureError, match=rf"{kind}-.*bag 2 of 2 was changed .*Delete it"):
            read(bags, rows)


def test_a_bit_that_flips_after_packing_is_met_in_this_process_and_in_others(store, tmp_path):
    bags = build_bags(store, PATIENTS, tmp_path / "cache")  # packs them, and reads all for means
    (path,) = (tmp_path / "cache").glob("bags-*.npy")
    damaged = bytearray(path.read_bytes())
    damaged[-2 * 4 - 1] ^= 1
    path.write_bytes(damaged)  # the same file, which is mapped
    with pytest.raises(FeatureError, match="bag 2 of 2 was changed"):
        joblib.Parallel(n_jobs=2)(joblib.delayed(Bags.bag)(bags, 1) for _ in range(2))
    with pytest.raises(FeatureError, match="bag 2 of 2 was changed"):
        bags.bag(1)
    assert bags.bag(0).tobytes() not in pickle.dumps(bags)  # the file is named, not sent


def test_slides_that_are_made_again_while_they_are_packed_are_not_packed_under_the_old_name(
    store, tmp_path, monkeypatch
):
    honest = FeatureStore.read

    def read(self, slide_id):
        if slide_id == "s2":
            put(store, "s1", tiles_of("s1", seed=1))
        return honest(self, slide_id)

    monkeypatch.setattr(FeatureStore, "read", read)
    with pytest.raises(FeatureError, match=r"1 slides were made again .* the first is 's1'"):
        build_bags(store, PATIENTS, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("other", [b"'>f2'", b"'<i2'"])
def test_a_header_that_names_another_type_of_number_is_refused(store, tmp_path, other):
    build_bags(store, PATIENTS, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("bags-*.npy")
    path.write_bytes(path.read_bytes().replace(b"'<f2'", other, 1))
    with pytest.raises(FeatureError, match=r"bags-.*no whole packed array of float16.*Delete it"):
        build_bags(store, PATIENTS, tmp_path / "cache")


def test_the_checksums_themselves_may_be_cut_but_not_in_silence(store, tmp_path):
    build_bags(store, PATIENTS, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("bags-*.npy")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FeatureError, match=r"bags-.*lacks the checksums of its bags.*Delete it"):
        build_bags(store, PATIENTS, tmp_path / "cache")


def test_an_index_that_counts_other_tiles_than_a_file_holds_is_found_when_packing(
    store, tmp_path, monkeypatch
):
    honest = FeatureStore.read
    monkeypatch.setattr(
        FeatureStore,
        "read",
        lambda self, slide_id: replace(
            honest(self, slide_id), features=honest(self, slide_id).features[1:]
        ),
    )
    with pytest.raises(
        FeatureError, match=r"slide s1 has 2 tiles, its index says 3.*index.parquet"
    ):
        build_bags(store, PATIENTS, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def place(store: FeatureStore, mpp_of=lambda slide_id: 0.5) -> dict[str, np.ndarray]:
    """Give every slide coordinates; returns them."""
    corners = {}
    for number, slide_id in enumerate(("s1", "s2", "s3")):
        rng = np.random.default_rng(number)
        corners[slide_id] = rng.integers(0, 90_000, (len(tiles_of(slide_id)), 2))
        put(store, slide_id, tiles_of(slide_id), corners[slide_id], mpp_of(slide_id))
    return corners


@pytest.mark.parametrize("cached", [False, True])
def test_tiles_lie_in_microns_around_the_middle_of_their_slide(store, tmp_path, cached):
    corners = place(store, {"s1": 0.25, "s2": 0.5, "s3": 1.0}.get)
    bags = build_bags(store, PATIENTS, tmp_path / "cache" if cached else None)
    found = bags.gather_places(slice(0, 2))
    assert bags.has_places
    assert found.dtype == np.float32
    side_um = 112.0  # of any tile: corner to centre is the same step for all, and so cancels
    for slide_id, mpp, rows in (
        ("s1", 0.25, slice(0, 3)),
        ("s3", 1.0, slice(3, 8)),
        ("s2", 0.5, slice(8, 12)),
    ):
        centres = corners[slide_id] * mpp + side_um / 2
        np.testing.assert_allclose(found[rows], centres - centres.mean(axis=0), atol=0.01)


def test_places_are_packed_once_and_again_when_coordinates_change(store, tmp_path, monkeypatch):
    place(store)
    first = build_bags(store, PATIENTS, tmp_path / "cache").gather_places(slice(0, 2))
    (packed,) = (tmp_path / "cache").glob("bags-*.npy")
    written = packed.stat().st_ino
    place(store, lambda slide_id: 0.25)
    halved = build_bags(store, PATIENTS, tmp_path / "cache").gather_places(slice(0, 2))
    np.testing.assert_allclose(halved, first / 2, rtol=1e-6)
    assert packed.stat().st_ino == written  # the tiles themselves are not written again
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
    assert names == ["bags", "means", "places", "places"]
    monkeypatch.setattr(bag_cache, "_pack", lambda *_: pytest.fail("packed again"))
    build_bags(store, PATIENTS, tmp_path / "cache")


def test_without_a_slides_scale_nobody_knows_where_its_tiles_lie(store, tmp_path):
    place(store, lambda slide_id: None if slide_id == "s3" else 0.5)
    assert not build_bags(store, PATIENTS, tmp_path / "cache").has_places
    assert build_bags(store, [["s1"], ["s2"]], tmp_path / "cache").has_places


def test_a_patient_without_slides_has_an_empty_bag(store, tmp_path):
    bags = build_bags(store, [[], ["s2"], []], tmp_path / "cache")
    assert bags.sizes.tolist() == [0, 4, 0]
    assert bags.bag(0).shape == (0, 5)


_SMALL_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from storm_clinic.features.store import FeatureStore
from storm_clinic.heads.bag_cache import build_bags
from storm_clinic.heads.bags import Bags

store, cache = FeatureStore.open(sys.argv[1]), Path(sys.argv[2])
patients = [[slide_id] for slide_id in store.slide_ids()]
store.index()
used = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
n_bytes = sum(path.stat().st_size for path in Path(sys.argv[1]).glob("*.h5"))
limit = int(used.split()[1]) * 1024 + 2 * n_bytes // 3
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(n_bytes, np.uint8)
except MemoryError:
    bags = build_bags(store, patients, cache)
    np.save(sys.argv[3], np.vstack([bags.pooled_mean(), *bags.tile_moments()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")
def test_a_cohort_larger_than_memory_is_packed_and_read_from_its_file(tmp_path):
    contract = FeatureContract(
        "wide", None, width=64, mpp=None, tile_px=None, provenance="declared"
    )
    store = FeatureStore.create(tmp_path / "wide", contract)
    rng = np.random.default_rng(5)
    tiles = rng.normal(size=(16_000, 64)).astype(np.float16)
    slides = [tiles + np.float16(at) for at in range(20)]  # 41 MB
    for at, features in enumerate(slides):
        put(store, f"s{at:02d}", features)
    found = tmp_path / "found.npy"
    given = [store.folder, tmp_path / "cache", found]
    subprocess.run([sys.executable, "-c", _SMALL_MEMORY, *map(str, given)], check=True)
    *means, centre, scale = np.load(found)
    exact = [features.mean(axis=0, dtype=np.float64) for features in slides]
    np.testing.assert_allclose(means, exact, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(centre, np.mean(exact, axis=0), rtol=1e-9, atol=1e-12)
    squares = [(features.astype(np.float64) ** 2).mean(axis=0) for features in slides]
    np.testing.assert_allclose(scale, np.sqrt(np.mean(squares, axis=0) - centre**2), rtol=1e-6)
