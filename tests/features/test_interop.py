"""Embeddings of other programs come in as they are, under what was declared, or not at all."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.declaration import Declaration
from storm_clinic.features.interop import find_sources, import_slides
from storm_clinic.features.store import FeatureStore

WIDTH = 5
TWENTY_X = {"encoder": "uni", "mpp": 0.5, "tile_px": 256}


def tiles(seed, n_tiles=7, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tiles, WIDTH)).astype(dtype), rng.integers(0, 90_000, (n_tiles, 2))


def trident_file(path, seed=0, **changes):
    """As TRIDENT's feature files are: chunks of one tile, geometry on ``coords``."""
    features, coords = tiles(seed)
    attributes = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": path.stem,
        "savetodir": "somewhere",
        "level0_width": 100_000,
        "level0_height": 80_000,
    } | changes
    with h5py.File(path, "w") as file:
        size = {"maxshape": (None, WIDTH), "chunks": (1, WIDTH)}
        dataset = file.create_dataset("features", data=features, **size)
        dataset.attrs.update({"name": path.stem, "encoder": attributes.pop("encoder", "uni_v2")})
        place = file.create_dataset("coords", data=coords, maxshape=(None, 2), chunks=(1, 2))
        place.attrs.update({key: value for key, value in attributes.items() if value is not None})
    return features, coords


def clam_file(path, seed=0):
    """As CLAM's: float32 features and int32 coordinates, and nothing said about them."""
    features, coords = tiles(seed)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(1, WIDTH), maxshape=(None, WIDTH))
        file.create_dataset("coords", data=coords.astype(np.int32), maxshape=(None, 2))
    return features, coords


def bare_file(path, seed=0, **attributes):
    features, _ = tiles(seed)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, compression="gzip")
        file.attrs.update(attributes)
    return features


@pytest.fixture
def given(tmp_path):
    """Folder for other people's files."""
    folder = tmp_path / "given"
    folder.mkdir()
    return folder


@pytest.fixture
def bring(given, tmp_path):
    """Import all that is given under a declaration."""

    def run(slides=None, progress=None, **declared):
        declaration = Declaration(**({"encoder": "uni"} | declared))
        folder = tmp_path / "store"
        return import_slides([given], folder, declaration, slides=slides, progress=progress)

    return run


def by_slide(result):
    return result.table.set_index("slide_id")


# Layouts


def test_trident_files_come_in_with_their_coordinates_and_geometry(given, bring):
    features, coords = trident_file(given / "S-1.h5")
    result = bring(mpp=0.5)
    slide = result.store.read("S-1")
    assert slide.features.dtype == np.float32
    np.testing.assert_array_equal(slide.features, features)
    np.testing.assert_array_equal(slide.coords, coords)
    contract = result.store.contract
    assert (contract.mpp, contract.tile_px, contract.overlap_px) == (0.5, 256, 0)
    assert (contract.provenance, contract.encoder_digest) == ("declared", None)
    # 256 px at 0.5 µm are 128 µm, which TRIDENT says are 512 level-0 px.
    assert (slide.slide_mpp, slide.slide_mpp_source) == (0.25, "declared")
    assert slide.slide_digest is None


@pytest.mark.parametrize(
    ("declared", "licence"),
    [
        ({"encoder": "uni"}, "CC-BY-NC-ND-4.0"),
        ({"encoder": "titan"}, "CC-BY-NC-ND-4.0"),  # a slide encoder
        ({"encoder": "uni", "licence": "by contract"}, "by contract"),
        ({"encoder": "nobody-knows"}, None),
    ],
)
def test_a_licence_is_declared_or_of_the_catalogue_or_not_known(given, bring, declared, licence):
    trident_file(given / "S1.h5")
    assert bring(mpp=0.5, **declared).store.contract.licence == licence


def test_overlap_that_trident_states_is_kept(given, bring):
    trident_file(given / "S-1.h5", overlap=32)
    assert bring(mpp=0.5).store.contract.overlap_px == 32


def test_clam_files_come_in_under_declared_geometry(given, bring):
    features, coords = clam_file(given / "S-1.h5")
    slide = bring(mpp=0.5, tile_px=256).store.read("S-1")
    np.testing.assert_array_equal(slide.features, features)
    np.testing.assert_array_equal(slide.coords, coords)
    assert slide.slide_mpp is None


def test_features_with_a_leading_one_are_the_same_features(given, bring):
    features, coords = tiles(3)
    with h5py.File(given / "S-1.h5", "w") as file:
        file["features"], file["coords"] = features[None], coords[None]
    slide = bring(mpp=0.5, tile_px=256).store.read("S-1")
    np.testing.assert_array_equal(slide.features, features)
    np.testing.assert_array_equal(slide.coords, coords)


def test_features_without_coordinates_come_in_where_geometry_is_unknown(given, bring):
    features = bare_file(given / "S-1.h5", region_px=4096, encoder="HIPT")
    result = bring(geometry_unknown=True)
    slide = result.store.read("S-1")
    np.testing.assert_array_equal(slide.features, features)
    assert slide.coords is None
    assert not result.store.contract.geometry_known
    assert result.table["stated"].item() == "encoder HIPT, tile_px 4096"


def test_whole_float_coordinates_are_pixels(given, bring):
    features, coords = tiles(0)
    with h5py.File(given / "S-1.h5", "w") as file:
        file["features"], file["coords"] = features, coords.astype(np.float64)
    read = bring(mpp=0.5, tile_px=256).store.read("S-1").coords
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, coords)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("float32", "float32"),
        ("float16", "float16"),
        ("float64", "float64"),
        ("bfloat16", "float32"),
    ],
)
def test_tensors_of_torch_come_in_exactly(given, bring, name, stored):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(tiles(0)[0]).to(getattr(torch, name))
    torch.save(tensor, given / "S-1.pt")
    read = bring(mpp=0.5, tile_px=256).store.read("S-1").features
    assert read.dtype.name == stored
    np.testing.assert_array_equal(read.astype(np.float64), tensor.double().numpy())


def test_tensors_in_the_old_format_and_in_a_dictionary_come_in_too(given, bring):
    torch = pytest.importorskip("torch")
    features, coords = tiles(0)
    old = torch.from_numpy(features).requires_grad_()
    torch.save(old, given / "S-1.pt", _use_new_zipfile_serialization=False)
    torch.save(
        {"features": torch.from_numpy(features) + 1, "coords": torch.from_numpy(coords)},
        given / "S-2.pt",
    )
    store = bring(mpp=0.5, tile_px=256).store
    np.testing.assert_array_equal(store.read("S-1").features, features)
    np.testing.assert_array_equal(store.read("S-2").features, features + 1)
    np.testing.assert_array_equal(store.read("S-2").coords, coords)


class Trap:
    """Would run a command if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_a_tensor_file_that_would_run_code_is_refused_and_runs_nothing(given, bring, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"features": Trap(tmp_path / "ran")}, given / "S-1.pt")
    clam_file(given / "S-2.h5")
    result = bring(mpp=0.5, tile_px=256)
    assert "cannot be read as a tensor" in by_slide(result).loc["S-1", "reason"]
    assert not (tmp_path / "ran").exists()


# Geometry is declared or stated, never guessed


def test_files_that_state_nothing_need_both_flags(given, bring):
    clam_file(given / "S-1.h5")
    with pytest.raises(FeatureError) as caught:
        bring()
    message = str(caught.value)
    assert "the files do not state mpp and tile_px (stated: nothing)" in message
    assert "Add --mpp and --tile-px" in message
    assert "or --geometry-unknown" in message


def test_a_magnification_is_not_a_pixel_size(given, bring):
    trident_file(given / "S-1.h5")
    with pytest.raises(FeatureError) as caught:
        bring()
    message = str(caught.value)
    assert "the files do not state mpp (stated: encoder uni_v2, tile_px 256" in message
    assert "Add --mpp as the encoder saw" in message


def test_stated_geometry_needs_no_flag(given, bring):
    bare_file(given / "S-1.h5", mpp=0.5, tile_px=224)
    contract = bring().store.contract
    assert (contract.mpp, contract.tile_px) == (0.5, 224)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"mpp": 0.25, "tile_px": 256}, "states mpp 0.5, but --mpp is 0.25"),
        ({"mpp": 0.5, "tile_px": 224}, "states tile_px 256, but --tile-px is 224"),
        ({"geometry_unknown": True}, "states mpp 0.5 and tile_px 256, but --geometry-unknown"),
    ],
)
def test_a_flag_that_contradicts_the_files_is_an_error_with_both_values(
    given, bring, declared, message
):
    bare_file(given / "S-1.h5", mpp=0.5, tile_px=256)
    with pytest.raises(FeatureError, match=message):
        bring(**declared)


@pytest.mark.parametrize(
    ("mpp", "allowed"), [(0.45, True), (0.55, True), (0.25, False), (1, False)]
)
def test_a_pixel_size_must_be_possible_at_the_stated_magnification(given, bring, mpp, allowed):
    trident_file(given / "S-1.h5", target_magnification=20)
    if allowed:
        assert bring(mpp=mpp).count("imported") == 1
    else:
        message = f"states target_magnification 20, about 0.5 µm/px, but --mpp is {mpp:g}"
        with pytest.raises(FeatureError, match=message):
            bring(mpp=mpp)


def test_what_trident_does_not_know_counts_as_unstated(given, bring):
    trident_file(given / "S-1.h5", target_magnification=-1, encoder="None")
    assert bring(mpp=2.0).table["stated"].item() == "tile_px 256, overlap_px 0"


@pytest.mark.parametrize("flag", [{"mpp": 0.5}, {"tile_px": 256}, {"mpp": 0.5, "tile_px": 256}])
def test_geometry_cannot_be_declared_and_unknown(flag):
    with pytest.raises(FeatureError, match="--geometry-unknown contradicts"):
        Declaration("uni", geometry_unknown=True, **flag)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"mpp": 0.0, "tile_px": 256}, r"mpp must lie within 0\.05 to 20\.0 µm, is 0\.0"),
        ({"mpp": 0.5, "tile_px": 0}, "tile_px must be positive, is 0"),
    ],
)
def test_a_declared_geometry_must_be_possible(given, bring, declared, message):
    clam_file(given / "S-1.h5")
    with pytest.raises(FeatureError, match=message):
        bring(**declared)


def test_one_file_that_contradicts_the_others_fails_alone(given, bring):
    for number in range(4):
        bare_file(given / f"S-{number}.h5", seed=number, mpp=0.5, tile_px=256, encoder="uni")
    bare_file(given / "T-mpp.h5", mpp=0.25, tile_px=256)
    bare_file(given / "T-px.h5", mpp=0.5, tile_px=512)
    bare_file(given / "T-none.h5")
    bare_file(given / "T-encoder.h5", mpp=0.5, tile_px=256, encoder="conch")
    with h5py.File(given / "T-width.h5", "w") as file:
        file["features"] = np.ones((3, WIDTH + 1), np.float32)
    with h5py.File(given / "T-dtype.h5", "w") as file:
        file["features"] = np.ones((3, WIDTH), np.float16)
    result = bring()
    reasons = by_slide(result)["reason"]
    assert result.count("imported") == 4
    assert reasons["T-mpp"] == "states mpp 0.25, but the others state 0.5"
    assert reasons["T-px"] == "states tile_px 512, but the others state 256"
    assert reasons["T-none"] == "states no mpp, but the others state 0.5; add --mpp"
    assert reasons["T-encoder"] == "states the encoder 'conch', the others 'uni'"
    assert reasons["T-width"] == "holds 6 values a tile as float32, the others 5 as float32"
    assert reasons["T-dtype"] == "holds 5 values a tile as float16, the others 5 as float32"
    assert result.exit_code == 3


# Nothing stops the batch, nothing is dropped in silence


def test_each_file_that_cannot_be_used_has_a_row_with_its_reason(given, bring):
    clam_file(given / "good.h5")
    whole = (given / "good.h5").read_bytes()
    (given / "truncated.h5").write_bytes(whole[: len(whole) // 2])
    (given / "text.h5").write_text("slide,feature\n")
    (given / "empty.h5").write_bytes(b"")
    (given / ".hidden.h5").write_bytes(whole)
    features, coords = tiles(0)
    layouts = {
        "stamp": {"feats": features, "coords": coords},
        "vector": {"features": features[0]},
        "four": {"features": features[None, None]},
        "integers": {"features": features.astype(np.int32)},
        "no-tiles": {"features": features[:0], "coords": coords[:0]},
        "short": {"features": features, "coords": coords[:-1]},
        "microns": {"features": features, "coords": coords + 0.5},
        "nan": {"features": np.where(np.arange(7)[:, None] == 2, np.nan, features)},
        "bytes": {"features": np.array([b"a"])},
    }
    for name, datasets in layouts.items():
        with h5py.File(given / f"{name}.h5", "w") as file:
            for key, values in datasets.items():
                file[key] = values.astype(np.float32) if name == "nan" else values
    result = bring(mpp=0.5, tile_px=256)
    rows = by_slide(result)
    assert list(rows.index[rows["status"] == "imported"]) == ["good"]
    expected = {
        "truncated": "cannot be read as HDF5",
        "text": "cannot be read as HDF5",
        "empty": "cannot be read as HDF5",
        ".hidden": "cannot become a file name",
        "stamp": "attribute unit: is absent",
        "vector": "features: is one vector of 5, not one a tile",
        "four": "features: must be (n_tiles, width), is (1, 1, 7, 5)",
        "integers": "features: must be floating point, is int32",
        "no-tiles": "features: there is no tile",
        "short": "coords: must be (7, 2), is (6, 2)",
        "microns": "coords: must be whole level-0 pixels",
        "nan": "1 of 7 tiles hold NaN or infinity, the first is row 2",
        "bytes": "features: is one vector of 1",
    }
    for name, reason in expected.items():
        assert rows.loc[name, "status"] == "failed"
        assert reason in rows.loc[name, "reason"]
        assert rows.loc[name, "source"].endswith(f"{name}.h5")
    assert len(rows) == len(expected) + 1
    assert (len(result.failures), result.exit_code) == (len(expected), 3)
    assert result.store.slide_ids() == ["good"]


def external(file):
    file["features"] = h5py.ExternalLink("other.h5", "/features")


def soft(file):
    file["real"] = np.ones((3, WIDTH), np.float32)
    file["features"] = h5py.SoftLink("/real")


def virtual(file):
    layout = h5py.VirtualLayout((3, WIDTH), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "features", (3, WIDTH))
    file.create_virtual_dataset("features", layout)


@pytest.mark.parametrize("write", [external, soft, virtual])
def test_a_source_cannot_make_us_read_another_file(given, bring, write):
    clam_file(given / "good.h5")
    with h5py.File(given / "S-1.h5", "w") as file:
        write(file)
    reason = by_slide(bring(mpp=0.5, tile_px=256)).loc["S-1", "reason"]
    assert "is a link to somewhere else" in reason or "keeps its values in another file" in reason


def test_if_no_file_can_be_used_the_first_reason_is_the_error(given, bring):
    (given / "S-1.h5").write_text("no")
    with pytest.raises(FeatureError, match=r"none of the 1 sources.*S-1\.h5: cannot be read"):
        bring(mpp=0.5, tile_px=256)


def test_two_files_of_one_slide_are_both_refused(given, bring):
    torch = pytest.importorskip("torch")
    features, _ = clam_file(given / "S-1.h5")
    torch.save(torch.from_numpy(features), given / "S-1.pt")
    clam_file(given / "S-2.h5", seed=2)
    result = bring(mpp=0.5, tile_px=256)
    failed = result.failures
    assert list(failed["slide_id"]) == ["S-1", "S-1"]
    assert failed["reason"].str.contains("is of the same slide; name one of them").all()
    assert result.store.slide_ids() == ["S-2"]


def test_slides_are_held_against_the_cohort(given, bring):
    for number in (1, 2):
        clam_file(given / f"S-{number}.h5", seed=number)
    result = bring(mpp=0.5, tile_px=256, slides=["S-2", "S-3"])
    assert dict(by_slide(result)["status"]) == {
        "S-1": "not in cohort",
        "S-2": "imported",
        "S-3": "no file",
    }
    assert result.store.slide_ids() == ["S-2"]
    assert result.exit_code == 0


def test_names_that_fit_no_slide_of_the_cohort_are_an_error(given, bring):
    clam_file(given / "S-1.h5")
    with pytest.raises(FeatureError, match="'S-1' is a file, 'TCGA-1' is a slide"):
        bring(mpp=0.5, tile_px=256, slides=["TCGA-2", "TCGA-1"])


def test_sources_may_be_files_and_folders(given, tmp_path):
    clam_file(given / "S-1.h5")
    clam_file(tmp_path / "S-2.hdf5")
    (given / "notes.txt").write_text("not features")
    found = find_sources([tmp_path / "S-2.hdf5", given, given / "S-1.h5"])
    assert found == [tmp_path / "S-2.hdf5", given / "S-1.h5"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "there is no such file"), ("given/notes.txt", "not a feature file")],
)
def test_a_source_that_cannot_be_one_is_an_error(given, tmp_path, name, message):
    (given / "notes.txt").write_text("not features")
    with pytest.raises(FeatureError, match=message):
        find_sources([tmp_path / name])


def test_a_folder_of_folders_asks_for_the_right_one(given):
    (given / "h5_files").mkdir()
    with pytest.raises(FeatureError, match="Name the folder in which the files themselves lie"):
        find_sources([given])


# Again


def test_a_second_import_does_nothing(given, bring):
    for number in range(3):
        trident_file(given / f"S-{number}.h5", seed=number)
    store = bring(mpp=0.5).store
    before = {path: path.stat() for path in sorted(store.folder.iterdir())}
    result = bring(mpp=0.5)
    assert set(result.table["status"]) == {"unchanged"}
    assert {path: path.stat() for path in sorted(store.folder.iterdir())} == before


def test_an_interrupted_import_goes_on_where_it_was(given, bring):
    for number in range(3):
        trident_file(given / f"S-{number}.h5", seed=number)
    store = bring(mpp=0.5).store
    whole = store.path("S-1").read_bytes()
    store.path("S-1").unlink()
    assert dict(by_slide(bring(mpp=0.5))["status"]) == {
        "S-0": "unchanged",
        "S-1": "imported",
        "S-2": "unchanged",
    }
    assert store.path("S-1").read_bytes() == whole


@pytest.mark.parametrize("name", ["features", "coords"])
def test_other_values_for_a_slide_that_is_there_are_refused(given, bring, name):
    trident_file(given / "S-1.h5")
    store = bring(mpp=0.5).store
    before = store.path("S-1").read_bytes()
    with h5py.File(given / "S-1.h5", "r+") as file:
        file[name][0, 0] = 77
    row = bring(mpp=0.5).table.iloc[0]
    assert row["status"] == "failed"
    assert "already holds other features of this slide; remove that file" in row["reason"]
    assert store.path("S-1").read_bytes() == before


def test_a_damaged_file_in_the_store_is_not_replaced_in_silence(given, bring):
    trident_file(given / "S-1.h5")
    trident_file(given / "S-2.h5", seed=2)
    store = bring(mpp=0.5).store
    store.path("S-1").write_bytes(b"damaged")
    rows = by_slide(bring(mpp=0.5))
    assert "cannot be read as HDF5" in rows.loc["S-1", "reason"]
    assert "remove that file to import this one" in rows.loc["S-1", "reason"]
    assert rows.loc["S-2", "status"] == "unchanged"


def test_an_import_into_a_store_made_otherwise_is_refused(given, bring, tmp_path):
    clam_file(given / "S-1.h5")
    bring(mpp=0.5, tile_px=256)
    with pytest.raises(ContractMismatch, match=r"mpp is 0\.5, not 0\.25"):
        bring(mpp=0.25, tile_px=256)
    assert FeatureStore.open(tmp_path / "store").contract.mpp == 0.5


def test_progress_counts_slides(given, bring):
    for number in range(3):
        clam_file(given / f"S-{number}.h5", seed=number)
    seen = []
    bring(mpp=0.5, tile_px=256, progress=lambda *args: seen.append(args))
    assert seen == [("importing slides", done, 3) for done in (1, 2, 3)]


# Real embeddings


@pytest.mark.parametrize(("cohort", "n_slides"), [("tcga_kirc", 500), ("tcga_kirp", 292)])
def test_real_embeddings_come_in_whole(shared_data, tmp_path, cohort, n_slides):
    folder = shared_data / cohort
    expected = pd.read_csv(folder / "slides.csv").set_index("slide_id")["n_regions"]
    result = import_slides(
        [folder / "features"],
        tmp_path / "hipt-vit4k",
        Declaration("hipt-vit4k", geometry_unknown=True),
        slides=list(expected.index),
    )
    assert result.count("imported") == n_slides
    index = result.store.index().set_index("slide_id")
    pd.testing.assert_series_equal(
        index["n_tiles"], expected.sort_index(), check_names=False, check_index_type=False
    )
    some = list(expected.index[:: n_slides // 5])
    for slide_id in some:
        with h5py.File(folder / "features" / f"{slide_id}.h5") as file:
            source = file["features"][()]
        np.testing.assert_array_equal(result.store.read(slide_id).features, source)
        np.testing.assert_array_equal(result.store.memmap(slide_id), source)
    shutil.rmtree(tmp_path / "hipt-vit4k")
