"""Round trips with TRIDENT, CLAM, STAMP and AnnData: ours to theirs to ours, and theirs to ours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from storm_clinic.errors import FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.declaration import Declaration
from storm_clinic.features.handover import EXPORTED, FAILED, UNCHANGED, export_slides
from storm_clinic.features.interop import import_slides
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore

LAYOUTS = ["trident", "clam", "stamp", "anndata"]
SLIDE_MPP = {"s1": 0.2527, "s2": 0.5013}


def coords_of(slide_mpp: float, n: int) -> np.ndarray:
    side = round(224 * 0.5 / slide_mpp)
    return np.stack([np.arange(n) * side + 101_337, np.arange(n)[::-1] * side + 7], axis=1)


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    contract = FeatureContract(
        encoder="uni",
        encoder_digest="0" * 64,
        width=5,
        mpp=0.5,
        tile_px=224,
        overlap_px=16,
        pooling="cls",
        licence="terms of our own",
    )
    store = FeatureStore.create(tmp_path / "ours" / "uni", contract)
    rng = np.random.default_rng(0)
    for slide_id, mpp in SLIDE_MPP.items():
        n = 7 if slide_id == "s1" else 3
        store.write(
            SlideFeatures(
                slide_id=slide_id,
                features=rng.normal(size=(n, 5)).astype(np.float16),
                coords=coords_of(mpp, n).astype(np.int64),
                tissue=np.ones(n, np.float16),
                failed_coords=np.empty((0, 2), np.int64),
                slide_digest="quickhash",
                slide_mpp=mpp,
                slide_mpp_source="slide",
            )
        )
    return store


def files_of(result) -> list[Path]:
    return [Path(path) for path in result.table["path"]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_goes_out_comes_back_bit_for_bit(store, tmp_path, layout):
    result = export_slides(store, tmp_path / "out", layout)
    assert result.table["status"].tolist() == [EXPORTED, EXPORTED]
    back = import_slides(files_of(result), tmp_path / "back" / "uni", Declaration("uni")).store
    for name in ("mpp", "tile_px", "overlap_px", "dtype", "width", "encoder", "licence"):
        assert getattr(back.contract, name) == getattr(store.contract, name)
    for slide_id in SLIDE_MPP:
        one, other = store.read(slide_id), back.read(slide_id)
        assert one.features.dtype == other.features.dtype
        np.testing.assert_array_equal(other.features, one.features)
        np.testing.assert_array_equal(other.coords, one.coords)
        assert other.slide_mpp == one.slide_mpp


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_export_changes_nothing_and_other_content_is_not_overwritten(
    store, tmp_path, layout
):
    first = export_slides(store, tmp_path / "out", layout)
    before = {path: path.read_bytes() for path in files_of(first)}
    assert export_slides(store, tmp_path / "out", layout).count(UNCHANGED) == 2
    assert {path: path.read_bytes() for path in files_of(first)} == before
    path = files_of(first)[0]
    with h5py.File(path, "r+") as file:
        name = {"stamp": "feats", "anndata": "X"}.get(layout, "features")
        file[name][0, 0] = 99
    again = export_slides(store, tmp_path / "out", layout)
    assert again.table["status"].tolist() == [FAILED, UNCHANGED]
    assert "already holds something else" in again.failures["reason"][0]
    assert again.exit_code == 3


def test_tridents_files_say_what_trident_reads(store, tmp_path):
    export_slides(store, tmp_path, "trident")
    path = tmp_path / "20x_224px_16px_overlap" / "features_uni" / "s1.h5"
    with h5py.File(path) as file:
        assert file["features"].shape == (7, 5)
        assert file["coords"].dtype == np.int64
        said = dict(file["coords"].attrs)
        assert said["patch_size"] == 224
        assert said["patch_size_level0"] == 443  # 112 µm at 0.2527 µm/px
        assert (said["level0_magnification"], said["target_magnification"]) == (40, 20)
        assert said["overlap"] == 16
        assert file["features"].attrs["encoder"] == "uni"


def test_stamps_files_say_what_stamp_reads(store, tmp_path):
    export_slides(store, tmp_path, "stamp")
    with h5py.File(tmp_path / "s1.h5") as file:
        assert file["feats"].shape == (7, 5)
        assert file.attrs["unit"] == "um"
        assert file.attrs["tile_size_um"] == pytest.approx(112.0)
        assert file.attrs["tile_size_px"] == 224
        assert file.attrs["extractor"] == "uni"
        assert file.attrs["feat_type"] == "tile"
        expected = coords_of(0.2527, 7) * 0.2527
        np.testing.assert_allclose(file["coords"][()], expected, rtol=1e-6)


def test_clam_gets_tensors_beside_its_hdf5(store, tmp_path):
    export_slides(store, tmp_path, "clam")
    tensor = torch.load(tmp_path / "pt_files" / "s2.pt", weights_only=True)
    np.testing.assert_array_equal(tensor.numpy(), store.read("s2").features)


def test_anndata_reads_tiles_and_slides(store, tmp_path):
    anndata = pytest.importorskip("anndata")
    export_slides(store, tmp_path / "tiles", "anndata")
    tiles = anndata.read_h5ad(tmp_path / "tiles" / "s1.h5ad")
    np.testing.assert_array_equal(tiles.X, store.read("s1").features)
    np.testing.assert_array_equal(tiles.obsm["spatial"], store.read("s1").coords)
    assert tiles.uns["storm_clinic"]["mpp"] == 0.5
    export_slides(store, tmp_path / "slides", "anndata", obs="slides")
    slides = anndata.read_h5ad(tmp_path / "slides" / "uni.h5ad")
    assert slides.obs_names.tolist() == ["s1", "s2"]
    assert slides.obs["n_tiles"].tolist() == [7, 3]
    mean = store.read("s2").features.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(slides.X[1], mean, rtol=1e-6)
    back = import_slides(
        [tmp_path / "slides" / "uni.h5ad"], tmp_path / "back" / "uni", Declaration("uni")
    ).store
    assert back.slide_ids() == ["s1", "s2"]
    np.testing.assert_array_equal(back.read("s2").features, slides.X[[1]])
    assert back.read("s2").coords is None


def foreign_stamp(path: Path, **attributes) -> None:
    """A file as STAMP writes it (version of April 2026), by hand."""
    with h5py.File(path, "w") as file:
        file["coords"] = np.array([[0.0, 256.0], [512.0, 256.0]], np.float32)
        file["feats"] = np.arange(6, dtype=np.float16).reshape(2, 3)
        file.attrs["stamp_version"] = "2.4.0"
        file.attrs["extractor"] = "chief-ctranspath"
        file.attrs["code_hash"] = "abcdef12"
        for name, value in attributes.items():
            file.attrs[name] = value


NEW = {"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224, "feat_type": "tile"}


def test_stamps_micrometres_become_pixels_only_by_the_slides_own_scale(tmp_path):
    foreign_stamp(tmp_path / "x.h5", **NEW)
    declared = Declaration("ctranspath")
    alone = import_slides([tmp_path / "x.h5"], tmp_path / "a" / "e", declared)
    assert "are in µm, and the slide's own µm per pixel is not known" in alone.failures["reason"][0]
    known = import_slides(
        [tmp_path / "x.h5"], tmp_path / "b" / "e", declared, slide_mpps={"x": 0.25}
    )
    slide = known.store.read("x")
    assert slide.coords.tolist() == [[0, 1024], [2048, 1024]]
    assert known.store.contract.mpp == pytest.approx(256 / 224)
    assert known.store.contract.tile_px == 224


def test_stamp_2_0_said_tile_size_and_its_first_version_no_unit(tmp_path):
    foreign_stamp(tmp_path / "x.h5", unit="um", tile_size=256.0)
    second = Declaration("e", mpp=256 / 224, tile_px=224)
    store = import_slides([tmp_path / "x.h5"], tmp_path / "a" / "e", second, slide_mpps={"x": 0.5})
    assert store.store.read("x").coords.tolist() == [[0, 512], [1024, 512]]
    foreign_stamp(tmp_path / "y.h5", tile_size=224)
    with pytest.raises(FeatureError, match="nobody knows what coords are counted in"):
        import_slides([tmp_path / "y.h5"], tmp_path / "b" / "e", second)


def test_what_a_layout_must_state_and_nobody_knows_is_refused_slide_by_slide(tmp_path):
    contract = FeatureContract("hipt", None, 4, None, None, dtype="float32", provenance="declared")
    store = FeatureStore.create(tmp_path / "c" / "hipt", contract)
    store.write(SlideFeatures("s", np.ones((2, 4), np.float32)))
    for layout in ("trident", "stamp"):
        result = export_slides(store, tmp_path / layout, layout)
        assert "state where its tiles lie, and that is not known" in result.failures["reason"][0]
    assert export_slides(store, tmp_path / "clam", "clam").count(EXPORTED) == 1
    assert export_slides(store, tmp_path / "ad", "anndata").count(EXPORTED) == 1


def test_a_damaged_slide_does_not_stop_the_others(store, tmp_path):
    whole = store.path("s1").read_bytes()
    store.path("s1").write_bytes(whole[: len(whole) // 2])
    result = export_slides(store, tmp_path / "out", "trident")
    assert result.table.set_index("slide_id")["status"].to_dict() == {"s1": FAILED, "s2": EXPORTED}


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda f: f.__delitem__("feats"), "there is no such dataset"),
        (lambda f: f["coords"].__setitem__((0, 0), np.nan), "must be finite numbers"),
        (lambda f: f["coords"].__setitem__((0, 0), -5.0), "must not be negative"),
        (lambda f: f["feats"].__setitem__((0, 0), np.nan), "NaN"),
    ],
)
def test_malformed_files_are_named_with_the_key_at_fault(tmp_path, break_it, problem):
    foreign_stamp(tmp_path / "good.h5", **NEW)
    foreign_stamp(tmp_path / "bad.h5", **NEW)
    with h5py.File(tmp_path / "bad.h5", "r+") as file:
        break_it(file)
    result = import_slides(
        [tmp_path / "good.h5", tmp_path / "bad.h5"],
        tmp_path / "c" / "e",
        Declaration("e"),
        slide_mpps={"good": 0.5, "bad": 0.5},
    )
    assert result.table.set_index("slide_id")["status"].to_dict()["good"] == "imported"
    assert problem in result.failures["reason"][0]


def test_values_that_lie_in_another_file_are_refused(tmp_path):
    foreign_stamp(tmp_path / "real.h5", **NEW)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["feats"] = h5py.ExternalLink("real.h5", "feats")
    with pytest.raises(FeatureError, match="link to somewhere else"):
        import_slides([tmp_path / "link.h5"], tmp_path / "c" / "e", Declaration("e"))
