"""STORM files written to the format's text alone, read as models see them."""

from __future__ import annotations

import hashlib

import h5py
import numpy as np
import pytest

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.storm_store import StormStore

GENES = ["ACTB", "VHL", "MYC", "CD8A"]
LOWER = [0.2, 0.0, -0.1, 0.05]  # of VHL and MYC nothing is known to be learnt


def sha256(array: np.ndarray) -> np.bytes_:
    shape = " ".join(map(str, array.shape))
    head = f"{array.dtype.str} {shape}\n".encode()
    return np.bytes_(hashlib.sha256(head + array.tobytes()).hexdigest())


def write_storm(folder, slide_id, n_tiles=3, *, mean=None, genes=GENES, seed=0, **attributes):
    """One file as docs/formats.md has it, with h5py and hashlib alone."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "spots": rng.normal(size=(n_tiles, 4)).astype("<f2"),
        "coords": rng.integers(0, 9000, (n_tiles, 2)).astype("<i8"),
        "expression/slide": np.array(rng.random(4) if mean is None else mean, "<f4"),
        "expression/genes": np.array([gene.encode() for gene in genes]),
        "expression/heldout_r": np.array(LOWER, "<f4") + np.float32(0.1),
        "expression/heldout_r_lower": np.array(LOWER, "<f4"),
    }
    facts = {
        "format": b"storm_clinic/slide-storm",
        "format_version": 1,
        "slide_id": slide_id.encode(),
        "provenance": b"extracted",
        "checkpoint_digest": b"c" * 64,
        "source_digest": b"d" * 64,
        "mpp": 0.5,
        "tile_px": 224,
        "slide_mpp": 0.25,
    }
    with h5py.File(folder / f"{slide_id}.h5", "w") as file:
        for name, value in (facts | attributes).items():
            file.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value
        for name, array in arrays.items():
            file.create_dataset(name, data=array).attrs["sha256"] = sha256(array)
        file.create_dataset("expression/values", data=np.zeros((n_tiles, 4), "f2"), chunks=(1, 4))
    return arrays


def test_licences_that_storm_files_state_apply_together(tmp_path):
    write_storm(tmp_path / "storm", "S1", licence=b"MIT AND CC-BY-NC-ND-4.0")
    write_storm(tmp_path / "storm", "S2", licence=b"MIT")
    assert StormStore.open(tmp_path / "storm").contract.licence == "MIT AND CC-BY-NC-ND-4.0"
    write_storm(tmp_path / "silent", "S1")
    assert StormStore.open(tmp_path / "silent").contract.licence is None


def test_the_embeddings_of_tiles_are_those_that_were_written(tmp_path):
    arrays = write_storm(tmp_path / "storm", "S1")
    store = StormStore.open(tmp_path / "storm")
    slide = store.read("S1")
    np.testing.assert_array_equal(slide.features, arrays["spots"])
    np.testing.assert_array_equal(slide.coords, arrays["coords"])
    assert (slide.slide_mpp, store.contract.width, store.contract.tile_um) == (0.25, 4, 112.0)
    assert store.contract.encoder_digest == "c" * 64
    assert store.index()["features_digest"].tolist() == [sha256(arrays["spots"]).decode()]


def test_a_patients_expression_is_weighted_by_the_tiles_of_their_slides(tmp_path):
    write_storm(tmp_path, "S1", 1, mean=[4, 1, 1, 8])
    write_storm(tmp_path, "S2", 3, mean=[0, 1, 1, 4])
    table = StormStore.open(tmp_path).mean_expression([["S1", "S2"], [], ["S2"]])
    # Only genes whose held-out correlation lies above zero with confidence.
    assert table.columns.tolist() == ["ACTB", "CD8A"]
    np.testing.assert_allclose(table, [[1, 5], [np.nan, np.nan], [0, 4]])


def test_files_of_two_checkpoints_are_refused_with_both_values(tmp_path):
    write_storm(tmp_path, "S1")
    write_storm(tmp_path, "S2", checkpoint_digest=b"e" * 64)
    with pytest.raises(ContractMismatch, match=f"encoder_digest is '{'c' * 64}', not '{'e' * 64}'"):
        StormStore.open(tmp_path)


def test_files_that_impute_other_genes_are_refused(tmp_path):
    write_storm(tmp_path, "S1")
    write_storm(tmp_path, "S2", genes=["GAPDH", *GENES[1:]])
    with pytest.raises(ContractMismatch, match=r"S2\.h5: imputes other genes"):
        StormStore.open(tmp_path).mean_expression([["S1", "S2"]])


@pytest.mark.parametrize("name", ["spots", "expression/slide", "expression/heldout_r_lower"])
def test_a_changed_value_is_noticed(tmp_path, name):
    write_storm(tmp_path, "S1")
    with h5py.File(tmp_path / "S1.h5", "r+") as file:
        file[name][0] = 0.75
    store = StormStore.open(tmp_path)
    with pytest.raises(FeatureError, match=rf"S1\.h5: {name}: its values are not those"):
        store.read("S1") if name == "spots" else store.expression("S1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": b"storm_clinic/slide-features"}, "not a STORM file"),
        ({"format_version": 2}, "format_version is not 1"),
        ({"slide_id": b"S2"}, "holds slide 'S2', not 'S1'"),
    ],
)
def test_another_file_is_named(tmp_path, changes, message):
    write_storm(tmp_path, "S1")
    with h5py.File(tmp_path / "S1.h5", "r+") as file:
        for name, value in changes.items():
            file.attrs[name] = np.bytes_(value) if isinstance(value, bytes) else value
    with pytest.raises(FeatureError, match=message):
        StormStore.open(tmp_path)


def test_a_link_out_of_the_file_is_refused(tmp_path):
    write_storm(tmp_path, "S1")
    with h5py.File(tmp_path / "S1.h5", "r+") as file:
        del file["expression/genes"]
        file["expression/genes"] = h5py.ExternalLink("other.h5", "/genes")
    with pytest.raises(FeatureError, match="genes: is a link to somewhere else"):
        StormStore.open(tmp_path).expression("S1")


def test_a_folder_without_files_says_what_to_look_at(tmp_path):
    with pytest.raises(FeatureError, match=r"holds no STORM file. Check features.storm"):
        StormStore.open(tmp_path)
