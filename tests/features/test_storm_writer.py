"""STORM files as they are written, opened with h5py and hashlib, and as they are read."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import h5py
import numpy as np
import pytest

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.storm_contract import StormContract, is_storm_folder
from storm_clinic.features.storm_inspection import inspect_storm
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_writer import ImputedGenes, SlideStorm, write_storm_file

N_TILES = 1500
GENES = ImputedGenes(
    symbols=("ERBB2", "ESR1", "GATA3"),
    places=np.array([4, 8, 15]),
    r=np.array([0.5, 0.2, np.nan], np.float32),
    lower=np.array([0.4, -0.1, np.nan], np.float32),
    upper=np.array([0.6, 0.4, np.nan], np.float32),
    how="leave one section out, 5 sections of 1 patient, 3 seeds",
    min_r=None,
    vocabulary_digest="9" * 64,
)
CONTRACT = StormContract(
    checkpoint="storm",
    checkpoint_digest="c" * 64,
    encoder="tiny",
    encoder_digest="e" * 64,
    source_digest="5" * 64,
    width=4,
    mpp=0.5,
    tile_px=224,
    overlap_px=-176,
    n_genes=3,
    genes_digest="7" * 64,
    min_r=None,
    per_tile=True,
    licence="CC-BY-4.0 AND MIT",
)


def expression(n_tiles=N_TILES):
    return np.random.default_rng(1).normal(size=(n_tiles, 3)).astype(np.float32)


def slide_storm(slide_id="S1", **changes):
    rng = np.random.default_rng(0)
    tiles = expression()
    base = SlideStorm(
        slide_id=slide_id,
        spots=rng.normal(size=(N_TILES, 4)).astype(np.float32),
        slide=rng.normal(size=4).astype(np.float32),
        coords=rng.integers(0, 9000, (N_TILES, 2)),
        source_digest="d" * 64,
        slide_mpp=0.25,
        slide_digest="quickhash",
        slide_mpp_source="slide",
        vendor="aperio",
        expression=tiles.mean(axis=0),
        tiles=[tiles[:1024], tiles[1024:]],
        domain_distance=1.5,
        share_outside=0.4,
        domain_warning="40% of tiles look unlike the training sections",
    )
    return replace(base, **changes)


@pytest.fixture
def folder(tmp_path):
    """A folder with a contract and one file."""
    folder = tmp_path / "storm"
    CONTRACT.settle(folder)
    write_storm_file(folder / "S1.h5", slide_storm(), CONTRACT, GENES)
    return folder


def test_every_dataset_is_there_in_its_type_and_form_with_its_digest(folder):
    with h5py.File(folder / "S1.h5") as file:
        found = {}
        file.visititems(
            lambda name, item: (
                found.update({name: item}) if isinstance(item, h5py.Dataset) else None
            )
        )
        forms = {name: (item.dtype.str, item.shape, item.chunks) for name, item in found.items()}
        assert forms == {
            "spots": ("<f2", (N_TILES, 4), None),
            "slide": ("<f4", (4,), None),
            "coords": ("<i8", (N_TILES, 2), None),
            "expression/genes": ("|S5", (3,), None),
            "expression/heldout_r": ("<f4", (3,), None),
            "expression/heldout_r_lower": ("<f4", (3,), None),
            "expression/heldout_r_upper": ("<f4", (3,), None),
            "expression/slide": ("<f4", (3,), None),
            "expression/values": ("<f2", (N_TILES, 3), (1024, 3)),
        }
        for name, item in found.items():
            array = item[()]
            head = f"{array.dtype.str} {' '.join(map(str, array.shape))}\n".encode()
            digest = hashlib.sha256(head + array.tobytes()).hexdigest()
            assert item.attrs["sha256"].decode() == digest, name
        np.testing.assert_array_equal(
            file["expression/values"][()], expression().astype(np.float16)
        )
        assert file["expression/genes"].attrs["vocabulary_digest"] == b"9" * 64
        assert file["expression"].attrs["origin"] == b"imputed from H&E"
        assert b"leave one section out" in file["expression"].attrs["heldout"]
        assert file.attrs["checkpoint_digest"] == b"c" * 64
        assert file.attrs["licence"] == b"CC-BY-4.0 AND MIT"


def test_the_same_slide_gives_the_same_bytes_and_leaves_no_part(folder):
    path = folder / "S1.h5"
    before = path.read_bytes()
    write_storm_file(path, slide_storm(), CONTRACT, GENES)
    assert path.read_bytes() == before
    assert {item.name for item in folder.iterdir()} == {"S1.h5", "contract.json"}


def test_the_reader_gives_back_what_was_written_with_its_evidence(folder):
    store = StormStore.open(folder)
    slide = slide_storm()
    np.testing.assert_array_equal(store.read("S1").features, slide.spots.astype(np.float16))
    table = store.genes("S1")
    assert table.index.tolist() == ["ERBB2", "ESR1", "GATA3"]
    assert table.columns.tolist() == [
        "expression",
        "heldout_r",
        "heldout_r_lower",
        "heldout_r_upper",
    ]
    np.testing.assert_array_equal(table["heldout_r_upper"], GENES.upper)
    np.testing.assert_allclose(table["expression"], expression().mean(axis=0))
    # Models see by default what has evidence, and more evidence can be asked for.
    assert store.expression("S1").index.tolist() == ["ERBB2"]
    assert store.expression("S1", min_r=-0.5).index.tolist() == ["ERBB2", "ESR1"]
    assert store.expression("S1", min_r=0.45).empty
    assert (store.contract.overlap_px, store.contract.step_um) == (-176, 200.0)


def test_a_map_holds_the_genes_that_were_asked_for_in_that_order(folder):
    maps = StormStore.open(folder).gene_maps("S1", ["GATA3", "ERBB2"])
    np.testing.assert_array_equal(maps, expression()[:, [2, 0]].astype(np.float16))
    with pytest.raises(FeatureError, match="does not impute ACTB"):
        StormStore.open(folder).gene_maps("S1", ["GATA3", "ACTB"])


def test_slides_outside_the_domain_are_told(folder):
    warnings = StormStore.open(folder).domain_warnings()
    assert warnings == {"S1": "40% of tiles look unlike the training sections"}
    (finding,) = inspect_storm(folder)
    assert (finding.severity, finding.code) == ("warning", "out of domain")


def test_a_value_changed_on_disk_is_found_by_inspection(folder):
    with h5py.File(folder / "S1.h5", "r+") as file:
        file["expression/values"][1400, 2] = 3.0
    (finding,) = inspect_storm(folder)
    assert (finding.severity, finding.code) == ("error", "unreadable")
    assert "expression/values: its values are not those" in finding.finding


def test_a_file_of_another_checkpoint_is_found_by_inspection(folder):
    other = replace(CONTRACT, checkpoint_digest="0" * 64)
    write_storm_file(folder / "S1.h5", slide_storm(), other, GENES)
    (finding,) = inspect_storm(folder)
    assert finding.code == "contract"
    assert "0" * 64 in finding.finding
    assert "c" * 64 in finding.finding


def test_without_evidence_for_any_gene_there_are_embeddings_alone(tmp_path):
    contract = replace(CONTRACT, n_genes=0, genes_digest=None, per_tile=False)
    contract.settle(tmp_path)
    write_storm_file(tmp_path / "S1.h5", slide_storm(expression=None, tiles=None), contract, None)
    store = StormStore.open(tmp_path)
    assert store.read("S1").n_tiles == N_TILES
    with pytest.raises(FeatureError, match="imputes no expression"):
        store.expression("S1")


def test_slide_means_alone_make_no_map(tmp_path):
    contract = replace(CONTRACT, per_tile=False)
    write_storm_file(tmp_path / "S1.h5", slide_storm(tiles=None), contract, GENES)
    with pytest.raises(FeatureError, match="--per-tile"):
        StormStore.open(tmp_path).gene_maps("S1", ["ESR1"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spots": np.ones((3, 5), np.float32)}, r"spots: must be finite \(3, 4\)"),
        ({"slide": np.full(4, np.nan)}, "slide: must be finite"),
        ({"spots": np.full((N_TILES, 4), 1e5)}, "spots: the value 100000 does not fit float16"),
        ({"tiles": [np.full((N_TILES, 3), np.nan)]}, "expression: the value nan"),
        ({"tiles": [expression(9)]}, "9 rows for 1500 tiles"),
        ({"tiles": None}, "not as the contract says"),
        ({"expression": None}, "the contract says 3"),
    ],
)
def test_what_does_not_fit_leaves_no_file(tmp_path, changes, message):
    with pytest.raises(FeatureError, match=message):
        write_storm_file(tmp_path / "S1.h5", slide_storm(**changes), CONTRACT, GENES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_held_to_its_contract_with_both_values(folder):
    assert is_storm_folder(folder)
    CONTRACT.settle(folder)
    replace(CONTRACT, licence="MIT").settle(folder)  # for information alone
    with pytest.raises(ContractMismatch, match=r"per_tile is True, not False\. .*need not be"):
        replace(CONTRACT, per_tile=False).settle(folder)


def test_a_folder_of_tile_features_does_not_become_one_of_storm_files(tmp_path, extracted_contract):
    from storm_clinic.features.store import FeatureStore

    FeatureStore.create(tmp_path, extracted_contract())
    assert not is_storm_folder(tmp_path)
    with pytest.raises(FeatureError, match="not the contract of STORM files"):
        CONTRACT.settle(tmp_path)
