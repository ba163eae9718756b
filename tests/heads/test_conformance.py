"""What every head must do, whatever it is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import ContractMismatch, InputError, TrainingError
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import FittedModel, ModelOutput, PatientData, Recipe, Sample
from storm_clinic.heads.zoo import find, heads, restore
from storm_clinic.study import kind_of

HORIZONS = (12.0, 24.0)


@dataclass(frozen=True)
class Case:
    """A head with the inputs and the outcome it is tried on."""

    head: str
    inputs: tuple[str, ...]
    outcome: str
    n_levels: int = 2

    def __str__(self) -> str:
        return f"{self.head}-{'+'.join(self.inputs)}-{self.outcome}{self.n_levels}"


def _cases() -> list[Case]:
    found = []
    for head in heads().values():
        for inputs in (("image",), ("clinical",), ("image", "clinical")):
            if not head.needs <= {kind_of(name) for name in inputs} <= head.takes:
                continue
            if Survival in head.outcomes:
                found.append(Case(head.name, inputs, "survival"))
            if Classes in head.outcomes:
                found += [Case(head.name, inputs, "classes", n) for n in (2, 3)]
    return found


CASES = _cases()


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def recipe_of(case: Case, seed: int = 1) -> Recipe:
    settings = {name: option.default for name, option in find(case.head).options.items()}
    horizons = HORIZONS if case.outcome == "survival" else ()
    return Recipe(case.inputs, settings, horizons, seed)


def fitted(case: Case, sample: Sample, *, n_stages: int = 4, seed: int = 1) -> FittedModel:
    path = find(case.head).path(sample, recipe_of(case, seed))
    return list(islice(path, n_stages))[-1].finish()


def same(one: ModelOutput, other: ModelOutput, tolerance: float = 0.0) -> None:
    assert list(one.probabilities) == list(other.probabilities)
    pairs = [(one.risk, other.risk)]
    pairs += [(one.probabilities[name], other.probabilities[name]) for name in one.probabilities]
    for first, second in pairs:
        np.testing.assert_allclose(first, second, rtol=tolerance, atol=tolerance)


@pytest.fixture
def sample(case, simulated) -> Sample:
    return simulated(0, outcome=case.outcome, n_levels=case.n_levels)


def test_probabilities_are_legal_and_follow_the_risk(case, sample):
    output = fitted(case, sample).predict(sample.data)
    assert output.risk.dtype == np.float64
    values = np.stack(list(output.probabilities.values()))
    assert ((values >= 0) & (values <= 1)).all()
    order = np.argsort(output.risk, kind="stable")
    if case.outcome == "survival":
        assert list(output.probabilities) == ["risk_at_12m", "risk_at_24m"]
        assert (np.diff(values, axis=0) >= 0).all()
        assert (np.diff(values[:, order], axis=1) >= 0).all()
    else:
        assert list(output.probabilities) == [f"p_grade {i}" for i in range(case.n_levels)]
        np.testing.assert_allclose(values.sum(axis=0), 1)
        assert (np.diff(values[-1][order]) >= 0).all()


def test_predicted_events_by_a_horizon_are_about_those_observed(case, simulated):
    if case.outcome != "survival":
        pytest.skip("horizons belong to survival")
    whole = simulated(3, n_patients=200)
    # Without censoring the share of events is known without an estimator.
    followed = Sample(whole.data, Survival.from_arrays(whole.outcome.time_months, np.ones(200)))
    output = fitted(case, followed, n_stages=20).predict(whole.data)
    for months in HORIZONS:
        observed = (whole.outcome.time_months <= months).mean()
        assert output.probabilities[f"risk_at_{months:g}m"].mean() == pytest.approx(
            observed, abs=0.04
        )


def test_order_of_patients_permutes_predictions(case, sample):
    model = fitted(case, sample)
    order = np.random.default_rng(0).permutation(len(sample.data))
    direct, permuted = model.predict(sample.data), model.predict(sample.data.take(order))
    np.testing.assert_allclose(permuted.risk, direct.risk[order], rtol=1e-5, atol=1e-6)


def test_order_of_tiles_changes_nothing(case, sample):
    model = fitted(case, sample)
    rng = np.random.default_rng(0)
    bags = sample.data.bags
    shuffled = Bags.from_arrays([rng.permutation(bags.bag(i)) for i in range(bags.n_bags)])
    data = PatientData(sample.data.keys, shuffled, sample.data.clinical)
    same(model.predict(data), model.predict(sample.data), 1e-5)


def test_a_patient_alone_is_predicted_as_among_others(case, sample):
    model = fitted(case, sample)
    together = model.predict(sample.data)
    alone = [model.predict(sample.data.take(np.array([i]))).risk[0] for i in range(12)]
    np.testing.assert_allclose(alone, together.risk[:12], rtol=1e-5, atol=1e-6)


def test_what_is_stored_predicts_bit_equally(case, sample):
    model = fitted(case, sample)
    arrays, settings = model.state()
    restored = restore(case.head, load(save(arrays)), json.loads(json.dumps(settings)))
    same(restored.predict(sample.data), model.predict(sample.data))
    attention = model.attention(sample.data)
    if attention is not None:
        again = restored.attention(sample.data)
        assert all((a == b).all() for a, b in zip(attention, again, strict=True))
    assert restored.head == case.head
    assert restored.notes == model.notes


def test_a_stored_model_that_lost_a_part_is_refused(case, sample):
    arrays, settings = fitted(case, sample).state()
    for name in arrays:
        rest = {key: value for key, value in arrays.items() if key != name}
        with pytest.raises(InputError, match=name.split(".")[-1]):
            restore(case.head, rest, settings).predict(sample.data)


def test_attention_is_a_distribution_over_each_patients_tiles(case, sample):
    weights = fitted(case, sample).attention(sample.data)
    if not case.head.startswith("attention"):
        assert weights is None
        return
    assert [len(part) for part in weights] == sample.data.bags.sizes.tolist()
    assert all((part >= 0).all() for part in weights)
    np.testing.assert_allclose([part.sum() for part in weights], 1, rtol=1e-5)


def test_a_seed_fixes_the_model(case, sample):
    one, other = fitted(case, sample), fitted(case, sample)
    same(one.predict(sample.data), other.predict(sample.data))


def test_patients_without_any_event_cannot_train(case, simulated):
    sample = simulated(0, outcome=case.outcome, n_levels=case.n_levels)
    if case.outcome == "survival":
        nothing = Survival.from_arrays(sample.outcome.time_months, np.zeros(40))
        message = "none of 40 patients had the event"
    else:
        nothing = Classes(np.zeros(40, dtype=np.int64), sample.outcome.levels)
        message = "none of 40 patients is of class 'grade 1'"
    with pytest.raises(TrainingError, match=message):
        fitted(case, Sample(sample.data, nothing))


def test_one_event_trains(case, simulated):
    sample = simulated(0, outcome=case.outcome, n_levels=case.n_levels)
    if case.outcome == "survival":
        single = Survival.from_arrays(sample.outcome.time_months, np.arange(40) == 5)
    else:
        label = np.zeros(40, dtype=np.int64)
        label[: case.n_levels] = np.arange(case.n_levels)
        single = Classes(label, sample.outcome.levels)
    output = fitted(case, Sample(sample.data, single)).predict(sample.data)
    assert np.isfinite(output.risk).all()


def test_everybody_failing_at_once_still_gives_finite_risks(case, simulated):
    if case.outcome != "survival":
        pytest.skip("times belong to survival")
    sample = simulated(0)
    ties = Survival.from_arrays(np.full(40, 24.0), np.arange(40) < 39)
    output = fitted(case, Sample(sample.data, ties)).predict(sample.data)
    assert np.isfinite(output.risk).all()
    assert (output.probabilities["risk_at_12m"] == 0).all()


def test_patients_far_from_all_others_get_finite_risks(case, sample):
    model = fitted(case, sample)
    clinical = sample.data.clinical.assign(age=sample.data.clinical["age"] * 1e4)
    bags = Bags.from_arrays([sample.data.bags.bag(i) * np.float32(1e4) for i in range(40)])
    output = model.predict(PatientData(sample.data.keys, bags, clinical))
    assert np.isfinite(output.risk).all()
    assert all(np.isfinite(values).all() for values in output.probabilities.values())


def test_each_stage_reports_a_finite_loss_and_the_watched_patients_likelihood(case, simulated):
    sample = simulated(0, outcome=case.outcome, n_levels=case.n_levels)
    watch = simulated(1, outcome=case.outcome, n_levels=case.n_levels)
    stages = list(islice(find(case.head).path(sample, recipe_of(case), watch), 4))
    assert all(np.isfinite([stage.loss, stage.held_out]).all() for stage in stages)
    # Equal hazards, or equal classes, are what anything learned has to compare with.
    assert all(stage.held_out < 0 for stage in stages)


def test_data_without_what_the_model_sees_are_refused(case, sample):
    model = fitted(case, sample)
    if "image" in case.inputs:
        with pytest.raises(InputError, match="sees the input 'image'"):
            model.predict(PatientData(sample.data.keys, None, sample.data.clinical))
        narrow = Bags.from_arrays([np.ones((2, 3), np.float32)] * 40)
        with pytest.raises(ContractMismatch, match="have 3 features, the model was trained on 6"):
            model.predict(PatientData(sample.data.keys, narrow, sample.data.clinical))
    if "clinical" in case.inputs:
        with pytest.raises(InputError, match="sees the input 'clinical'"):
            model.predict(PatientData(sample.data.keys, sample.data.bags, None))


def test_entry_times_are_used_or_refused(case, simulated):
    if case.outcome != "survival":
        pytest.skip("entry times belong to survival")
    sample = simulated(0, entry=True)
    if not find(case.head).entry_times:
        with pytest.raises(InputError, match="entry times"):
            fitted(case, sample)
        return
    ignored = Survival(sample.outcome.time_months, sample.outcome.event)
    truncated = fitted(case, sample).predict(sample.data)
    whole = fitted(case, Sample(sample.data, ignored)).predict(sample.data)
    assert (truncated.risk != whole.risk).any()
    # Without those not yet entered fewer are at risk, so that hazards are higher.
    months = "risk_at_24m"
    assert truncated.probabilities[months].mean() > whole.probabilities[months].mean()


def test_a_model_of_the_image_does_not_look_at_the_clinical_table(case, sample):
    model = fitted(case, sample)
    rng = np.random.default_rng(0)
    if "clinical" not in case.inputs:
        other = pd.DataFrame({"unknown": rng.normal(size=40)})
        data = PatientData(sample.data.keys, sample.data.bags, other)
        same(model.predict(data), model.predict(sample.data))
    if "image" not in case.inputs:
        data = PatientData(sample.data.keys, None, sample.data.clinical)
        same(model.predict(data), model.predict(sample.data))
