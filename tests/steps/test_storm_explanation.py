"""The verb `explain` where tiles come from STORM: its files held against the model itself."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import tifffile
from storm_hospital import DRIVER, GENES, LOWER, make_west

from storm_clinic.explanations import attribution
from storm_clinic.files import Workspace
from storm_clinic.heads.bags import Bags
from storm_clinic.registry.identity import load_keys
from storm_clinic.steps.explanation import explain
from storm_clinic.steps.study_patients import scored_patients
from storm_clinic.steps.training import train
from storm_clinic.study import Study

STUDY = """\
format: 1
study: explained
question: Do imputed genes of tiles tell risk in a simulated hospital?
endpoint: {{name: pfs, horizons_months: [6], tau_months: 18}}
features: {{encoder: toy, storm: simulated-storm}}
development: [west]
require: []
candidate: one
models:
  - {{name: one, head: {head}, inputs: [{inputs}], options: {options}}}
  - {{name: other, head: pca-cox, inputs: [image]}}
evaluation:
  {{folds: 2, repeats: 1, inner_folds: 2, group: patient, seed: 7, bootstraps: 200, patience: 4}}
"""
NETWORK = "{epochs: 10, learning_rate: 0.01, hidden: 8, attention: 4}"


@pytest.fixture(scope="module")
def west(tmp_path_factory) -> Workspace:
    return make_west(Workspace(tmp_path_factory.mktemp("west")), n_patients=40)


def trained(west, tmp_path_factory, head, inputs, options="{}"):
    text = STUDY.format(head=head, inputs=inputs, options=options)
    path = west.pipelines / f"{head}.yaml"
    path.write_text(text.replace("study: explained", f"study: explained-{head}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORM_CLINIC_SECRET_FILE", str(tmp_path_factory.getbasetemp() / "secret"))
        return train(Study.read(path), workspace=west, by="c.trainer").model


@pytest.fixture(scope="module")
def both(west, tmp_path_factory):
    """A model that sees the image and imputed genes."""
    return trained(west, tmp_path_factory, "storm-cox", "image, virtual_expression", NETWORK)


@pytest.fixture(scope="module")
def alone(west, tmp_path_factory):
    """A model that sees STORM's tiles, and no image."""
    inputs = "virtual_expression, storm"
    return trained(west, tmp_path_factory, "attention-cox", inputs, NETWORK)


def test_values_of_tiles_sum_to_the_risk_less_that_of_mean_tiles(west, both, tmp_path):
    found = explain(both, cohort="west", out=tmp_path, patients=5, workspace=west)
    tiles = pd.read_csv(tmp_path / "tiles.csv").set_index("patient_key")
    inputs = pd.read_csv(tmp_path / "inputs.csv")
    fitted = both.bundle.restore()
    scored = scored_patients(both.bundle.study, "west", workspace=west, keys=load_keys(west))
    shares = ["attribution-image", "attribution-virtual_expression"]
    for key, own in inputs.groupby("patient_key"):
        patient = scored.data.take(np.array([scored.keys.index(key)]))
        at_mean = patient
        for name, bags in patient.all_tiles.items():
            centre = fitted.inputs.tiles[name].centre
            places = [bags.gather_places(slice(0, 1))] if bags.has_places else None
            mean = Bags.from_arrays([np.tile(centre, (len(bags.bag(0)), 1))], places)
            at_mean = at_mean.with_tiles(name, replace(mean, columns=bags.columns))
        risk, baseline = fitted.predict(patient).risk[0], fitted.predict(at_mean).risk[0]
        assert own["risk"].to_numpy() == pytest.approx(risk, abs=1e-4)
        assert own["baseline_risk"].to_numpy() == pytest.approx(baseline, abs=1e-4)
        change = risk - baseline
        assert tiles.loc[[key], shares].sum().sum() == pytest.approx(change, rel=0.01, abs=3e-4)
        assert own["adds_to_risk"].sum() == pytest.approx(change, rel=0.01, abs=3e-4)
        for name, row in own.set_index("input").iterrows():
            total = tiles.loc[[key], f"attribution-{name}"].sum()
            assert total == pytest.approx(row["adds_to_risk"], abs=1e-6)
    assert inputs["complete"].all()
    assert inputs["n_steps"].between(16, 512).all()
    assert found.table["attribution"].all()
    assert found.attribution_sentence == (
        "complete for 5 of 5 patients, against every tile as the mean tile of training"
    )


def test_every_gene_stands_with_how_well_it_is_imputed(west, both, tmp_path):
    explain(both, cohort="west", out=tmp_path, patients=5, workspace=west)
    genes = pd.read_csv(tmp_path / "genes.csv")
    assert set(genes["expression"]) == {"imputed"}
    assert set(genes["gene"]) == set(GENES[:11])  # the last one has no evidence
    assert genes["heldout_r_lower"].to_numpy() == pytest.approx(LOWER[0])
    assert genes["heldout_r"].to_numpy() == pytest.approx(LOWER[0] + 0.1)
    assert genes["heldout_r_upper"].to_numpy() == pytest.approx(LOWER[0] + 0.2)
    inputs = pd.read_csv(tmp_path / "inputs.csv").set_index(["patient_key", "input"])
    for key, own in genes.groupby("patient_key"):
        total = inputs.loc[(key, "virtual_expression"), "adds_to_risk"]
        assert own["adds_to_risk"].sum() == pytest.approx(total, abs=1e-6)
        sizes = own["adds_to_risk"].abs().to_numpy()
        assert (np.diff(sizes) <= 0).all()  # the weightiest first
    weight = genes.assign(size=genes["adds_to_risk"].abs()).groupby("gene")["size"].mean()
    assert weight.idxmax() == DRIVER  # what was planted


def test_a_model_of_storms_tiles_alone_is_mapped_where_storm_saw_them(west, alone, tmp_path):
    found = explain(alone, cohort="west", out=tmp_path, patients=4, workspace=west)
    assert set(found.table["inputs"]) == {"virtual_expression, storm"}
    assert set(found.table["reason"]) == {
        "the slide is not on this machine, so there is no picture"
    }
    names = {
        f"{kind}-{name}"
        for kind in ("occlusion", "attribution")
        for name in ("storm", "virtual_expression")
    } | {"attention-storm"}
    assert set(found.faithfulness) == names
    slide = found.table.iloc[0]
    document = json.loads((tmp_path / f"{slide['slide_id']}.geojson").read_text())
    assert len(document["features"]) == slide["n_tiles"]
    assert set(document["features"][0]["properties"]["measurements"]) == names
    # STORM's grid in this hospital: tiles of 112 µm in a row, at 0.25 µm.
    corners = [feature["geometry"]["coordinates"][0][0] for feature in document["features"]]
    assert corners == [[448 * number, 0] for number in range(slide["n_tiles"])]
    with tifffile.TiffFile(tmp_path / f"{slide['slide_id']}.ome.tiff") as file:
        planes, text = file.asarray(), file.ome_metadata
    tiles = pd.read_csv(tmp_path / "tiles.csv")
    own = tiles[tiles["slide_id"] == slide["slide_id"]]
    assert (own["x"].to_numpy() == np.array(corners)[:, 0]).all()
    channel = [part.split('"')[0] for part in text.split('Name="')[2:]].index("attribution-storm")
    np.testing.assert_allclose(planes[channel][0], own["attribution-storm"], rtol=1e-5)
    assert "WEST-" not in "".join(
        pd.read_csv(path).drop(columns="slide_id", errors="ignore").to_csv()
        for path in tmp_path.glob("*.csv")
    )


def test_a_patient_whose_shares_do_not_add_up_has_the_reason_and_no_map(
    west, both, tmp_path, monkeypatch
):
    rough = partial(attribution.attribute, most_steps=1)
    monkeypatch.setattr(attribution, "attribute", rough)
    found = explain(both, cohort="west", out=tmp_path, patients=3, workspace=west)
    left = ~found.inputs["complete"]
    assert left.any()
    assert found.inputs.loc[left, "adds_to_risk"].isna().all()
    reasons = found.inputs.loc[left, "reason"]
    assert reasons.str.contains("after 1 steps its shares miss the change of the risk").all()
    assert (found.inputs.loc[left, "gap"].abs() > 1e-4).all()
    keys = set(found.inputs.loc[left, "patient_key"])
    rows = found.table[found.table["patient_key"].isin(keys)]
    assert not rows["attribution"].any()
    assert rows["reason"].str.contains("nothing is attributed: the attribution is not comp").all()
    genes = pd.read_csv(tmp_path / "genes.csv")
    assert keys.isdisjoint(genes["patient_key"])
    tiles = pd.read_csv(tmp_path / "tiles.csv")
    own = tiles[tiles["patient_key"].isin(keys)]
    assert own.filter(like="attribution").isna().all().all()
    assert own.filter(like="occlusion").notna().any().any()


def test_without_captum_all_else_is_written_and_the_reason_said(west, both, tmp_path, monkeypatch):
    monkeypatch.setattr(attribution, "is_available", lambda: False)
    found = explain(both, cohort="west", out=tmp_path, patients=2, workspace=west)
    assert found.attribution_sentence.startswith("none; captum is not installed (pip install")
    assert found.table["occlusion"].all()
    assert not found.table["attribution"].any()
    assert "attribution" not in (tmp_path / "tiles.csv").read_text().splitlines()[0]
    assert pd.read_csv(tmp_path / "inputs.csv")["reason"].str.startswith("captum is not").all()


def test_a_model_without_gradients_is_occluded_on_storms_tiles_and_says_so(
    west, tmp_path_factory, tmp_path
):
    model = trained(west, tmp_path_factory, "pca-cox", "virtual_expression")
    found = explain(model, cohort="west", out=tmp_path, patients=3, workspace=west)
    assert found.table["occlusion"].all()
    assert not found.table[["attention", "attribution"]].any().any()
    assert found.attribution_sentence == "none; a model of 'pca-cox' has no gradients"
    assert set(found.faithfulness) == {"occlusion-virtual_expression"}
    assert (tmp_path / "deletion.png").exists()
