"""The design matrix: what it is made of, and that nothing missing passes for something known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save
from sklearn.decomposition import PCA

from storm_clinic.errors import ContractMismatch, InputError, TrainingError
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData
from storm_clinic.heads.design import Design

GENES = ["TP53", "VHL", "PBRM1"]


def patients(seed: int = 0, n: int = 40, n_without: int = 8, n_tileless: int = 0) -> PatientData:
    """Patients with tiles and three genes; the last have no genes, the first no tiles."""
    rng = np.random.default_rng(seed)
    genes = rng.normal([3, -2, 10], [1, 2, 0.5], size=(n, 3))
    genes[n - n_without :] = np.nan
    tiles = [rng.normal(size=(0 if i < n_tileless else 5, 4)).astype(np.float32) for i in range(n)]
    keys = tuple(f"p{i}" for i in range(n))
    table = pd.DataFrame(genes, columns=GENES)
    return PatientData(keys, Bags.from_arrays(tiles), tables={"rna": table})


def with_genes(data: PatientData, genes: pd.DataFrame) -> PatientData:
    return replace(data, tables={"rna": genes})


def test_columns_are_pooled_tiles_and_genes_standardised_over_those_who_have_them():
    data = patients(n_without=0)
    design, matrix = Design.fit(data, ("image", "rna"))
    raw = np.hstack([data.bags.pooled_mean(), data.tables["rna"].to_numpy()])
    np.testing.assert_allclose(matrix, (raw - raw.mean(axis=0)) / raw.std(axis=0), atol=1e-12)
    np.testing.assert_array_equal(design.encode(data)[0], matrix)
    assert design.n_block_columns == 7


def test_who_lacks_the_genes_counts_as_average_with_an_indicator():
    data = patients()
    design, matrix = Design.fit(data, ("rna",))
    genes = data.tables["rna"]
    assert matrix.shape == (40, 4)
    np.testing.assert_array_equal(matrix[:, 3], genes["VHL"].isna())
    assert (matrix[32:, :3] == 0).all()
    average = pd.DataFrame([genes.mean()], columns=GENES)
    of_average = design.encode(with_genes(data.take(np.array([0])), average))[0]
    np.testing.assert_allclose(matrix[32], of_average[0] + [0, 0, 0, 1], atol=1e-12)


def test_what_was_not_measured_has_no_influence_on_the_others():
    data = patients()
    alone = data.take(np.arange(32))
    with_absent, _ = Design.fit(data, ("rna",))
    without, _ = Design.fit(alone, ("rna",))
    np.testing.assert_array_equal(with_absent.encode(alone)[0][:, :3], without.encode(alone)[0])


def test_a_gap_in_a_measured_row_counts_as_the_columns_mean():
    data = patients(n_without=0)
    genes = data.tables["rna"].copy()
    genes.loc[:9, "VHL"] = np.nan
    design, matrix = Design.fit(with_genes(data, genes), ("rna",))
    assert (matrix[:10, 1] == 0).all()
    assert (matrix[:10, [0, 2]] != 0).all()
    # Nobody lacks the whole table, so that nothing is said about absence.
    assert matrix.shape[1] == 3
    expected = (genes["VHL"] - genes["VHL"].mean()) / genes["VHL"].std(ddof=0)
    np.testing.assert_allclose(matrix[10:, 1], expected[10:], atol=1e-12)
    assert design.encode(with_genes(data, genes))[1] == ()


@pytest.mark.parametrize(
    ("n_without", "indicator", "note"),
    [
        (0, False, None),
        (4, False, "rna: missing in under 5 patients, no indicator of it"),
        (5, True, None),
        (35, True, None),
        (36, False, "rna: known in under 5 patients, no indicator of it"),
    ],
)
def test_absence_is_learned_from_only_where_five_lack_and_five_have_it(n_without, indicator, note):
    design, matrix = Design.fit(patients(n_without=n_without), ("rna",))
    assert matrix.shape[1] == 3 + indicator
    assert design.notes == (() if note is None else (note,))


def test_inputs_that_the_same_patients_lack_share_an_indicator():
    data = patients()
    protein = pd.DataFrame({"ki67": data.tables["rna"]["TP53"] ** 2})
    both = replace(data, tables={**data.tables, "protein": protein})
    design, matrix = Design.fit(both, ("rna", "protein"))
    assert matrix.shape[1] == 3 + 1 + 1
    assert design.notes == ("protein: missing in the same patients as rna, one indicator for both",)


def test_patients_without_an_input_are_counted_at_prediction():
    design, _ = Design.fit(patients(n_tileless=6), ("image", "rna"))
    _, notes = design.encode(patients(1, n=20, n_without=12, n_tileless=3))
    assert notes == (
        "image: missing in 3 patients; its training mean and an indicator stand in",
        "rna: missing in 12 patients; its training mean and an indicator stand in",
    )
    never_missing, _ = Design.fit(patients(n_without=0), ("image", "rna"))
    assert never_missing.encode(patients(1, n=20, n_without=1))[1] == (
        "rna: missing in 1 patients; its training mean stands in",
    )


def test_columns_are_found_by_name_and_others_ignored():
    data = patients()
    design, matrix = Design.fit(data, ("rna",))
    shuffled = data.tables["rna"].assign(KRAS=7.0)[["PBRM1", "KRAS", "TP53", "VHL"]]
    encoded, notes = design.encode(with_genes(data, shuffled))
    np.testing.assert_array_equal(encoded, matrix)
    assert len(notes) == 1


def test_a_column_that_the_table_lacks_counts_as_average_and_is_noted():
    data = patients(n_without=0)
    design, matrix = Design.fit(data, ("rna",))
    encoded, notes = design.encode(with_genes(data, data.tables["rna"].drop(columns="VHL")))
    assert (encoded[:, 1] == 0).all()
    np.testing.assert_array_equal(encoded[:, [0, 2]], matrix[:, [0, 2]])
    assert notes == (
        "rna: 1 of 3 columns are not in this table, the first is VHL; training means stand in",
    )


def test_columns_that_do_not_vary_are_dropped_and_counted():
    data = patients(n_without=0)
    genes = data.tables["rna"].assign(VHL=4.0, KRAS=np.nan)
    design, matrix = Design.fit(with_genes(data, genes), ("rna",))
    assert matrix.shape[1] == 2
    assert design.notes == ("rna: 2 of 4 columns do not vary in training, dropped",)
    with pytest.raises(TrainingError, match="input 'rna': nothing of it varies"):
        Design.fit(with_genes(data, genes[["VHL"]]), ("rna",))


def test_wide_inputs_become_whitened_principal_components_of_those_measured():
    rng = np.random.default_rng(0)
    genes = rng.normal(size=(40, 30)) @ rng.normal(size=(30, 30))
    genes[30:] = np.nan
    data = with_genes(patients(), pd.DataFrame(genes).rename(columns=str))
    _, matrix = Design.fit(data, ("image", "rna"), n_components=5)
    assert matrix.shape[1] == 4 + 5 + 1  # four features are fewer than five: they stay
    known = genes[:30]
    standardised = (known - known.mean(axis=0)) / known.std(axis=0)
    expected = PCA(5, svd_solver="full").fit_transform(standardised)
    expected /= expected.std(axis=0)
    found = matrix[:30, 4:9]
    np.testing.assert_allclose(
        found * np.sign(found[0]), expected * np.sign(expected[0]), atol=1e-9
    )
    assert (matrix[30:, 4:9] == 0).all()


def test_more_components_than_patients_are_as_many_as_there_can_be():
    rng = np.random.default_rng(0)
    data = with_genes(patients(n=12, n_without=0), pd.DataFrame(rng.normal(size=(12, 40))))
    data = with_genes(data, data.tables["rna"].rename(columns=str))
    _, matrix = Design.fit(data, ("rna",), n_components=20)
    assert matrix.shape == (12, 11)  # centred rows span one dimension less


@pytest.mark.parametrize("pooling", ["mean", "mean+sd", "quantiles"])
def test_what_is_stored_encodes_bit_equally(pooling):
    data = patients(n_tileless=6)
    design, matrix = Design.fit(data, ("image", "rna"), pooling=pooling, n_components=2)
    arrays, settings = design.state()
    restored = Design.from_state(load(save(arrays)), json.loads(json.dumps(settings)))
    np.testing.assert_array_equal(restored.encode(data)[0], matrix)
    assert restored.encode(data)[1] == design.encode(data)[1]
    assert restored.notes == design.notes


def test_one_patient_alone_gets_the_same_bits_as_among_others():
    data = patients(n_tileless=6)
    design, matrix = Design.fit(data, ("image", "rna"), pooling="quantiles", n_components=2)
    alone = [design.encode(data.take(np.array([i])))[0][0] for i in range(40)]
    np.testing.assert_array_equal(np.stack(alone), matrix)


def test_embeddings_of_another_width_are_refused_whatever_the_pooling():
    design, _ = Design.fit(patients(), ("image",), pooling="mean+sd")
    narrow = Bags.from_arrays([np.ones((2, 3), np.float32)] * 40)
    with pytest.raises(ContractMismatch, match="have 3 features, the model was trained on 4"):
        design.encode(replace(patients(), bags=narrow))


def test_an_infinite_value_is_refused_with_its_column():
    data = patients()
    genes = data.tables["rna"].copy()
    genes.loc[3, "PBRM1"] = np.inf
    with pytest.raises(InputError, match="input 'rna': column 'PBRM1' holds an infinite value"):
        Design.fit(with_genes(data, genes), ("rna",))


def test_an_input_that_nobody_has_is_refused():
    with pytest.raises(TrainingError, match="input 'rna': only 0 of 40 training patients have it"):
        Design.fit(patients(n_without=40), ("rna",))
    with pytest.raises(TrainingError, match="input 'image': only 1 of 40"):
        Design.fit(patients(n_tileless=39), ("image",))
