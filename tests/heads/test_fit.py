"""Nested cross-validation: nothing leaks, everything repeats, no signal is invented."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sksurv.metrics import concordance_index_censored

from storm_clinic.cohort.outcome import Classes, Survival, required_strata, stratum
from storm_clinic.cohort.split import make_splits
from storm_clinic.errors import InputError, StatisticsError, StudyError, TrainingError
from storm_clinic.heads import tuning
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Sample
from storm_clinic.heads.fit import cross_validate, fit_tuned
from storm_clinic.heads.zoo import find
from storm_clinic.study import ModelSpec

ABMIL = ModelSpec(
    name="abmil",
    head="attention-cox",
    inputs=("image", "clinical"),
    options={"epochs": 6, "learning_rate": 0.01},
    tune={"dropout": (0.0, 0.25)},
)
QUICK = {"learning_rate": 0.01}  # fewer epochs than the default takes
COX = ModelSpec(name="clinical", head="cox", inputs=("clinical",))
COXNET = ModelSpec(name="net", head="coxnet", inputs=("image",))


def folds_of(sample: Sample, *, folds: int = 3, repeats: int = 1) -> np.ndarray:
    return make_splits(
        sample.data.keys,
        stratum(sample.outcome),
        None,
        folds=folds,
        repeats=repeats,
        seed=0,
        required=required_strata(sample.outcome),
    ).fold


def concordance(outcome: Survival, risk: np.ndarray, fold: np.ndarray) -> float:
    """Mean over test folds, so that risks of different models are never compared."""
    tested = [fold == number for number in np.unique(fold)]
    return float(
        np.mean(
            [
                concordance_index_censored(outcome.event[at], outcome.time_months[at], risk[at])[0]
                for at in tested
            ]
        )
    )


def needles(seed: int) -> tuple[Sample, list[np.ndarray]]:
    """Half of the patients have a few tiles of another kind, and fail sooner; simulated."""
    rng = np.random.default_rng(seed)
    bags, kinds = [], []
    positive = rng.random(100) < 0.5
    for is_positive in positive:
        kind = np.zeros(rng.integers(15, 30), dtype=bool)
        kind[: 2 if is_positive else 0] = True
        tiles = rng.normal(size=(len(kind), 8))
        tiles[kind, 0] += 5.0
        bags.append(tiles.astype(np.float32))
        kinds.append(kind)
    to_event = rng.exponential(np.where(positive, 8.0, 40.0))
    to_censoring = rng.uniform(5, 60, 100)
    outcome = Survival.from_arrays(
        np.ceil(np.minimum(to_event, to_censoring)), to_event <= to_censoring
    )
    data = PatientData(tuple(f"p{i:03d}" for i in range(100)), Bags.from_arrays(bags))
    return Sample(data, outcome), kinds


def test_every_patient_is_predicted_once_a_repeat(simulated):
    sample = simulated(0)
    fold = folds_of(sample, repeats=2)
    result = cross_validate(
        COX, sample.data, sample.outcome, fold, horizons_months=(12.0, 24.5), seed=1
    )
    table = result.table()
    assert list(table) == [
        "patient_key",
        "repeat",
        "fold",
        "risk",
        "risk_at_12m",
        "risk_at_24.5m",
    ]
    assert len(table) == 80
    assert not table.isna().any().any()
    assert (table[table["repeat"] == 1]["fold"] == fold[1]).all()
    assert not table.duplicated(["patient_key", "repeat"]).any()


@pytest.mark.parametrize("spec", [ABMIL, COXNET], ids=lambda spec: spec.name)
def test_the_outcomes_of_a_test_fold_touch_nothing_that_predicts_it(simulated, spec):
    sample = simulated(1)
    fold = folds_of(sample)
    tested = fold[0] == 0
    outcome = sample.outcome
    changed = Survival(
        np.where(tested, outcome.time_months[::-1], outcome.time_months),
        np.where(tested, ~outcome.event, outcome.event),
    )
    one = cross_validate(spec, sample.data, outcome, fold, seed=1)
    other = cross_validate(spec, sample.data, changed, fold, seed=1)
    assert (one.risk[0, tested] == other.risk[0, tested]).all()
    assert (one.risk[0, ~tested] != other.risk[0, ~tested]).any()


@pytest.mark.parametrize("spec", [ABMIL, COXNET], ids=lambda spec: spec.name)
def test_results_do_not_depend_on_the_number_of_processes(simulated, spec):
    sample = simulated(2)
    fold = folds_of(sample, folds=2)
    one, two = (
        cross_validate(
            spec, sample.data, sample.outcome, fold, horizons_months=(12.0,), seed=1, n_jobs=n
        )
        for n in (1, 2)
    )
    assert (one.risk == two.risk).all()
    assert (one.probabilities["risk_at_12m"] == two.probabilities["risk_at_12m"]).all()
    assert [r.as_dict() for r in one.records] == [r.as_dict() for r in two.records]


def test_the_same_study_twice_gives_the_same_bits_and_another_seed_others(simulated):
    sample = simulated(3)
    fits = [fit_tuned(ABMIL, sample.data, sample.outcome, seed=seed) for seed in (1, 1, 2)]
    risks = [fit.model.predict(sample.data).risk for fit in fits]
    assert (risks[0] == risks[1]).all()
    assert (risks[0] != risks[2]).any()


def test_the_record_says_what_was_tried_and_what_was_chosen(simulated):
    sample = simulated(4)
    fold = folds_of(sample)
    seen = []
    result = cross_validate(
        ABMIL,
        sample.data,
        sample.outcome,
        fold,
        seed=1,
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(f"repeat 1, fold {k}", k, 3) for k in (1, 2, 3)]
    for record in result.records:
        text = json.loads(json.dumps(record.as_dict(), allow_nan=False))
        assert text["n_train"] + text["n_test"] == 40
        assert text["n_train_events"] + text["n_test_events"] == sample.outcome.n_events
        assert [tried["settings"]["dropout"] for tried in text["inner"]] == [0.0, 0.25]
        best = max(text["inner"], key=lambda tried: tried["score"])
        assert text["settings"] == best["settings"]
        assert text["n_stages"] == len(text["loss"]) == int(np.argmax(best["held_out"])) + 1
        assert text["stages"] == "epochs"


def test_the_refit_is_the_chosen_number_of_epochs_on_all_patients(simulated):
    sample = simulated(5)
    fit = fit_tuned(ABMIL, sample.data, sample.outcome, seed=1)
    fixed = ModelSpec(
        name="fixed",
        head="attention-cox",
        inputs=ABMIL.inputs,
        options={**fit.settings, "epochs": fit.n_stages},
    )
    recipe = tuning._seeded(tuning.Recipe(fixed.inputs, dict(fixed.options), (), 1), 0)
    *_, last = find("attention-cox").path(sample, recipe)
    expected = last.finish().predict(sample.data).risk
    assert (fit.model.predict(sample.data).risk == expected).all()


def test_held_out_likelihood_is_summed_over_folds_before_it_is_divided(simulated):
    sample = simulated(6)
    pairs, _ = tuning.inner_folds_of(sample, None, folds=3, seed=1)
    settings = {name: option.default for name, option in find("cox").options.items()}
    recipe = tuning.Recipe(("clinical",), settings, (), 1)
    tried = tuning.try_settings(find("cox"), recipe, sample, pairs)
    total = 0.0
    for train, watch in pairs:
        (stage,) = find("cox").path(sample.take(train), recipe)
        risk = stage.finish().predict(sample.data.take(watch)).risk
        outcome = sample.outcome.take(watch)
        for time in np.unique(outcome.time_months[outcome.event]):
            died = (outcome.time_months == time) & outcome.event
            whole, part = np.exp(risk[outcome.time_months >= time]).sum(), np.exp(risk[died]).sum()
            shares = np.arange(died.sum()) / died.sum()
            total += risk[died].sum() - np.log(whole - shares * part).sum()
    assert tried.score == pytest.approx(total / sample.outcome.n_events)


def test_walking_stops_when_held_out_likelihood_no_longer_rises(simulated):
    sample = simulated(7, effect=0.0)
    spec = ModelSpec(
        name="abmil", head="attention-cox", inputs=("image",), options={"learning_rate": 0.1}
    )
    fit = fit_tuned(spec, sample.data, sample.outcome, patience=2, seed=1)
    (tried,) = fit.inner
    assert len(tried.held_out) == tried.best_stage + 2 < 200
    assert fit.as_dict()["inner"][0]["stopped"] == "patience"
    to_the_end = spec.model_copy(update={"options": {"learning_rate": 0.1, "epochs": 2}})
    (tried,) = fit_tuned(to_the_end, sample.data, sample.outcome, patience=2, seed=1).inner
    assert (len(tried.held_out), tried.stopped) == (2, "end")


def test_sites_are_never_divided_between_inner_folds(simulated):
    sample = simulated(8)
    sites = np.array([f"site {i % 7}" for i in range(40)], dtype=object)
    pairs, _ = tuning.inner_folds_of(sample, sites, folds=3, seed=1)
    assert all(not set(sites[train]) & set(sites[watch]) for train, watch in pairs)
    assert sorted(np.concatenate([watch for _, watch in pairs]).tolist()) == list(range(40))


def test_inner_folds_that_cannot_be_had_are_noted(simulated):
    sample = simulated(9)
    sites = np.array(["north", "south"] * 20, dtype=object)
    fit = fit_tuned(COXNET, sample.data, sample.outcome, groups=sites, seed=1)
    assert any(note.startswith("inner folds: ") and "2 folds" in note for note in fit.notes)


def test_a_constant_covariate_of_one_fold_is_noted_in_its_record(simulated):
    sample = simulated(10)
    fold = folds_of(sample)
    rare = (fold[0] == 0) & (np.cumsum(fold[0] == 0) <= 2)
    data = PatientData(
        sample.data.keys, None, sample.data.clinical.assign(dialysis=rare.astype(float))
    )
    result = cross_validate(COX, data, sample.outcome, fold, seed=1)
    dropped = "dialysis: does not vary in training, dropped"
    assert [dropped in record.as_dict()["notes"] for record in result.records] == [
        True,
        False,
        False,
    ]


def test_a_fold_that_leaves_no_event_to_train_on_is_named(simulated):
    sample = simulated(11)
    fold = np.where(sample.outcome.event, 0, np.arange(40) % 2)
    with pytest.raises(TrainingError, match=r"model 'clinical', repeat 1, fold 1.*had the event"):
        cross_validate(COX, sample.data, sample.outcome, fold, seed=1)


def test_one_event_is_too_few_for_inner_folds(simulated):
    sample = simulated(12, event=np.arange(40) == 3)
    with pytest.raises(TrainingError, match="settings cannot be chosen in inner folds"):
        fit_tuned(ABMIL, sample.data, sample.outcome, seed=1)


def test_a_horizon_beyond_a_folds_follow_up_is_refused_with_its_fold(simulated):
    sample = simulated(13)
    with pytest.raises(StatisticsError, match=r"model 'clinical', repeat 1, fold 1.*999 months"):
        cross_validate(
            COX,
            sample.data,
            sample.outcome,
            folds_of(sample),
            horizons_months=(999.0,),
            seed=1,
        )


def test_misfitting_arguments_are_refused(simulated):
    sample = simulated(14)
    with pytest.raises(InputError, match="40 patients, but 30 outcomes"):
        fit_tuned(COX, sample.data, sample.outcome.take(np.arange(30)), seed=1)
    with pytest.raises(InputError, match=r"40 patients, but folds of shape \(1, 39\)"):
        cross_validate(COX, sample.data, sample.outcome, np.zeros(39, dtype=np.int64), seed=1)
    with pytest.raises(StudyError, match="unknown head"):
        cross_validate(
            COX.model_copy(update={"head": "cocks"}),
            sample.data,
            sample.outcome,
            folds_of(sample),
            seed=1,
        )


def test_attention_finds_planted_tiles_that_a_mean_dilutes():
    sample, kinds = needles(0)
    attention = ModelSpec(name="a", head="attention-cox", inputs=("image",), options=QUICK)
    fold = folds_of(sample)
    result = cross_validate(attention, sample.data, sample.outcome, fold, seed=1)
    planted = np.array([kind.any() for kind in kinds], dtype=np.float64)
    best = concordance(sample.outcome, planted, fold[0])
    assert concordance(sample.outcome, result.risk[0], fold[0]) > best - 0.06
    weights = result.records[0].fit.model.attention(sample.data)
    # Among patients who have both kinds, planted tiles weigh more than the tile beside them.
    ahead = [w[k].min() > np.median(w[~k]) for w, k in zip(weights, kinds, strict=True) if k.any()]
    assert np.mean(ahead) > 0.9


@pytest.mark.parametrize("head", ["mean-cox", "coxnet", "pca-cox"])
def test_planted_severity_is_found(simulated, head):
    sample = simulated(20, n_patients=120, width=5)
    options = QUICK if head == "mean-cox" else {}
    spec = ModelSpec(name="m", head=head, inputs=("image",), options=options)
    fold = folds_of(sample)
    result = cross_validate(spec, sample.data, sample.outcome, fold, seed=1)
    assert concordance(sample.outcome, result.risk[0], fold[0]) > 0.72


def test_planted_classes_are_found(simulated):
    sample = simulated(21, n_patients=120, width=5, outcome="classes", effect=3.0)
    for head, options in (("attention-classes", QUICK), ("logistic", {})):
        spec = ModelSpec(name="m", head=head, inputs=("image", "clinical"), options=options)
        result = cross_validate(spec, sample.data, sample.outcome, folds_of(sample), seed=1)
        assert isinstance(sample.outcome, Classes)
        right = (result.probabilities["p_grade 1"][0] > 0.5) == sample.outcome.label
        assert right.mean() > 0.7


@pytest.mark.parametrize("head", ["attention-cox", "coxnet"])
def test_without_a_signal_discrimination_is_that_of_chance(simulated, head):
    found = []
    for seed in range(4):
        sample = simulated(30 + seed, n_patients=60, effect=0.0)
        options = QUICK if head == "attention-cox" else {}
        spec = ModelSpec(name="m", head=head, inputs=("image",), options=options)
        fold = folds_of(sample)
        result = cross_validate(spec, sample.data, sample.outcome, fold, seed=1)
        found.append(concordance(sample.outcome, result.risk[0], fold[0]))
    # Each has a standard error of about 0.05.
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_five_patients_of_a_class_among_forty_are_enough_for_every_inner_fold(simulated):
    sample = simulated(40, outcome="classes")
    label = np.zeros(40, dtype=np.int64)
    label[[3, 11, 19, 27, 35]] = 1
    rare = Classes(label, ("common", "rare"))
    spec = ModelSpec(name="m", head="logistic", inputs=("image",))
    fold = folds_of(Sample(sample.data, rare), folds=5)
    result = cross_validate(spec, sample.data, rare, fold, inner_folds=3, seed=1)
    assert [record.n_test_events for record in result.records] == [1] * 5
    assert np.isfinite(result.risk).all()


def test_fewer_patients_of_a_class_than_inner_folds_make_fewer_folds_with_a_note(simulated):
    sample = simulated(41, outcome="classes")
    label = np.zeros(40, dtype=np.int64)
    label[[3, 11, 19]] = 1
    rare = Classes(label, ("common", "rare"))
    spec = ModelSpec(name="m", head="logistic", inputs=("image",))
    fit = fit_tuned(spec, sample.data, rare, inner_folds=5, seed=1)
    assert any(note.startswith("inner folds: ") and "3" in note for note in fit.notes)
    label[[3, 11]] = 0
    with pytest.raises(TrainingError, match="settings cannot be chosen in inner folds"):
        fit_tuned(spec, sample.data, Classes(label, ("common", "rare")), seed=1)
