"""A contract says how features were made; what was made otherwise is refused by name."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor

import pytest

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.store import FeatureStore


def test_a_store_opens_again_with_the_contract_it_was_made_with(store, extracted_contract):
    assert FeatureStore.open(store.folder) == store
    assert FeatureStore.create(store.folder, extracted_contract()) == store


def test_another_contract_is_refused_and_each_difference_named(store, extracted_contract):
    other = extracted_contract(tile_px=256, encoder_digest="cd" * 32, tissue={"mpp": 4.0})
    with pytest.raises(ContractMismatch) as caught:
        FeatureStore.create(store.folder, other)
    message = str(caught.value)
    assert str(store.folder / "contract.json") in message
    for part in (
        "tile_px is 224, not 256",
        f"encoder_digest is '{'ab' * 32}', not '{'cd' * 32}'",
        "tissue.mpp is 8.0, not 4.0",
        "tissue.min_area_mm2 is 0.1, not None",
    ):
        assert part in message
    assert "overlap_px" not in message
    assert FeatureStore.open(store.folder).contract == extracted_contract()


def test_the_wording_of_a_licence_separates_no_stores(store, extracted_contract):
    assert extracted_contract().digest == extracted_contract(licence="other words").digest
    FeatureStore.create(store.folder, extracted_contract(licence="other words"))
    assert FeatureStore.open(store.folder).contract.licence == "Apache-2.0"


@pytest.mark.parametrize("name", ["encoder", "width", "mpp", "overlap_px", "pooling", "tissue"])
def test_every_field_that_matters_is_in_the_digest(name, extracted_contract):
    changed = {
        "encoder": "b",
        "width": 9,
        "mpp": 0.25,
        "overlap_px": 0,
        "pooling": "mean",
        "tissue": {"mpp": 8.0},
    }
    assert extracted_contract(**{name: changed[name]}).digest != extracted_contract().digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mpp": None}, "must both be known, or neither"),
        ({"mpp": None, "tile_px": None}, "extracted features need mpp"),
        ({"encoder_digest": None}, "extracted features need"),
        ({"mpp": 40.0}, "mpp must lie within 0.05 to 20.0 µm, is 40.0"),
        ({"mpp": float("nan")}, "mpp must lie within"),
        ({"overlap_px": 224}, "overlap_px must lie below tile_px, is 224"),
        ({"dtype": "bfloat16"}, "dtype must be one of float16, float32, float64"),
        ({"provenance": "guessed"}, "provenance must be one of"),
        ({"width": 0}, "width must be positive"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(changes, message, extracted_contract):
    with pytest.raises(FeatureError, match=message):
        extracted_contract(**changes)


def test_geometry_is_known_only_where_it_was_stated(extracted_contract, declared_contract):
    assert extracted_contract().tile_um == 112.0
    unknown = declared_contract(mpp=None, tile_px=None, overlap_px=0)
    assert not unknown.geometry_known
    assert unknown.tile_um is None


def settle(folder, contract):
    try:
        return FeatureStore.create(folder, contract).contract.width
    except ContractMismatch:
        return None


def test_of_processes_that_start_at_once_one_sets_the_contract(tmp_path, extracted_contract):
    contracts = [extracted_contract(width=width) for width in range(1, 9)]
    with ProcessPoolExecutor(4) as pool:
        seen = list(pool.map(settle, [tmp_path / "toy"] * 8, contracts))
    winner = FeatureStore.open(tmp_path / "toy").contract.width
    assert [width for width in seen if width is not None] == [winner]
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["contract.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "not the contract of a feature store"),
        ('{"format": "other"}', "not the contract of a feature store"),
        ('{"format": "storm_clinic/feature-contract", "format_version": 2}', "format_version 2"),
        ('{"format": "storm_clinic/feature-contract", "format_version": 1}', "missing or unknown"),
    ],
)
def test_a_contract_that_is_not_ours_is_named(store, text, message):
    (store.folder / "contract.json").write_text(text)
    with pytest.raises(FeatureError, match=rf"contract\.json: {message}"):
        FeatureStore.open(store.folder)


@pytest.mark.parametrize("value", ["wide", None, [1]])
def test_a_contract_with_a_field_of_the_wrong_type_is_refused(store, value):
    path = store.folder / "contract.json"
    document = json.loads(path.read_text()) | {"width": value}
    path.write_text(json.dumps(document))
    with pytest.raises(FeatureError, match=r"contract\.json"):
        FeatureStore.open(store.folder)


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(FeatureError, match=r"no feature store.*features import"):
        FeatureStore.open(tmp_path)


def test_the_digest_of_a_tile_store_knows_nothing_of_slide_encoders(extracted_contract):
    # Stores and locked models made before there were slide encoders keep their digest.
    assert "source_digest" not in extracted_contract().to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": "embedded"},
        {"source_digest": "cd" * 32},
        {"provenance": "embedded", "source_digest": "cd" * 32, "encoder_digest": None},
    ],
)
def test_embedded_features_and_no_others_name_the_store_they_come_from(changes, extracted_contract):
    with pytest.raises(FeatureError, match="embedded features"):
        extracted_contract(**changes)


def test_slides_embedded_from_other_tiles_do_not_mix(extracted_contract):
    first, second = (
        extracted_contract(provenance="embedded", source_digest=digest * 32)
        for digest in ("cd", "ef")
    )
    assert first.differences(second) == [("source_digest", "cd" * 32, "ef" * 32)]
