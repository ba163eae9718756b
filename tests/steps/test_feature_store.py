"""``features list | check | import`` say what is in a workspace and what is wrong with it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from storm_clinic.errors import FeatureError, UnsafeName
from storm_clinic.features.store import FeatureContract, FeatureStore, SlideFeatures
from storm_clinic.files import Workspace
from storm_clinic.steps.feature_store import check_features, import_features, list_features


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def add_store(workspace, cohort, slides, encoder="uni", **changes):
    """A store with one slide an item: its id and the seed of its values."""
    fields = {
        "encoder": encoder,
        "encoder_digest": None,
        "width": 4,
        "mpp": 0.5,
        "tile_px": 256,
        "dtype": "float32",
        "provenance": "declared",
    }
    contract = FeatureContract(**fields | changes)
    store = FeatureStore.create(workspace.store(cohort, encoder), contract)
    for slide_id, seed in slides.items():
        values = np.random.default_rng(seed).normal(size=(3, contract.width)).astype(np.float32)
        store.write(SlideFeatures(slide_id, values))
    return store


def keys(result):
    columns = ["cohort", "slide_id", "severity", "code"]
    return [tuple(row) for row in result.table[columns].itertuples(index=False)]


def test_an_empty_workspace_has_no_stores(workspace):
    listing = list_features(workspace).table
    assert len(listing) == 0
    assert {"cohort", "encoder", "slides", "problem"} <= set(listing.columns)


def test_stores_are_listed_with_what_they_hold(workspace):
    add_store(workspace, "b", {"S-1": 1})
    store = add_store(workspace, "a", {"S-1": 1, "S-2": 2})
    store.path("S-3").write_bytes(b"damaged")
    listing = list_features(workspace).table
    assert list(zip(listing["cohort"], listing["encoder"], strict=True)) == [
        ("a", "uni"),
        ("b", "uni"),
    ]
    first = listing.iloc[0]
    assert (first["slides"], first["tiles"], first["unusable"]) == (2, 6, 1)
    assert (first["mpp"], first["tile_px"], first["width"]) == (0.5, 256, 4)
    assert first["contract"] == listing.iloc[1]["contract"] == store.contract.digest[:12]
    assert listing["problem"].isna().all()


def test_a_folder_that_is_no_usable_store_is_listed_with_its_problem(workspace):
    store = add_store(workspace, "a", {"S-1": 1})
    (store.folder / "contract.json").unlink()
    renamed = add_store(workspace, "b", {"S-1": 1})
    renamed.folder.rename(renamed.folder.with_name("conch"))
    (workspace.features / "c" / "scratch").mkdir(parents=True)
    problems = list_features(workspace).table.set_index("cohort")["problem"]
    assert list(problems.index) == ["a", "b"]
    assert "no feature store" in problems["a"]
    assert problems["b"] == "the folder is named conch, its contract says uni"


def test_a_sound_workspace_passes(workspace):
    add_store(workspace, "a", {"S-1": 1, "S-2": 2})
    add_store(workspace, "b", {"S-3": 3})
    result = check_features(workspace)
    assert keys(result) == []
    assert (result.exit_code, result.n_stores, result.n_slides) == (0, 2, 3)


def test_errors_come_first_and_set_the_exit_code(workspace):
    features = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    features[:, 0] = 1
    store = add_store(workspace, "a", {"S-2": 2, "S-3": 2})
    store.write(SlideFeatures("S-1", features))
    result = check_features(workspace)
    assert keys(result) == [
        ("a", "S-2", "error", "same features"),
        ("a", "S-1", "warning", "constant columns"),
    ]
    assert result.exit_code == 3
    assert (result.count("error"), result.count("warning")) == (1, 1)


def test_warnings_alone_let_a_check_pass(workspace):
    store = add_store(workspace, "a", {})
    features = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    features[:, 0] = 1
    store.write(SlideFeatures("S-1", features))
    assert check_features(workspace).exit_code == 0


def test_a_slide_of_two_cohorts_is_warned_of(workspace):
    add_store(workspace, "a", {"S-1": 1, "S-2": 2})
    add_store(workspace, "b", {"T-1": 1, "T-2": 3})
    add_store(workspace, "c", {"S-1": 1}, encoder="conch")
    result = check_features(workspace)
    assert keys(result) == [("a", "S-1", "warning", "same features")]
    assert result.table["finding"].item() == "also there as b/T-1"


def test_stores_of_one_encoder_that_were_made_differently_are_warned_of(workspace):
    add_store(workspace, "a", {"S-1": 1})
    add_store(workspace, "b", {"S-2": 2}, mpp=0.25)
    result = check_features(workspace)
    assert keys(result) == [("b", "", "warning", "contracts differ")]
    assert result.table["finding"].item() == "mpp is 0.25, in a 0.5"


def test_a_check_can_be_of_one_cohort_or_encoder(workspace):
    add_store(workspace, "a", {"S-1": 1})
    store = add_store(workspace, "b", {"S-1": 1})
    (store.folder / "contract.json").write_text("{}")
    assert check_features(workspace, cohort="a").exit_code == 0
    result = check_features(workspace, encoder="uni")
    assert keys(result) == [("b", "", "error", "no contract")]
    with pytest.raises(FeatureError, match=r"no feature store at features/c/\*"):
        check_features(workspace, cohort="c")


def test_import_fills_the_store_of_a_cohort_and_encoder(workspace, tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with h5py.File(tmp_path / "S-1.h5", "w") as file:
        file["features"] = values
    source = [tmp_path / "S-1.h5"]
    named = {"cohort": "a", "encoder": "uni", "workspace": workspace}
    with pytest.raises(FeatureError, match="Add --mpp and --tile-px"):
        import_features(source, **named)
    assert not workspace.features.exists()
    result = import_features(source, **named, geometry_unknown=True, slides=["S-1"])
    assert result.exit_code == 0
    assert result.store.folder == tmp_path / "features" / "a" / "uni"
    np.testing.assert_array_equal(result.store.read("S-1").features, values)
    assert check_features(workspace).exit_code == 0


def test_import_takes_no_name_that_would_leave_the_workspace(workspace, tmp_path):
    with pytest.raises(UnsafeName, match="cohort"):
        import_features(
            [tmp_path], cohort="../a", encoder="uni", workspace=workspace, geometry_unknown=True
        )
