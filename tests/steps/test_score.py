"""Scoring a cohort gives what its validation sealed; slides are extracted as the model's were."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.store import FeatureStore
from storm_clinic.files import Workspace
from storm_clinic.predictions import Predictions
from storm_clinic.registry.identity import load_keys
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.steps import score_stream
from storm_clinic.steps.score_slides import Extraction, find_features
from storm_clinic.steps.score_table import score
from storm_clinic.steps.scorer import Scorer


@pytest.fixture(scope="module")
def scored(finished, tmp_path_factory):
    workspace, result = finished
    out = tmp_path_factory.mktemp("risks") / "south.csv"
    return score(result.model.reference, cohort="south", out=out, workspace=workspace)


def test_risks_are_those_that_validate_sealed_for_the_same_patients(scored, finished):
    workspace, result = finished
    sealed = Predictions.read(result.validations[0].folder / "predictions.parquet")
    sealed = sealed.of(model="fusion").table.set_index("patient_key")
    ours = scored.table[scored.table["risk"].notna()]
    keys = list(load_keys(workspace).patient_keys(list(ours["patient_id"])))
    assert sorted(keys) == sorted(sealed.index)
    for name in ("risk", "risk_at_6m", "risk_at_12m"):
        # Other neighbours in a batch of float32, so not to the last bit.
        np.testing.assert_allclose(ours[name], sealed.loc[keys, name], rtol=0, atol=1e-6)


def test_patients_without_slides_have_their_row_and_no_number(scored, finished):
    without = scored.table[scored.table["risk"].isna()]
    assert without["patient_id"].tolist() == ["SOUTH-000", "SOUTH-001"]
    assert set(without["problem"]) == {"no slide"}
    assert scored.counts["patients"] == 60
    assert scored.exit_code == 3
    assert any(notice.startswith("1 slides") for notice in scored.notices)


def test_a_network_gives_a_patient_the_same_risk_alone(scored, finished, monkeypatch, tmp_path):
    workspace, _ = finished
    monkeypatch.setattr(score_stream, "BATCH_TILES", 1)
    alone = score("test-study", cohort="south", out=tmp_path / "a.csv", workspace=workspace)
    np.testing.assert_allclose(alone.table["risk"], scored.table["risk"], rtol=0, atol=1e-6)


def test_a_patient_unlike_development_is_flagged_with_the_reason(finished):
    workspace, _ = finished
    scorer = Scorer.load("test-study", workspace=workspace)
    rng = np.random.default_rng(5)
    tiles = rng.normal(size=(12, 6)).astype(np.float32)
    like = scorer(tiles, clinical={"age": 60.0, "stage": "II"})
    assert (like.out_of_distribution, like.out_of_distribution_reason) == (False, "")
    far = scorer(tiles + 20, clinical={"age": 60.0, "stage": "II"})
    assert far.out_of_distribution is True
    assert far.out_of_distribution_reason.startswith("image: distance ")
    old = scorer(tiles, clinical={"age": 104.0, "stage": "II"})
    assert old.out_of_distribution is True
    assert old.out_of_distribution_reason.startswith("age: 104 lies outside development's ")


def test_a_cohort_and_tables_of_ones_own_exclude_each_other(finished, tmp_path):
    with pytest.raises(InputError, match="Leave out --clinical and --patients"):
        score(
            "test-study",
            cohort="south",
            clinical=tmp_path / "c.csv",
            out=tmp_path / "a.csv",
            workspace=finished[0],
        )


# ---- from slides -------------------------------------------------------------------------------


@pytest.fixture
def named_encoder(tiny_encoder, monkeypatch):
    """The small encoder, found by its name as those of the catalogue are; and its weights."""
    from storm_clinic.encoders import hub

    card, weights = tiny_encoder
    load = hub.load_encoder

    def load_by_name(name, **options):
        assert name == "tiny"
        return load(card, **options)

    monkeypatch.setattr(hub, "load_encoder", load_by_name)
    return card, weights, load(card, weights=weights, device="cpu").digest


def contract_of(card, digest) -> FeatureContract:
    return FeatureContract(
        encoder=card.name,
        encoder_digest=digest,
        width=card.width,
        mpp=0.5,
        tile_px=64,
        pooling=card.pooling,
        tissue=TissueParameters(min_area_um2=1000).as_dict(),
    )


def test_slides_are_extracted_as_the_models_were_and_failures_are_kept(
    named_encoder, write_tissue_slide, tmp_path
):
    card, weights, digest = named_encoder
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tissue_slide(folder / "good.tif")
    write_tissue_slide(folder / "unscaled.tif", mpp=None)
    found = find_features(
        folder,
        contract_of(card, digest),
        cohort="scored",
        extraction=Extraction(weights=weights, device="cpu"),
        workspace=Workspace(tmp_path),
        progress=None,
    )
    assert found.slide_ids == ["good", "unscaled"]
    assert set(found.failed) == {"unscaled"}
    assert "microns per pixel" in found.failed["unscaled"].lower()
    assert found.store.read("good").n_tiles > 0
    assert found.store.contract.tissue["min_area_um2"] == 1000
    assert FeatureStore.open(tmp_path / "features" / "scored" / "tiny").slide_ids() == ["good"]


def test_slides_are_embedded_by_the_runtime_that_is_asked_for(
    named_encoder, write_tissue_slide, tmp_path
):
    onnxruntime = pytest.importorskip("onnxruntime")
    card, weights, digest = named_encoder
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tissue_slide(folder / "good.tif")
    tiles = {}
    for runtime in ("torch", "onnxruntime"):
        store = find_features(
            folder,
            contract_of(card, digest),
            cohort=runtime,
            extraction=Extraction(weights=weights, device="cpu", runtime=runtime),
            workspace=Workspace(tmp_path),
            progress=None,
        ).store
        tiles[runtime] = store.read("good")
    assert tiles["onnxruntime"].runtime == f"onnxruntime {onnxruntime.__version__}"
    one, other = (tiles[runtime].features for runtime in ("torch", "onnxruntime"))
    np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-3, atol=1e-5)


def test_other_weights_than_the_models_are_refused_before_a_slide_is_read(
    named_encoder, write_tissue_slide, tmp_path
):
    card, weights, digest = named_encoder
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tissue_slide(folder / "good.tif")
    with pytest.raises(ContractMismatch, match=f"encoder_digest is '{'f' * 64}', not '{digest}'"):
        find_features(
            folder,
            contract_of(card, "f" * 64),
            cohort="scored",
            extraction=Extraction(weights=weights, device="cpu"),
            workspace=Workspace(tmp_path),
            progress=None,
        )
    assert list((tmp_path / "features").rglob("*.h5")) == []
