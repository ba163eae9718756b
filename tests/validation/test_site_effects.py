"""Hospitals: pooled numbers, and whether what models see tells where a patient was treated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.inference.meta_analysis import random_effects
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.site_effects import NO_SITE, site_analyses


def _loaded() -> Callable[..., EvaluationData]:
    path = Path(__file__).with_name("site_data.py")
    spec = importlib.util.spec_from_file_location("site_data_effects", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.made_data


made_data = _loaded()
SITES = ["x", "y", "z", "w"] * 60


def _meta(found, metric="c_index", model="fusion"):
    return next(item for item in found.sites if (item.metric, item.model) == (metric, model))


def _risk_probe(found):
    return next(item for item in found.probes if item.what.startswith("risk of"))


@pytest.fixture(scope="module")
def plain():
    return made_data(sites=SITES)


@pytest.fixture(scope="module")
def found(plain):
    return site_analyses(plain)


def test_sites_are_pooled_on_the_logit_scale(plain, found):
    y, se = [], []
    for first in range(4):
        index = np.arange(first, 240, 4)
        c = concordance(
            plain.outcome.take(index), plain.model("fusion").risk[0][index], tau_months=60
        )
        y.append(np.log(c.value / (1 - c.value)))
        se.append(c.se / c.value / (1 - c.value))
    by_hand = random_effects(y, se)
    pooled = _meta(found)
    for ours, theirs in (
        (pooled.pooled.value, by_hand.value),
        (pooled.pooled.lower, by_hand.lower),
        (pooled.pooled.upper, by_hand.upper),
        (pooled.prediction_lower, by_hand.prediction_lower),
        (pooled.prediction_upper, by_hand.prediction_upper),
    ):
        assert ours == pytest.approx(1 / (1 + np.exp(-theirs)))
    assert pooled.tau2 == pytest.approx(by_hand.tau2)
    assert "logit" in pooled.method


def test_candidate_comparator_and_gain_are_pooled(found):
    told = {(item.metric, item.model, item.over) for item in found.sites}
    assert told >= {
        ("c_index", "fusion", None),
        ("c_index", "clinical", None),
        ("c_index_gain", "fusion", "clinical"),
        ("o_e", "fusion", None),
        ("calibration_slope", "fusion", None),
    }


def test_one_site_or_none_gives_nothing():
    assert site_analyses(made_data(sites=["x"] * 240)) == Analyses()
    assert site_analyses(made_data(sites=[None] * 240)) == Analyses()
    assert site_analyses(made_data()) == Analyses()


def test_two_sites_have_a_mean_and_no_prediction():
    pooled = _meta(site_analyses(made_data(sites=["x", "y"] * 120)))
    assert pooled.pooled.value is not None
    assert pooled.prediction_lower is None
    assert "two sites" in pooled.note


def test_a_site_without_an_event_is_listed_and_does_not_enter():
    data = made_data(sites=SITES)
    event = data.outcome.event.copy()
    event[::4] = False
    data = replace(data, outcome=Survival(data.outcome.time_months, event))
    pooled = _meta(site_analyses(data))
    silent = next(item for item in pooled.sites if item.label == "x")
    assert (silent.n_patients, silent.n_events, silent.value) == (60, 0, None)
    assert "1 of 4 sites do not enter" in pooled.note
    assert "3 sites" in pooled.method


def test_of_forty_events_overall_only_sites_with_ten_enter():
    pooled = _meta(site_analyses(_with_events(40)))
    assert [item.n_events for item in pooled.sites] == [9, 9, 11, 11]
    assert [item.value is None for item in pooled.sites] == [True, True, False, False]
    assert "2 of 4 sites do not enter" in pooled.note
    assert pooled.pooled.value is not None


@pytest.mark.parametrize("n_events", [0, 1, 20])
def test_too_few_events_overall_are_not_pooled_and_say_why(n_events):
    pooled = _meta(site_analyses(_with_events(n_events)))
    assert pooled.pooled.value is None
    assert "0 of 4 sites are large enough; two are needed" in pooled.pooled.note
    assert sum(item.n_events for item in pooled.sites) == n_events


def _with_events(n_events):
    """The first so many events of the cohort; later ones are censored."""
    data = made_data(sites=SITES)
    event = data.outcome.event & (np.cumsum(data.outcome.event) <= n_events)
    return replace(data, outcome=Survival(data.outcome.time_months, event))


def test_patients_without_a_site_are_counted_and_enter_neither_mean_nor_probe():
    sites = [None if at % 10 == 0 else site for at, site in enumerate(SITES)]
    found = site_analyses(made_data(sites=sites))
    pooled, probe = _meta(found), _risk_probe(found)
    assert next(item for item in pooled.sites if item.label == NO_SITE).n_patients == 24
    assert "24 patients without a declared site" in pooled.note
    assert "do not enter: too small" not in pooled.note
    assert probe.n_patients == 216
    assert probe.note.startswith("24 patients")


def test_pairs_of_patients_without_a_site_are_not_taken_for_pairs_of_one_site():
    sites = [None if at >= 160 else "xy"[at % 2] for at in range(240)]
    data = made_data(sites=sites)
    within = _risk_probe(site_analyses(data)).within
    first = data.outcome.take(np.arange(160))
    alone = concordance(
        first, data.model("fusion").risk[0][:160], tau_months=60, within=np.array(sites[:160])
    )
    assert within.value == pytest.approx(alone.value)


def test_sites_held_out_whole_are_told_from_sites_that_were_split():
    split = site_analyses(made_data(sites=SITES, kind="cross-validation"))
    assert "sites were split between folds" in _meta(split).note
    data = made_data(sites=SITES, kind="cross-validation")
    models = tuple(replace(m, fold=(m.fold[0],) * 2) for m in data.models)
    whole = site_analyses(replace(data, models=models))
    assert "each site was held out whole" in _meta(whole).note
    assert "supports no claim" in _meta(whole).note


# What tells the hospital


def test_a_planted_site_is_found_in_embeddings_and_gives_ranking_away():
    codes = np.arange(240) % 4
    rng = np.random.default_rng(2)
    seen = rng.normal(size=(240, 6))
    seen[np.arange(240), codes] += 2.0
    data = made_data(sites=SITES, hidden=1.5 * codes, embeddings={"image": seen})
    found = site_analyses(data)
    image = found.probes[0]
    assert image.what == "mean embedding (image)"
    assert image.auroc.lower > 0.75
    assert image.p < 0.01
    assert _risk_probe(found).p < 0.01
    assert image.site_alone.lower > 0.6
    assert image.within.value < image.overall.value - 0.03


def test_without_a_site_effect_nothing_tells_the_site():
    told, p = [], []
    for seed in range(10):
        seen = {"image": np.random.default_rng(seed).normal(size=(120, 5))}
        data = made_data(120, sites=SITES[:120], embeddings=seen, seed=seed)
        image = site_analyses(data).probes[0]
        told.append(image.auroc.value)
        p.append(image.p)
    assert np.mean(told) == pytest.approx(0.5, abs=0.03)
    assert min(p) > 0.005
    assert max(p) > 0.3


def test_a_site_that_says_nothing_ranks_by_chance_and_not_below_it():
    alone = [
        _risk_probe(site_analyses(made_data(80, sites=SITES[:80], seed=seed))).site_alone.value
        for seed in range(25)
    ]
    # Rates of a patient's own site compared over the folds of their fitting give 0.46 here.
    assert np.mean(alone) == pytest.approx(0.5, abs=0.02)


def test_what_is_left_inside_sites_is_the_c_of_pairs_of_one_site(plain, found):
    probe = _risk_probe(found)
    by_hand = concordance(
        plain.outcome, plain.model("fusion").risk[0], tau_months=60, within=np.array(SITES)
    )
    assert probe.metric == "c_index"
    assert probe.within.value == pytest.approx(by_hand.value)
    overall = concordance(plain.outcome, plain.model("fusion").risk[0], tau_months=60)
    assert probe.overall.value == pytest.approx(overall.value)


def test_small_sites_and_patients_without_embedding_are_left_out_and_counted():
    sites = ["x"] * 115 + ["y"] * 116 + ["tiny"] * 9
    seen = np.random.default_rng(3).normal(size=(240, 3))
    seen[:5] = np.nan
    found = site_analyses(made_data(sites=sites, embeddings={"image": seen}))
    image = found.probes[0]
    assert (image.n_patients, image.n_sites) == (226, 2)
    assert image.note.startswith("14 patients")


def test_one_site_left_to_tell_has_a_reason():
    sites = ["x"] * 231 + ["tiny"] * 9
    probe = _risk_probe(site_analyses(made_data(sites=sites)))
    assert probe.auroc.value is None
    assert "one from another" in probe.auroc.note


def test_folds_that_differ_in_scale_do_not_tell_the_site():
    data = made_data(sites=SITES, kind="cross-validation")
    moved = tuple(
        replace(m, risk=tuple(r + 9 * f for r, f in zip(m.risk, m.fold, strict=True)))
        for m in data.models
    )
    before, after = (
        _risk_probe(site_analyses(replace(data, models=m))) for m in (data.models, moved)
    )
    assert before.auroc == after.auroc
    assert before.within == after.within


def test_risks_of_folds_without_probabilities_have_no_common_scale():
    data = made_data(sites=SITES, kind="cross-validation")
    bare = tuple(replace(m, probabilities={}) for m in data.models)
    probe = _risk_probe(site_analyses(replace(data, models=bare)))
    assert probe.auroc.value is None
    assert "share no scale" in probe.auroc.note
    assert probe.overall.value is not None


@pytest.mark.parametrize("outcome", ["competing", "two classes", "three classes"])
@pytest.mark.parametrize("kind", ["external", "cross-validation"])
def test_every_outcome_is_pooled_and_probed(outcome, kind):
    found = site_analyses(made_data(outcome=outcome, kind=kind, sites=SITES))
    metric = {"two classes": "auroc", "three classes": "auroc_macro"}.get(outcome, "c_index")
    assert _meta(found, metric).pooled.value is not None
    probe = _risk_probe(found)
    assert probe.metric == metric
    assert None not in (probe.auroc.value, probe.overall.value, probe.within.value)
    assert probe.site_alone.value == pytest.approx(0.5, abs=0.15)


def test_late_entry_counts_from_entry_and_is_refused_where_a_number_cannot_honour_it():
    data = made_data(sites=SITES)
    entry = np.where(np.arange(240) % 3 == 0, data.outcome.time_months * 0.3, 0.0)
    late = Survival(data.outcome.time_months, data.outcome.event, entry)
    found = site_analyses(replace(data, outcome=late))
    assert _meta(found).pooled.value is not None
    assert _meta(found, "auc").pooled.value is None
    assert all("entry times" in item.note for item in _meta(found, "auc").sites)
    assert _risk_probe(found).site_alone.value is not None
