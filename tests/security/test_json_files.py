"""Edited JSON of ours, its digests made to fit, gives a valid object or an error of ours."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from nasty_text import edited_json

from storm_clinic.bundle import (
    Manifest,
    OutcomeDefinition,
    TrainingCohort,
    read_bundle,
    write_bundle,
)
from storm_clinic.errors import CheckpointError, FeatureError, RegistryError, StormClinicError
from storm_clinic.features.contract import FeatureContract, read_contract
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.files import digest_value, parse_json
from storm_clinic.study import Study

FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CONTRACT = FeatureContract(
    encoder="toy", encoder_digest="ab" * 32, width=8, mpp=0.5, tile_px=224, tissue={"mpp": 8.0}
)
STORM = StormContract(
    checkpoint="small",
    checkpoint_digest="ab" * 32,
    encoder="toy",
    encoder_digest="cd" * 32,
    source_digest="ef" * 32,
    width=4,
    mpp=0.5,
    tile_px=224,
    overlap_px=0,
    n_genes=4,
    genes_digest="12" * 32,
    min_r=None,
    per_tile=True,
)
STUDY = {
    "format": 1,
    "study": "s",
    "question": "Does the tissue predict?",
    "endpoint": {"name": "pfs", "horizons_months": [12]},
    "features": {"encoder": "toy"},
    "development": ["a"],
    "candidate": "m",
    "models": [{"name": "m", "head": "cox", "inputs": ["image"]}],
    "evaluation": {"seed": 7},
}


def signed(document, name):
    """The document with a digest that fits, where it can have one."""
    if isinstance(document, dict) and name in document:
        rest = {key: value for key, value in document.items() if key != name}
        try:
            return rest | {name: digest_value(rest)}
        except ValueError:  # not finite
            return document
    return document


@FUZZ
@given(document=edited_json(CONTRACT.to_json()))
def test_an_edited_contract_is_a_contract_or_an_error_of_ours(tmp_path, document):
    (tmp_path / "contract.json").write_text(json.dumps(document))
    try:
        found = read_contract(tmp_path)
    except StormClinicError:
        return
    assert FeatureContract.from_json(found.to_json(), where="again").digest == found.digest


STORM_JSON = {"format": "storm_clinic/storm-contract", "format_version": 1, **vars(STORM)}


@FUZZ
@given(document=edited_json(STORM_JSON))
def test_an_edited_contract_of_storm_files_is_one_or_an_error_of_ours(tmp_path, document):
    (tmp_path / "contract.json").write_text(json.dumps(document))
    try:
        found = StormContract.read(tmp_path)
    except StormClinicError:
        return
    assert len(found.digest) == 64


@pytest.mark.parametrize("value", [True, "8", 8.5, None, [8]])
def test_a_width_that_is_no_whole_number_is_named(tmp_path, value):
    (tmp_path / "contract.json").write_text(json.dumps(CONTRACT.to_json() | {"width": value}))
    with pytest.raises(FeatureError, match=r"width must be int, is"):
        read_contract(tmp_path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    manifest = Manifest(
        study=Study.from_document(STUDY).resolved(),
        features=CONTRACT.to_json(),
        clinical=(),
        outcome=OutcomeDefinition(name="pfs", kind="survival", horizons_months=(12,)),
        risk_thresholds={"m": (-0.5, 0.5)},
        training={"a": TrainingCohort(n_patients=60, n_events=20, digests={})},
        seeds={},
        key_id=None,
        code={},
        packages={},
        run_id=None,
    )
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    return write_bundle(folder, {"m": ({"beta": np.arange(8.0)}, {"ridge": 0.1})}, manifest)


def test_an_edited_manifest_whose_digest_fits_is_a_bundle_or_an_error_of_ours(bundle):
    path = bundle.folder / "manifest.json"
    whole = path.read_bytes()

    @FUZZ
    @given(document=edited_json(json.loads(whole)))
    def read_edited(document):
        text = json.dumps(signed(document, "bundle_digest"), indent=2, sort_keys=True) + "\n"
        path.write_text(text)
        try:
            found = read_bundle(bundle.folder)
        except StormClinicError:
            return
        for model in found.models:
            assert found.risk_group(model, np.array([-9.0, 9.0])).tolist()[0] == 0

    try:
        read_edited()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": [0.5, -0.5]}, "cut points of m do not ascend"),
        ({}, "has no risk thresholds"),
    ],
)
def test_risk_groups_that_cannot_be_are_refused_when_the_bundle_is_read(bundle, change, message):
    path = bundle.folder / "manifest.json"
    whole = path.read_bytes()
    document = json.loads(whole)
    document["manifest"]["risk_thresholds"] = change
    path.write_text(json.dumps(signed(document, "bundle_digest"), indent=2, sort_keys=True) + "\n")
    try:
        with pytest.raises(RegistryError, match=message):
            read_bundle(bundle.folder)
    finally:
        path.write_bytes(whole)


def test_an_edited_checkpoint_whose_digest_fits_is_one_or_an_error_of_ours(tmp_path):
    pytest.importorskip("torch")
    from storm_clinic.storm.checkpoint import Inputs, load_checkpoint, save_checkpoint
    from storm_clinic.storm.config import StormConfig
    from storm_clinic.storm.genes import GeneVocabulary
    from storm_clinic.storm.model import StormModel
    from storm_clinic.storm.reliability import GeneReliability

    config = StormConfig(
        width=16, n_layers=1, n_heads=2, image_width=6, n_genes=3, pitch_um=200.0, gene_hidden=4
    )
    save_checkpoint(
        tmp_path,
        StormModel(config),
        inputs=Inputs(encoder="tiny", encoder_digest="ab" * 32, tile_um=112.0),
        vocabulary=GeneVocabulary(("ERBB2", "ESR1", "MYC")),
        reliability=GeneReliability([0.5, 0.2, 0.1], [0.3, 0.1, 0.0], [0.6, 0.3, 0.2], "made up"),
        card={"licence": "MIT"},
    )
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())

    @FUZZ
    @given(document=edited_json(whole))
    def load_edited(document):
        path.write_text(json.dumps(signed(document, "digest")))
        try:
            found = load_checkpoint(tmp_path)
        except StormClinicError:
            return
        assert len(found.vocabulary) == found.model.config.n_genes == 3

    load_edited()
    huge = whole | {"config": whole["config"] | {"n_genes": 10**9}}
    path.write_text(json.dumps(signed(huge, "digest")))
    with pytest.raises(CheckpointError, match="n_genes must be a whole number from 1 to 1000000"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "NaN", "[-Infinity]", "1e400", '"\\', b"\xff"])
def test_json_that_is_too_deep_or_not_finite_is_none(text):
    with pytest.raises(ValueError, match=r"deep|finite|Unterminated|Invalid|decode"):
        parse_json(text)
