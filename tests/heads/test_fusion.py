"""Several inputs in one network: what a patient lacks is masked, and never speaks."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from safetensors.numpy import load, save

from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import Recipe, Sample
from storm_clinic.heads.patient_batches import PatientBatches
from storm_clinic.heads.training import outputs_of
from storm_clinic.heads.zoo import find, restore

FUSIONS = ["late", "early", "cross"]
INPUTS = ("image", "rna", "clinical")


def fitted(sample, fusion, inputs=INPUTS, n_epochs=30, **settings):
    head = find("attention-cox")
    defaults = {name: option.default for name, option in head.options.items()}
    recipe = Recipe(inputs, {**defaults, "fusion": fusion, **settings}, (12.0,), 1)
    return list(islice(head.path(sample, recipe), n_epochs))[-1].finish()


def without_rna(data, rows, values=np.nan):
    table = data.tables["rna"].copy()
    table.iloc[rows] = values
    return replace(data, tables={"rna": table})


def without_slides(data, rows):
    bags = [data.bags.bag(i)[: 0 if i in rows else None] for i in range(len(data))]
    return replace(data, bags=Bags.from_arrays(bags))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("hidden", ["image", "rna table"])
def test_what_is_masked_cannot_be_seen_through_its_values(simulated, fusion, hidden):
    sample = simulated(0)
    model = fitted(sample, fusion, modality_dropout=0.3)
    encoded = model.inputs.encode(sample.data)
    present = {**encoded.present, hidden: np.zeros(40, dtype=np.bool_)}
    masked = replace(encoded, present=present)
    rng = np.random.default_rng(0)
    if hidden == "rna table":
        drawn = rng.normal(size=encoded.tables["rna table"].shape)
        other = replace(masked, tables={"rna table": drawn})
    else:
        bags, scale = encoded.tiles["image"]
        moved = Bags.from_arrays([bags.bag(i) + rng.normal() for i in range(40)])
        other = replace(masked, tiles={"image": (moved, scale)})
    network = model.network()
    said = outputs_of(network, PatientBatches(masked))
    assert (outputs_of(network, PatientBatches(other)) == said).all()
    assert (outputs_of(network, PatientBatches(encoded)) != said).any()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_absent_input_is_not_an_input_of_zeros(simulated, fusion):
    sample = simulated(0)
    model = fitted(sample, fusion, modality_dropout=0.3)
    average = sample.data.tables["rna"].mean().to_numpy()
    zeros = model.predict(without_rna(sample.data, [1], average)).risk[1]  # 0 once standardised
    assert model.predict(without_rna(sample.data, [1])).risk[1] != zeros


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_absence_means_is_learned_from_patients_who_lack_it(simulated, fusion):
    # Whoever has no RNA fails late, whatever the slides say: the network must find that out.
    sample = simulated(2, n_patients=80, effect=0.0)
    lacks = np.isnan(sample.data.tables["rna"].to_numpy()).all(axis=1)
    time = np.where(lacks, sample.outcome.time_months + 100, sample.outcome.time_months)
    outcome = replace(sample.outcome, time_months=time)
    model = fitted(Sample(sample.data, outcome), fusion, n_epochs=60, learning_rate=0.02)
    risk = model.predict(sample.data).risk
    assert risk[lacks].max() < np.median(risk[~lacks])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion_uses_every_input(simulated, fusion):
    sample = simulated(0)
    model = fitted(sample, fusion)
    risk = model.predict(sample.data).risk
    shuffled = np.random.default_rng(0).permutation(40)
    other_tiles = replace(sample.data, bags=sample.data.bags.take(shuffled))
    other_rna = replace(sample.data, tables={"rna": sample.data.tables["rna"].iloc[shuffled]})
    other_stage = replace(sample.data, clinical=sample.data.clinical.iloc[shuffled])
    for other in (other_tiles, other_rna, other_stage):
        assert np.abs(model.predict(other).risk - risk).mean() > 0.01


@pytest.mark.parametrize("fusion", FUSIONS)
def test_patients_who_have_only_covariates_are_predicted_alike_but_for_these(simulated, fusion):
    sample = simulated(0)
    model = fitted(sample, fusion)
    bare = without_slides(without_rna(sample.data, [1, 2]), [1, 2])
    same_covariates = replace(bare, clinical=bare.clinical.iloc[[1] * 40])
    risks = model.predict(same_covariates).risk
    assert risks[1] == risks[2]
    notes = model.predict(bare).notes
    assert any(note == "image: 2 patients have no tile; masked" for note in notes)
    assert any(note.startswith("rna: not measured in 10 patients") for note in notes)


def test_storms_tiles_are_pooled_beside_the_images(simulated):
    sample = simulated(0)
    rng = np.random.default_rng(0)
    spots = [rng.normal(size=(n, 3)).astype(np.float32) for n in sample.data.bags.sizes]
    data = replace(sample.data, storm=Bags.from_arrays(spots))
    model = fitted(Sample(data, sample.outcome), "late", ("image", "storm"))
    risk = model.predict(data).risk
    other = replace(data, storm=Bags.from_arrays([-s for s in spots]))
    assert (model.predict(other).risk != risk).all()
    assert [len(w) for w in model.attention(data)] == sample.data.bags.sizes.tolist()


def test_a_wide_table_enters_by_its_components_and_narrow_ones_as_they_are(simulated):
    sample = simulated(0)
    wide = sample.data.tables["rna"].sample(40, axis=1, replace=True, random_state=0)
    wide.columns = [f"g{i}" for i in range(40)]
    data = replace(sample.data, tables={"rna": wide})
    model = fitted(Sample(data, sample.outcome), "late", ("image", "rna"), 2, components=3)
    assert model.architecture["tables"] == [("rna table", 3)]
    narrow = fitted(sample, "late", ("image", "rna"), 2, components=16)
    assert narrow.architecture["tables"] == [("rna table", 6)]


def test_a_column_that_a_later_table_lacks_is_noted(simulated):
    sample = simulated(0)
    model = fitted(sample, "late")
    fewer = {"rna": sample.data.tables["rna"].drop(columns=["gene2", "gene4"])}
    output = model.predict(replace(sample.data, tables=fewer))
    assert np.isfinite(output.risk).all()
    assert any("2 of 6 columns are not in this table" in note for note in output.notes)


@pytest.mark.parametrize(
    "head", ["attention-cox", "pca-cox", "coxnet", "survival-forest", "survival-boosting"]
)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_order_of_inputs_survives_a_bundle_that_sorts_its_keys(simulated, head, fusion):
    if head != "attention-cox" and fusion != "late":
        pytest.skip("only networks fuse")
    sample = simulated(0)
    other = sample.data.tables["rna"].iloc[:, :3] ** 2
    data = replace(sample.data, tables={"rna": sample.data.tables["rna"], "atac": other})
    options = {name: option.default for name, option in find(head).options.items()}
    if head == "attention-cox":
        options["fusion"] = fusion
    recipe = Recipe(("image", "rna", "atac", "clinical"), options, (12.0,), 1)
    path = find(head).path(Sample(data, sample.outcome), recipe)
    model = list(islice(path, 20))[-1].finish()
    arrays, settings = model.state()
    stored = json.loads(json.dumps(settings, sort_keys=True))
    restored = restore(head, dict(sorted(load(save(arrays)).items())), stored)
    assert (restored.predict(data).risk == model.predict(data).risk).all()


@pytest.mark.parametrize("name", ["values", "type", "keys", "train"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_table_may_be_called_what_the_network_calls_its_own_parts(simulated, fusion, name):
    sample = simulated(0)
    data = replace(sample.data, tables={name: sample.data.tables["rna"]})
    model = fitted(Sample(data, sample.outcome), fusion, ("image", name), 2)
    same = fitted(sample, fusion, ("image", "rna"), 2)
    assert (model.predict(data).risk == same.predict(sample.data).risk).all()
