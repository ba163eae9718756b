"""From a store of tile features to a store of slides."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from storm_clinic.encoders import catalogue
from storm_clinic.encoders.slide_contract import SlideEncoderCard, SlideTiles
from storm_clinic.errors import ContractMismatch, EncoderError, FeatureError
from storm_clinic.features.store import FeatureContract, FeatureStore, SlideFeatures
from storm_clinic.files import Workspace
from storm_clinic.steps.slide_embedding import embed_slides

SLIDE_MPP = 0.2523  # 512 px at 0.5 µm/px are 1014.66 level-0 px: corners are rounded
PITCH = 512 * 0.5 / SLIDE_MPP


class _Centroid(torch.nn.Module):
    """The mean tile times a gain, and the mean place in tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.empty(4))

    def forward(self, tiles: SlideTiles) -> torch.Tensor:
        places = torch.floor(tiles.coords / tiles.pitch).mean(1)
        return torch.cat([tiles.features.mean(1) * self.gain, places], dim=1)


def _card() -> SlideEncoderCard:
    return SlideEncoderCard(
        name="centroid",
        loader=_Centroid,
        apply=lambda network, tiles: network(tiles),
        tile_encoder="tiles-4",
        tile_width=4,
        tile_px=512,
        mpp=0.5,
        coordinates="level0",
        pooling="mean",
        width=6,
        licence="MIT",
        citation="none",
    )


CONTRACT = FeatureContract(
    encoder="tiles-4", encoder_digest="a" * 64, width=4, mpp=0.5, tile_px=512, pooling="cls"
)


def _slide(slide_id, seed, **changes) -> SlideFeatures:
    rng = np.random.default_rng(seed)
    cells = np.array([(x, y) for y in range(3) for x in range(5)])
    facts = {
        "features": rng.normal(size=(15, 4)).astype(np.float16),
        "coords": np.rint(cells * PITCH).astype(np.int64),
        "slide_digest": f"digest-{slide_id}",
        "slide_mpp": SLIDE_MPP,
        "slide_mpp_source": "slide",
    }
    return SlideFeatures(slide_id, **(facts | changes))


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    store = FeatureStore.create(workspace.store("site_x", "tiles-4"), CONTRACT)
    for seed, slide_id in enumerate(("s1", "s2", "s3")):
        store.write(_slide(slide_id, seed))
    return workspace


@pytest.fixture
def weights(tmp_path):
    save_file({"gain": torch.tensor([1.0, 2.0, 3.0, 4.0])}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def embed(workspace, weights):
    def run(**changes):
        asked = {
            "cohort": "site_x",
            "encoder": "tiles-4",
            "slide_encoder": _card(),
            "workspace": workspace,
            "weights": weights,
            "device": "cpu",
        } | changes
        return embed_slides(asked.pop("cohort"), **asked)

    return run


def _tiles(workspace):
    return FeatureStore.open(workspace.store("site_x", "tiles-4"))


def test_each_slide_becomes_one_row_that_its_tiles_and_places_explain(embed, workspace):
    result = embed()
    assert [(s.slide_id, s.status) for s in result.slides] == [
        (slide_id, "written") for slide_id in ("s1", "s2", "s3")
    ]
    store = FeatureStore.open(workspace.features / "site_x" / "centroid")
    slide = store.read("s2")
    mean = _tiles(workspace).read("s2").features.astype(np.float32).mean(0)
    assert slide.features.shape == (1, 6)
    # Cells 0 to 4 and 0 to 2, though corners are rounded.
    np.testing.assert_allclose(slide.features[0], [*(mean * [1, 2, 3, 4]), 2, 1], atol=1e-5)
    assert (slide.slide_digest, slide.slide_mpp, slide.coords) == ("digest-s2", SLIDE_MPP, None)


def test_the_store_says_which_tiles_it_was_made_from(embed, workspace):
    contract = embed().store.contract
    assert contract.provenance == "embedded"
    assert contract.source_digest == _tiles(workspace).contract.digest
    assert (contract.mpp, contract.tile_px, contract.width) == (0.5, 512, 6)
    # The slide encoder's, and that of the tile encoder beneath, which nobody stated.
    assert contract.licence == "MIT AND not stated"
    document = json.loads((workspace.store("site_x", "centroid") / "contract.json").read_text())
    assert FeatureContract.from_json(document, where="test") == contract


def test_what_is_there_is_left_alone_and_what_changed_is_made_again(embed, workspace):
    embed()
    tiles = _tiles(workspace)
    tiles.write(_slide("s3", seed=99))
    tiles.write(_slide("s4", seed=4))
    tiles.write(_slide("s1", seed=0, slide_mpp=SLIDE_MPP + 1e-4))
    result = embed()
    assert {s.slide_id: s.status for s in result.slides} == {
        "s1": "written",
        "s2": "unchanged",
        "s3": "written",
        "s4": "written",
    }
    assert embed().record_path is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile_encoder": "conch-v1.5"}, "encoder is 'tiles-4', not 'conch-v1.5'"),
        ({"mpp": 0.25}, "mpp is 0.5, not 0.25"),
        ({"tile_px": 448}, "tile_px is 512, not 448"),
        ({"tile_width": 768}, "width is 4, not 768"),
    ],
)
def test_tiles_of_another_kind_are_refused_with_both_values(embed, workspace, change, message):
    with pytest.raises(ContractMismatch, match=message):
        embed(slide_encoder=dataclasses.replace(_card(), **change))
    assert not workspace.store("site_x", "centroid").exists()


def test_overlapping_tiles_are_refused(embed, workspace):
    contract = dataclasses.replace(CONTRACT, overlap_px=64)
    FeatureStore.create(workspace.store("site_y", "tiles-4"), contract).write(_slide("s1", 0))
    with pytest.raises(ContractMismatch, match="overlap_px is 64, not 0"):
        embed(cohort="site_y")


def test_a_store_that_other_weights_made_is_refused(embed, tmp_path):
    embed()
    other = tmp_path / "other.safetensors"
    save_file({"gain": torch.ones(4)}, other)
    with pytest.raises(ContractMismatch, match="encoder_digest is"):
        embed(weights=other)


def test_a_slide_that_fails_is_listed_and_the_others_go_on(embed, workspace):
    tiles = _tiles(workspace)
    tiles.write(_slide("s2", seed=1, slide_mpp=None))
    path = tiles.path("s3")
    path.write_bytes(path.read_bytes()[:-200])
    result = embed()
    assert {s.slide_id: s.status for s in result.slides} == {
        "s1": "written",
        "s2": "failed",
        "s3": "failed",
    }
    reasons = dict(zip(result.failures["slide_id"], result.failures["reason"], strict=True))
    assert "microns per pixel" in reasons["s2"]
    assert "s3.h5" in reasons["s3"]
    assert result.exit_code == 3
    assert (result.store.folder / "failures.csv").exists()


def test_a_cohort_without_such_features_says_so(embed):
    with pytest.raises(FeatureError, match="no feature store"):
        embed(cohort="elsewhere")


def test_the_embeddings_pass_the_check_of_feature_stores(embed, workspace):
    from storm_clinic.steps.feature_store import check_features, list_features

    embed()
    assert check_features(workspace, encoder="centroid").table.empty
    row = list_features(workspace).table.set_index("encoder").loc["centroid"]
    assert (row["slides"], row["tiles"], row["provenance"]) == (3, 3, "embedded")


def test_the_command_finds_a_slide_encoder_that_a_package_adds(workspace, weights, monkeypatch):
    from typer.testing import CliRunner

    from storm_clinic.cli.main import app

    group = catalogue.SLIDE_ENTRY_POINTS
    points = EntryPoints([EntryPoint("centroid", "package:card", group)])
    monkeypatch.setattr(EntryPoint, "load", lambda self: _card)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: points.select(group=group))
    asked = ["features", "embed", "--cohort", "site_x", "--encoder", "tiles-4"]
    asked += ["--slide-encoder", "centroid", "--weights", str(weights), "--device", "cpu"]
    result = CliRunner().invoke(app, [*asked, "--workspace", str(workspace.root), "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["written"], said["unchanged"], said["failed"]) == (3, 0, 0)


def test_an_unknown_slide_encoder_is_named(embed):
    with pytest.raises(EncoderError, match="no slide encoder is called"):
        embed(slide_encoder="centroid")
