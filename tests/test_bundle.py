"""A bundle gives back what was put in, to the bit, and nothing else gets through."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storm_clinic.bundle import (
    ClinicalColumn,
    Manifest,
    MeasuredInput,
    ObservedRange,
    OutcomeDefinition,
    TrainingCohort,
    read_bundle,
    required_models,
    write_bundle,
)
from storm_clinic.bundle.card import write_card
from storm_clinic.errors import CohortError, RegistryError, StorageError
from storm_clinic.features.reference import FeatureReference
from storm_clinic.files import digest_value
from storm_clinic.study import Study

FILES = ["card.md", "manifest.json", "model.safetensors", "reference.safetensors"]
REFERENCES = {"image": FeatureReference.of(np.random.default_rng(5).normal(size=(40, 192)), seed=3)}


def _study(**changes) -> Study:
    return Study.from_document(
        {
            "format": 1,
            "study": "kirc-pfi",
            "question": "Does histology predict progression after nephrectomy?",
            "endpoint": {"name": "pfi", "horizons_months": [12, 36]},
            "features": {"encoder": "hipt-vit4k"},
            "development": ["tcga_kirc"],
            "validation": ["tcga_kirp"],
            "clinical": ["age", "stage"],
            "candidate": "fusion",
            "models": [
                {"name": "clinical", "head": "cox", "inputs": ["clinical"]},
                {"name": "abmil", "head": "attention-cox", "inputs": ["image"]},
                {"name": "pooled", "head": "cox", "inputs": ["image"]},
                {"name": "fusion", "head": "attention-cox", "inputs": ["image", "clinical"]},
            ],
            "evaluation": {"seed": 7},
            "claims": [{"metric": "c_index_gain", "over": "pooled", "lower_bound_at_least": 0.0}],
            **changes,
        }
    )


def _manifest(**changes) -> Manifest:
    fields = {
        "study": _study().resolved(),
        "features": {"encoder": "hipt-vit4k", "width": 192, "provenance": "declared"},
        "clinical": (
            ClinicalColumn(name="age", kind="continuous", unit="years"),
            ClinicalColumn(name="stage", kind="ordinal", levels=("Stage I", "Stage II")),
        ),
        "outcome": OutcomeDefinition(name="pfi", kind="survival", horizons_months=(12, 36)),
        "risk_thresholds": dict.fromkeys(("fusion", "clinical", "pooled"), (-0.5, 0.25)),
        "training": {
            "tcga_kirc": TrainingCohort(
                n_patients=494,
                n_events=150,
                digests={"clinical.csv": "0" * 64},
                origin={"source": "TCGA-CDR", "licence": "research use", "simulated": False},
            )
        },
        "seeds": {"evaluation": 7},
        "key_id": "0123456789abcdef",
        "code": {"version": "0.1.0", "digest": "f" * 64, "commit": None, "dirty": False},
        "packages": {"numpy": np.__version__},
        "run_id": None,
    }
    return Manifest(**{**fields, **changes})


def _models() -> dict:
    rng = np.random.default_rng(0)
    odd = np.array([0.1, -0.0, np.nextafter(1, 2), 1e-310, 1e300])  # a subnormal, both zeros
    return {
        "fusion": (
            {
                "tiles/weight": rng.normal(size=(4, 3)).astype(np.float32).T,  # not contiguous
                "half": rng.normal(size=5).astype(np.float16),
                "scalar": np.array(1 / 3),
                "kept": np.array([True, False]),
                "empty": np.zeros((0, 2)),
                "big_endian": np.arange(3, dtype=">i8"),
            },
            {"levels": ["Stage I", "Stage II"], "step": 0.1, "note": "größer"},
        ),
        "clinical": ({"beta": odd}, {}),
        "pooled": ({"beta": rng.normal(size=192)}, {"ridge": 1e-3}),
    }


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", _models(), _manifest(), references=REFERENCES)


def test_arrays_settings_and_study_come_back_to_the_bit(bundle):
    again = read_bundle(bundle.folder, expected_digest=bundle.digest)
    for name, (arrays, settings) in _models().items():
        assert again.settings[name] == settings
        assert again.arrays[name].keys() == arrays.keys()
        for key, array in arrays.items():
            back = again.arrays[name][key]
            assert (back.shape, back.dtype) == (array.shape, array.dtype.newbyteorder("="))
            assert back.tobytes() == array.astype(back.dtype).tobytes(), key
    assert again.study == _study()
    assert again.manifest == _manifest()
    assert again.models == ("fusion", "clinical", "pooled")
    for key, array in REFERENCES["image"].to_arrays().items():
        assert again.reference.to_arrays()[key].tobytes() == array.tobytes(), key


def test_a_bundle_without_a_reference_has_none_and_says_why(tmp_path):
    why = {"image": "9 patients with tiles are too few"}
    bundle = write_bundle(tmp_path / "b", _models(), _manifest(without_reference=why))
    assert bundle.reference is None
    assert bundle.manifest.without_reference == why
    assert sorted(path.name for path in bundle.folder.iterdir()) == FILES[:3]


def test_a_bundle_of_the_first_format_can_still_be_read(tmp_path):
    folder = write_bundle(tmp_path / "b", _models(), _manifest()).folder
    document = json.loads((folder / "manifest.json").read_text()) | {"format_version": 1}
    del document["bundle_digest"], document["manifest"]["without_reference"]
    for column in document["manifest"]["clinical"]:
        del column["observed"]
    document["bundle_digest"] = digest_value(document)
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text)
    old = read_bundle(folder, expected_digest=document["bundle_digest"])
    assert old.reference is None
    assert old.manifest == _manifest()


def test_a_reference_that_is_taken_out_is_missed(bundle):
    (bundle.folder / "reference.safetensors").unlink()
    with pytest.raises(RegistryError, match=r"reference\.safetensors: is missing"):
        read_bundle(bundle.folder)


def test_a_reference_that_is_put_in_is_refused(bundle, tmp_path):
    other = write_bundle(tmp_path / "other", _models(), _manifest())
    data = (bundle.folder / "reference.safetensors").read_bytes()
    (other.folder / "reference.safetensors").write_bytes(data)
    with pytest.raises(RegistryError, match="is not the file that the manifest names"):
        read_bundle(other.folder)


def test_the_same_models_make_the_same_bytes(bundle, tmp_path):
    again = write_bundle(tmp_path / "again", _models(), _manifest(), references=REFERENCES)
    assert again.digest == bundle.digest
    for name in FILES:
        assert (again.folder / name).read_bytes() == (bundle.folder / name).read_bytes()


def test_another_weight_threshold_seed_or_study_is_another_digest(bundle, tmp_path):
    weights = _models()
    weights["clinical"][0]["beta"][1] = 0.0  # was -0.0
    resolved = _study(claims=[]).resolved()
    others = [
        (_models(), _manifest()),  # without the reference
        (weights, _manifest()),
        (_models(), _manifest(risk_thresholds={**_manifest().risk_thresholds, "fusion": (0.0,)})),
        (_models(), _manifest(seeds={"evaluation": 8})),
        (_models(), _manifest(study=resolved)),
    ]
    digests = {
        write_bundle(tmp_path / str(at), models, manifest).digest
        for at, (models, manifest) in enumerate(others)
    }
    assert len(digests | {bundle.digest}) == 6


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_seen_and_the_file_named(bundle, name):
    path = bundle.folder / name
    data = path.read_bytes()
    positions = np.random.default_rng(1).choice(len(data), size=min(150, len(data)), replace=False)
    for position in [0, len(data) - 1, *positions.tolist()]:
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(RegistryError, match=name.replace(".", r"\.")):
            read_bundle(bundle.folder)
    path.write_bytes(data)
    assert read_bundle(bundle.folder).digest == bundle.digest


def _edit(folder: Path, change) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def test_an_edited_threshold_is_seen_without_knowing_the_digest(bundle):
    _edit(bundle.folder, lambda d: d["manifest"]["risk_thresholds"].update(fusion=[0.0, 9.0]))
    with pytest.raises(RegistryError, match="was edited"):
        read_bundle(bundle.folder)


def test_a_whole_other_bundle_in_its_place_is_refused_by_its_digest(bundle, tmp_path):
    other = write_bundle(tmp_path / "other", _models(), _manifest(seeds={"evaluation": 8}))
    with pytest.raises(RegistryError, match=f"expected is {bundle.digest}"):
        read_bundle(other.folder, expected_digest=bundle.digest)


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_in_the_bundle_is_refused_and_never_opened(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (bundle.folder / "model.pkl").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(RegistryError, match=r"model\.pkl: does not belong in a bundle"):
        read_bundle(bundle.folder)
    # Nor does it help to call the pickle safetensors.
    (bundle.folder / "model.pkl").replace(bundle.folder / "model.safetensors")
    with pytest.raises(RegistryError, match="is not the file that the manifest names"):
        read_bundle(bundle.folder)
    assert not Path("exploded").exists()


def test_links_folders_and_missing_files_are_refused(bundle, tmp_path):
    (tmp_path / "elsewhere.md").write_bytes((bundle.folder / "card.md").read_bytes())
    (bundle.folder / "card.md").unlink()
    with pytest.raises(RegistryError, match=r"card\.md: is missing"):
        read_bundle(bundle.folder)
    (bundle.folder / "card.md").symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(RegistryError, match=r"card\.md: is no plain file"):
        read_bundle(bundle.folder)
    (tmp_path / "link").symlink_to(bundle.folder, target_is_directory=True)
    with pytest.raises(RegistryError, match="is a link"):
        read_bundle(tmp_path / "link")
    with pytest.raises(RegistryError, match="cannot be read: No such file"):
        read_bundle(tmp_path / "nowhere")


def test_a_bundle_of_a_newer_format_asks_for_an_update(bundle):
    _edit(bundle.folder, lambda d: d.update(format_version=3))
    with pytest.raises(RegistryError, match=r"format_version 3 is not 1 or 2.*Update storm-clin"):
        read_bundle(bundle.folder)


def test_candidate_clinical_comparator_and_claimed_comparators_are_required(tmp_path):
    assert required_models(_study()) == ("fusion", "clinical", "pooled")
    models = _models()
    del models["pooled"]
    with pytest.raises(RegistryError, match="'pooled' is not given"):
        write_bundle(tmp_path / "bundle", models, _manifest())
    with pytest.raises(RegistryError, match="'other' is no model of the study"):
        write_bundle(tmp_path / "bundle", {**_models(), "other": ({}, {})}, _manifest())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (({"names": np.array(["a"])}, {}), "clinical/names: is <U1, not an array of numbers"),
        (({"objects": np.array([{}])}, {}), "clinical/objects: is object"),
        (({}, {"when": Path("x")}), "settings that are no JSON"),
        (({}, {"loss": float("nan")}), "settings that are no JSON"),
    ],
)
def test_a_state_that_is_more_than_numbers_and_json_is_refused(tmp_path, state, problem):
    with pytest.raises(RegistryError, match=problem):
        write_bundle(tmp_path / "bundle", {**_models(), "clinical": state}, _manifest())
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_never_overwritten(bundle):
    with pytest.raises(StorageError, match="exists already"):
        write_bundle(bundle.folder, _models(), _manifest())


def test_risks_at_a_threshold_belong_to_the_group_above(bundle):
    risk = np.array([-0.6, -0.5, 0.0, 0.25, np.inf])
    assert bundle.risk_group("fusion", risk).tolist() == [0, 1, 1, 2, 2]


def test_the_card_names_data_licence_limits_and_numbers(tmp_path):
    table = "| model | C |\n| --- | --- |\n| fusion | 0.71 (0.66 to 0.76), 494 patients |"
    bundle = write_bundle(tmp_path / "b", _models(), _manifest(), performance=table)
    card = (bundle.folder / "card.md").read_text()
    assert table in card
    for fact in ("494", "research use", "tcga_kirp", "not checked", "Not a medical", "12, 36"):
        assert fact in card
    assert "imulated" not in card


def test_the_card_says_what_each_licence_allows_and_where_the_use_meets_one(tmp_path):
    features = {**_manifest().features, "encoder": "uni", "licence": "CC-BY-NC-ND-4.0"}
    study = _study(intended_use="clinical_investigation")
    manifest = _manifest(features=features, study=study.resolved())
    assert manifest.licences() == [
        ("encoder uni", "CC-BY-NC-ND-4.0"),
        ("data of tcga_kirc", "research use"),
    ]
    card = write_card(manifest, manifest.read_study(), ("fusion",), "")
    assert "Declared as clinical investigation: runs on patients under a protocol." in card
    assert "- Encoder uni: CC-BY-NC-ND-4.0. Training models on its outputs: ask;" in card
    assert "- **Forbidden**: encoder uni (CC-BY-NC-ND-4.0): for clinical investigation" in card
    assert "- To be asked: data of tcga_kirc (research use): its terms are not known here: " in card


def test_the_card_of_a_model_that_may_be_used_as_declared_says_so(tmp_path):
    cohort = TrainingCohort(n_patients=9, n_events=3, digests={}, origin={"licence": "CC0"})
    features = {**_manifest().features, "licence": "Apache-2.0"}
    manifest = _manifest(training={"open": cohort}, features=features)
    card = write_card(manifest, manifest.read_study(), ("fusion",), "")
    assert "Nothing stands against the intended use as declared." in card
    assert "- Data of open: CC0 (CC0-1.0). Training" in card


def test_the_card_of_a_model_of_simulated_patients_says_so_at_its_top(tmp_path):
    cohort = TrainingCohort(n_patients=9, n_events=3, digests={}, origin={"simulated": True})
    manifest = _manifest(training={"demo_a": cohort})
    card = write_bundle(tmp_path / "b", _models(), manifest).folder / "card.md"
    assert "simulated patients (demo_a): of no clinical use" in card.read_text()[:200]


def test_clinical_cells_become_declared_types_and_bad_ones_are_named():
    manifest = _manifest()
    table = pd.DataFrame({"age": ["61", None], "stage": [None, "Stage II"], "more": [1, 2]})
    typed = manifest.clinical_table(table)
    assert list(typed.columns) == ["age", "stage"]
    assert typed["age"].tolist()[0] == 61.0
    assert np.isnan(typed["age"].tolist()[1])
    assert typed["stage"].cat.ordered
    assert typed["stage"].cat.codes.tolist() == [-1, 1]
    with pytest.raises(CohortError, match="'stage': row 1: 'Stage V' is none of Stage I, Stage II"):
        manifest.clinical_table(table.assign(stage=["Stage I", "Stage V"]))
    with pytest.raises(CohortError, match="'age': row 0: 'old' is no finite number"):
        manifest.clinical_table(table.assign(age=["old", "1"]))
    with pytest.raises(CohortError, match="no column stage"):
        manifest.clinical_table(table.drop(columns="stage"))


def test_measured_columns_of_a_table_are_numbers_and_may_be_absent():
    rna = MeasuredInput(name="rna", unit="z-score", columns=("TP53", "VHL"))
    table = pd.DataFrame({"rna.VHL": [1, None], "rna.MYC": [5, 5], "VHL": [7, 7]})
    typed = rna.typed(table)
    assert typed.columns.tolist() == ["TP53", "VHL"]
    np.testing.assert_array_equal(typed, [[np.nan, 1.0], [np.nan, np.nan]])
    with pytest.raises(CohortError, match=r"column 'rna.VHL': row 1: 'high' is no finite number"):
        rna.typed(pd.DataFrame({"rna.VHL": ["1", "high"]}))


def test_the_card_names_measurements_with_their_unit(tmp_path):
    rna = MeasuredInput(name="rna", unit="z-score", columns=("TP53", "VHL"))
    manifest = _manifest(measurements=(rna,))
    assert Manifest.model_validate(manifest.model_dump(mode="json")) == manifest
    card = write_card(manifest, manifest.read_study(), ("clinical",), "")
    assert "- `rna`, 2 columns: z-score. May be missing." in card
    assert "imputed from H&E" not in card


def test_the_card_says_that_imputed_expression_was_not_measured():
    genes = MeasuredInput(name="imputed_expression", unit="log1p", columns=("ESR1",))
    manifest = _manifest(measurements=(genes,))
    card = write_card(manifest, manifest.read_study(), ("clinical",), "")
    assert "1 columns: log1p, imputed from H&E, not measured. May be missing." in card


def test_the_range_of_a_covariate_is_rounded_outward_so_that_nobody_of_development_is_beyond():
    rng = np.random.default_rng(3)
    for scale, shift in ((1.0, 0.0), (3e4, -1e5), (1e-3, 0.25), (17.0, 61.0)):
        values = np.append(rng.normal(size=200) * scale + shift, np.nan)
        found = ObservedRange.of(values)
        known = values[:-1]
        span = np.ptp(known)
        assert found.n_patients == 200
        assert known.min() - span / 10 <= found.lowest <= known.min()
        assert known.max() <= found.highest <= known.max() + span / 10
        assert found.lowest <= found.percentile_1 <= np.quantile(known, 0.01)
        assert np.quantile(known, 0.99) <= found.percentile_99 <= found.highest
        assert found.lowest not in known
        assert found.highest not in known
        assert not found.is_outside(values).any()
        beyond = np.array([found.lowest - scale, found.highest + scale, np.nan])
        assert found.is_outside(beyond).tolist() == [True, True, False]


def test_ages_are_rounded_to_whole_years():
    ages = np.append(np.linspace(31.4, 87.6, 30), 60.0)
    found = ObservedRange.of(ages)
    assert (found.lowest, found.highest) == (31.0, 88.0)


def test_a_range_needs_twenty_patients_with_a_value():
    values = np.append(np.arange(19.0), np.full(10, np.nan))
    assert ObservedRange.of(values) is None
    assert ObservedRange.of(np.append(values, 4.0)).n_patients == 20
    constant = ObservedRange.of(np.full(25, 2.0))
    assert (constant.lowest, constant.highest) == (2.0, 2.0)
