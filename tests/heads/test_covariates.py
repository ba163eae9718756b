"""Clinical tables as design matrices: learned in training, applied to anybody."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from storm_clinic.errors import CohortError, TrainingError
from storm_clinic.heads.covariates import Covariates

STAGES = ["I", "II", "III", "IV"]


def table(age: list[float], stage: list[str | None], sex: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": np.array(age, dtype=np.float64),
            "stage": pd.Categorical(stage, STAGES, ordered=True),
            "sex": pd.Categorical(sex, ["female", "male", "other"]),
        }
    )


@pytest.fixture
def training() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = 60 + 10 * rng.normal(size=60)
    age[:8] = np.nan
    stage = [STAGES[i] for i in rng.integers(0, 4, 60)]
    sex = [["female", "male"][i] for i in rng.integers(0, 2, 60)]
    return table(age.tolist(), [None if i in (20, 21) else s for i, s in enumerate(stage)], sex)


def test_training_patients_are_standardised_and_nominal_levels_are_centred(training):
    covariates = Covariates.fit(training)
    assert covariates.features == ("age", "stage", "sex=male", "age missing")
    design, notes = covariates.encode(training)
    known = design[8:]
    observed = training["age"].dropna()
    expected = (observed - observed.mean()) / observed.std(ddof=0)
    np.testing.assert_allclose(known[:, 0], expected)
    male = (training["sex"] == "male").to_numpy(float)
    np.testing.assert_allclose(design[:, 2], male - male.mean())
    assert design[:, 3].tolist() == [1.0] * 8 + [0.0] * 52
    assert not np.isnan(design).any()
    assert notes == ()


def test_ordinal_levels_are_equally_spaced_in_their_declared_order(training):
    covariates = Covariates.fit(training)
    rows = table([60.0] * 4, ["IV", "I", "III", "II"], ["male"] * 4)
    stage = covariates.encode(rows)[0][:, 1]
    assert stage[[1, 3, 2, 0]] == pytest.approx(stage[1] + np.arange(4) * (stage[3] - stage[1]))
    assert stage[1] < stage[3]


def test_encoding_uses_only_what_was_learned_in_training(training):
    covariates = Covariates.fit(training)
    alone = covariates.encode(training.iloc[[30]])[0]
    among = covariates.encode(training)[0][[30]]
    assert (alone == among).all()


def test_few_missing_values_are_filled_without_an_indicator(training):
    covariates = Covariates.fit(training)
    assert "stage missing" not in covariates.features
    assert any("stage: missing in under 5 patients" in note for note in covariates.notes)


def test_a_covariate_missing_for_the_first_time_is_filled_and_reported(training):
    covariates = Covariates.fit(training)
    design, notes = covariates.encode(table([60.0], ["II"], [None]))
    assert not np.isnan(design).any()
    assert notes == ("sex: missing in 1 patients, never in training; filled in",)


def test_columns_missing_in_the_same_patients_share_an_indicator():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 2))
    values[:10] = np.nan
    covariates = Covariates.fit(pd.DataFrame(values, columns=["ki67", "her2"]))
    assert covariates.features == ("ki67", "her2", "ki67 missing")
    assert covariates.notes == (
        "her2: missing in the same patients as ki67, one indicator for both",
    )


def test_columns_that_do_not_vary_are_dropped_and_named(training):
    constant = training.assign(
        site=pd.Categorical(["A"] * 60, ["A", "B"]), dose=5.0, grade=np.full(60, np.nan)
    )
    covariates = Covariates.fit(constant)
    assert covariates.features == ("age", "stage", "sex=male", "age missing")
    dropped = [
        note for note in covariates.notes if note.endswith("does not vary in training, dropped")
    ]
    assert sorted(note.split(":")[0] for note in dropped) == ["dose", "grade", "site"]


def test_a_table_without_anything_that_varies_is_refused():
    with pytest.raises(TrainingError, match=r"dose: no clinical covariate varies"):
        Covariates.fit(pd.DataFrame({"dose": np.full(20, 5.0)}))


def test_a_level_that_was_declared_but_never_seen_counts_as_missing(training):
    covariates = Covariates.fit(training)
    other, notes = covariates.encode(table([60.0], ["II"], ["other"]))
    unknown, _ = covariates.encode(table([60.0], ["II"], [None]))
    assert (other == unknown).all()
    assert "1 patients have a level that never occurred in training" in notes[0]


def test_a_stage_beyond_those_of_training_counts_by_its_position_and_is_noted(training):
    early = training[training["stage"] != "IV"]
    covariates = Covariates.fit(early)
    design, notes = covariates.encode(table([60.0] * 4, STAGES, ["male"] * 4))
    assert notes == (
        "stage: 1 patients have a level that never occurred in training; it counts by its position",
    )
    steps = np.diff(design[:, covariates.features.index("stage")])
    np.testing.assert_allclose(steps, steps[0])
    assert covariates.encode(early)[1] == ()


def test_an_undeclared_level_is_refused_with_column_and_value(training):
    covariates = Covariates.fit(training)
    rows = pd.DataFrame({"age": [60.0], "stage": ["Stage IVb"], "sex": ["male"]})
    with pytest.raises(
        CohortError, match=r"column 'stage': unknown level 'Stage IVb'.*I, II, III, IV"
    ):
        covariates.encode(rows)


def test_text_levels_are_read_like_categoricals(training):
    covariates = Covariates.fit(training)
    text = pd.DataFrame({"age": [60.0], "stage": ["III"], "sex": ["male"]})
    assert (
        covariates.encode(text)[0] == covariates.encode(table([60.0], ["III"], ["male"]))[0]
    ).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pd.DataFrame({"age": [60.0], "sex": ["male"]}), "column 'stage': the model needs"),
        (
            pd.DataFrame({"age": ["sixty"], "stage": ["I"], "sex": ["male"]}),
            "column 'age': holds something that is no number",
        ),
        (
            pd.DataFrame({"age": [np.inf], "stage": ["I"], "sex": ["male"]}),
            "column 'age': holds an infinite value",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_column(training, rows, message):
    with pytest.raises(CohortError, match=message):
        Covariates.fit(training).encode(rows)


def test_undeclared_text_cannot_be_trained_on():
    with pytest.raises(CohortError, match=r"column 'stage': is object.*Declare its kind"):
        Covariates.fit(pd.DataFrame({"stage": ["I", "II"] * 10}))


def test_what_is_stored_encodes_bit_equally(training):
    covariates = Covariates.fit(training)
    arrays, settings = covariates.state()
    restored = Covariates.from_state(arrays, json.loads(json.dumps(settings)))
    rows = table([np.nan, 71.0], ["IV", None], ["other", "male"])
    before, after = covariates.encode(rows), restored.encode(rows)
    assert (before[0] == after[0]).all()
    assert before[1] == after[1]
    assert restored.features == covariates.features
