"""What every head must do, whatever it is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save
from scipy.stats import spearmanr

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import ContractMismatch, InputError, StatisticsError, TrainingError
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import FittedModel, ModelOutput, PatientData, Recipe, Sample
from storm_clinic.heads.network_head import POOLINGS
from storm_clinic.heads.zoo import find, heads, restore
from storm_clinic.study import kind_of

HORIZONS = (12.0, 24.0)
# Tried with a table that some patients lack; the others share its code.
RICH = ("pca-cox", "coxnet", "logistic", "attention-cox", "attention-hazard", "attention-classes")
TIMED = ("survival", "competing")
ATTENTIVE = ("attention", "top", "clam", "transformer", "storm", "evidence")
TORCHMIL = ("transmil", "dsmil", "dtfd")


@dataclass(frozen=True)
class Case:
    """A head with the inputs and the outcome it is tried on."""

    head: str
    inputs: tuple[str, ...]
    outcome: str
    n_levels: int = 2

    def __str__(self) -> str:
        return f"{self.head}-{'+'.join(self.inputs)}-{self.outcome}{self.n_levels}"

    @property
    def proportional(self) -> bool:
        """Whether one number orders patients at every horizon."""
        crossing = ("hazard", "deephit", "forest", "boosting", "causes-cox")
        return not self.head.endswith(crossing)


def _cases() -> list[Case]:
    found = []
    for head in heads().values():
        wide = ("image", "rna", "clinical") if head.name in RICH else ("image", "clinical")
        pooling, _, objective = head.name.partition("-")
        if pooling in TORCHMIL and objective != "cox":
            continue  # objectives are ours, and tried with our own poolings
        if pooling in ("transmil", "dtfd"):
            continue  # depend on the order of tiles, and are slow: tests/heads/test_torchmil.py
        # One pooling is tried on tiles alone: the others differ from it in nothing there.
        alone = pooling not in POOLINGS or pooling == "attention"
        for inputs in ((("image",), ("clinical",)) if alone else ()) + (wide,):
            if not head.needs <= {kind_of(name) for name in inputs} <= head.takes:
                continue
            if Survival in head.outcomes:
                found.append(Case(head.name, inputs, "survival"))
            if CompetingRisks in head.outcomes:
                found.append(Case(head.name, inputs, "competing"))
            if Classes in head.outcomes:
                found += [
                    Case(head.name, inputs, "classes", n) for n in ((2, 3) if alone else (3,))
                ]
    return found


CASES = _cases()
SHARED: dict[Case, Sample] = {}
MODELS: dict[tuple[Case, int, int], FittedModel] = {}


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def recipe_of(case: Case, seed: int = 1) -> Recipe:
    settings = {name: option.default for name, option in find(case.head).options.items()}
    horizons = HORIZONS if case.outcome in TIMED else ()
    return Recipe(case.inputs, settings, horizons, seed)


def fitted(case: Case, sample: Sample, *, n_stages: int = 4, seed: int = 1) -> FittedModel:
    """A model of these patients; of the shared ones it is fitted once for all tests."""
    if sample is not SHARED.get(case):
        return fitted_anew(case, sample, n_stages=n_stages, seed=seed)
    key = (case, n_stages, seed)
    if key not in MODELS:
        MODELS[key] = fitted_anew(case, sample, n_stages=n_stages, seed=seed)
    return MODELS[key]


def fitted_anew(case: Case, sample: Sample, *, n_stages: int = 4, seed: int = 1) -> FittedModel:
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
    if case not in SHARED:
        SHARED[case] = simulated(0, outcome=case.outcome, n_levels=case.n_levels)
    return SHARED[case]


def test_probabilities_are_legal_and_follow_the_risk(case, sample):
    output = fitted(case, sample).predict(sample.data)
    assert output.risk.dtype == np.float64
    values = np.stack(list(output.probabilities.values()))
    assert ((values >= 0) & (values <= 1)).all()
    order = np.argsort(output.risk, kind="stable")
    if case.outcome in TIMED:
        assert list(output.probabilities) == ["risk_at_12m", "risk_at_24m"]
        assert (np.diff(values, axis=0) >= 0).all()
        if case.proportional:
            assert (np.diff(values[:, order], axis=1) >= 0).all()
        else:  # hazards may cross; the ranks must still mostly agree
            assert (spearmanr(values[:, order].T).statistic > 0.5).all()
            assert spearmanr(output.risk, values[1]).statistic > 0.5
    else:
        assert list(output.probabilities) == [f"p_grade {i}" for i in range(case.n_levels)]
        np.testing.assert_allclose(values.sum(axis=0), 1)
        assert (np.diff(values[-1][order]) >= 0).all()


def test_predicted_events_by_a_horizon_are_about_those_observed(case, simulated):
    if case.outcome not in TIMED:
        pytest.skip("classes have no horizons")
    whole = simulated(3, n_patients=200, outcome=case.outcome)
    # Without censoring the share of events is known without an estimator.
    time, happened = whole.outcome.time_months, np.ones(200, dtype=np.bool_)
    followed = Survival(time, happened)
    if case.outcome == "competing":
        cause = np.where(whole.outcome.cause == 0, 2, whole.outcome.cause)
        followed, happened = CompetingRisks(time, cause, whole.outcome.causes), cause == 1
    output = fitted(case, Sample(whole.data, followed), n_stages=20).predict(whole.data)
    # One shape of hazard has to fit all of follow-up, and trees spread the risks of their own
    # patients; the others follow follow-up step by step.
    loose = case.head.endswith(("weibull", "boosting"))
    tolerance = 0.08 if loose else 0.04
    for months in HORIZONS:
        observed = (happened & (time <= months)).mean()
        assert output.probabilities[f"risk_at_{months:g}m"].mean() == pytest.approx(
            observed, abs=tolerance
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
    orders = [rng.permutation(size) for size in bags.sizes]
    shuffled = Bags.from_arrays(
        [bags.bag(i)[order] for i, order in enumerate(orders)],
        [bags.gather_places(slice(i, i + 1))[order] for i, order in enumerate(orders)],
    )
    data = replace(sample.data, bags=shuffled)
    same(model.predict(data), model.predict(sample.data), 1e-5)


def test_a_patient_alone_is_predicted_as_among_others(case, sample):
    model = fitted(case, sample)
    together = model.predict(sample.data)
    alone = [model.predict(sample.data.take(np.array([i]))).risk[0] for i in range(12)]
    np.testing.assert_allclose(alone, together.risk[:12], rtol=1e-5, atol=1e-6)


def test_what_is_stored_predicts_bit_equally(case, sample):
    model = fitted(case, sample)
    arrays, settings = model.state()
    restored = restore(
        case.head, load(save(arrays)), json.loads(json.dumps(settings, sort_keys=True))
    )
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
    if not case.head.startswith(ATTENTIVE):
        assert weights is None
        return
    assert [len(part) for part in weights] == sample.data.bags.sizes.tolist()
    assert all((part >= 0).all() for part in weights)
    np.testing.assert_allclose([part.sum() for part in weights], 1, rtol=1e-5)


def test_a_seed_fixes_the_model(case, sample):
    one, other = fitted(case, sample), fitted_anew(case, sample)
    same(one.predict(sample.data), other.predict(sample.data))


def test_patients_without_any_event_cannot_train(case, simulated):
    sample = simulated(0, outcome=case.outcome, n_levels=case.n_levels)
    time = getattr(sample.outcome, "time_months", None)
    if case.outcome == "survival":
        nothing = Survival.from_arrays(time, np.zeros(40))
        message = "none of 40 patients had the event"
    elif case.outcome == "competing":
        nothing = CompetingRisks(time, np.zeros(40, dtype=np.int64), sample.outcome.causes)
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
    elif case.outcome == "competing":
        cause = np.zeros(40, dtype=np.int64)
        cause[[5, 6]] = 1, 2
        single = CompetingRisks(sample.outcome.time_months, cause, sample.outcome.causes)
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
    if case.head.endswith("cox"):  # a step function: nothing happened before
        assert (output.probabilities["risk_at_12m"] == 0).all()


def test_patients_far_from_all_others_get_finite_risks(case, sample):
    model = fitted(case, sample)
    clinical = sample.data.clinical.assign(age=sample.data.clinical["age"] * 1e4)
    bags = Bags.from_arrays([sample.data.bags.bag(i) * np.float32(1e4) for i in range(40)])
    rna = sample.data.tables["rna"] * -1e4
    output = model.predict(PatientData(sample.data.keys, bags, clinical, tables={"rna": rna}))
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
            model.predict(replace(sample.data, bags=None))
        narrow = Bags.from_arrays([np.ones((2, 3), np.float32)] * 40)
        with pytest.raises(ContractMismatch, match="have 3 features, the model was trained on 6"):
            model.predict(replace(sample.data, bags=narrow))
    if "clinical" in case.inputs:
        with pytest.raises(InputError, match="sees the input 'clinical'"):
            model.predict(replace(sample.data, clinical=None))
    if "rna" in case.inputs:
        with pytest.raises(InputError, match="sees the input 'rna'"):
            model.predict(replace(sample.data, tables={}))


def test_entry_times_are_used_or_refused(case, simulated):
    if case.outcome not in TIMED:
        pytest.skip("classes have no entry times")
    sample = simulated(0, entry=True, outcome=case.outcome)
    if not find(case.head).entry_times:
        with pytest.raises((InputError, TrainingError), match="entry times"):
            fitted(case, sample)
        return
    ignored = replace(sample.outcome, entry_months=None)
    truncated = fitted(case, sample).predict(sample.data)
    whole = fitted(case, Sample(sample.data, ignored)).predict(sample.data)
    assert (truncated.risk != whole.risk).any()
    # Without those not yet entered fewer are at risk, so that hazards are higher; of competing
    # ones the incidence of one may still fall.
    months = "risk_at_24m"
    if case.outcome == "survival":
        assert truncated.probabilities[months].mean() > whole.probabilities[months].mean()


def test_a_model_looks_at_nothing_but_its_inputs(case, sample):
    model = fitted(case, sample)
    rng = np.random.default_rng(0)
    if "clinical" not in case.inputs:
        other = pd.DataFrame({"unknown": rng.normal(size=40)})
        data = replace(sample.data, clinical=other)
        same(model.predict(data), model.predict(sample.data))
    if "image" not in case.inputs:
        data = replace(sample.data, bags=None)
        same(model.predict(data), model.predict(sample.data))
    if "rna" not in case.inputs:
        same(model.predict(replace(sample.data, tables={})), model.predict(sample.data))


def test_incidence_at_any_month_agrees_with_the_horizon_risks(case, sample):
    model = fitted(case, sample)
    if case.outcome not in TIMED:
        with pytest.raises(StatisticsError, match="nothing about times"):
            model.incidence(sample.data, [12.0])
        return
    last = float(sample.outcome.time_months.max())
    months = np.append(np.linspace(0.5, last, 40), HORIZONS)
    found = model.incidence(sample.data, months)
    assert found.shape == (2 if case.outcome == "competing" else 1, 40, 42)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.sum(axis=0) <= 1 + 1e-12).all()
    assert (np.diff(found[..., :40], axis=-1) >= -1e-12).all()
    output = model.predict(sample.data)
    np.testing.assert_array_equal(found[0, :, 40], output.probabilities["risk_at_12m"])
    np.testing.assert_array_equal(found[0, :, 41], output.probabilities["risk_at_24m"])
    with pytest.raises(StatisticsError, match="outside the training follow-up"):
        model.incidence(sample.data, [last + 1])


def test_a_patient_who_lacks_an_input_is_predicted_and_noted(case, sample):
    if len(case.inputs) == 1:
        pytest.skip("such a patient has nothing to be predicted from")
    # The strongest penalties of a path leave the image out.
    model = fitted(case, sample, n_stages=40 if find(case.head).stages == "penalties" else 4)
    bags = sample.data.bags
    none = Bags.from_arrays([bags.bag(i)[: 0 if i < 3 else None] for i in range(40)])
    if bags.has_places:
        none = replace(none, places=(np.zeros((len(none.sources[0]), 2), np.float32),))
    output = model.predict(replace(sample.data, bags=none))
    whole = model.predict(sample.data)
    assert np.isfinite(output.risk).all()
    assert any(note.startswith("image") and "3" in note for note in output.notes)
    assert not (output.risk[:3] == whole.risk[:3]).all()


def test_patients_without_an_input_also_train(case, sample):
    if len(case.inputs) == 1:
        pytest.skip("such a patient has nothing to learn from")
    bags = sample.data.bags
    few = Bags.from_arrays([bags.bag(i)[: 0 if i % 4 == 0 else None] for i in range(40)])
    data = replace(sample.data, bags=few)
    model = fitted(case, Sample(data, sample.outcome))
    output = model.predict(data)
    assert np.isfinite(output.risk).all()
    alone = [model.predict(data.take(np.array([i]))).risk[0] for i in range(5)]
    np.testing.assert_allclose(alone, output.risk[:5], rtol=1e-5, atol=1e-6)
