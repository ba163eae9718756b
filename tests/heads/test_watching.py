"""Fits are seen stage by stage, and are none the different for it."""

from __future__ import annotations

import pytest

from storm_clinic.cohort.outcome import required_strata, stratum
from storm_clinic.cohort.split import make_splits
from storm_clinic.heads.fit import cross_validate, fit_tuned
from storm_clinic.heads.watching import Sighting, watched_by
from storm_clinic.study import ModelSpec

NETS = ModelSpec(name="net", head="coxnet", inputs=("image",), tune={"l1_ratio": (0.5, 0.9)})


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_every_stage_is_seen_and_results_are_those_of_an_unwatched_fit(simulated, n_jobs):
    sample = simulated(1)
    outcome = sample.outcome
    fold = make_splits(
        sample.data.keys,
        stratum(outcome),
        None,
        folds=2,
        repeats=1,
        seed=0,
        required=required_strata(outcome),
    ).fold
    seen: list[Sighting] = []
    watched = cross_validate(
        NETS, sample.data, outcome, fold, seed=1, n_jobs=n_jobs, watch=seen.extend
    )
    alone = cross_validate(NETS, sample.data, outcome, fold, seed=1)
    assert (watched.risk == alone.risk).all()
    assert [r.as_dict() for r in watched.records] == [r.as_dict() for r in alone.records]
    for record in alone.records:
        ours = [sight for sight in seen if sight.fold == record.fold]
        for number, tried in enumerate(record.fit.inner, start=1):
            of_setting = [s for s in ours if s.setting == number]
            assert [s.held_out for s in of_setting] == list(tried.held_out)
            assert [s.stage for s in of_setting] == list(range(1, len(tried.loss) + 1))
        assert [s.loss for s in ours if s.setting == 0] == list(record.fit.loss)


def test_settings_in_several_processes_are_all_seen(simulated):
    sample = simulated(2)
    seen: list[Sighting] = []
    fit = fit_tuned(NETS, sample.data, sample.outcome, seed=1, n_jobs=2, watch=seen.extend)
    for number, tried in enumerate(fit.inner, start=1):
        assert [s.held_out for s in seen if s.setting == number] == list(tried.held_out)


def test_a_process_that_was_killed_amid_a_line_holds_nobody_up():
    seen: list[Sighting] = []
    with watched_by(seen.extend) as watched:
        teller = watched.teller(0, 1)
        teller(1, 0.5)
        with teller.path.open("a") as file:
            file.write("[0, 1, 0, 1, 2, 0.")
    assert seen == [Sighting(0, 1, 0, 1, 1, 0.5, None)]


def test_what_a_watcher_raises_ends_the_fit(simulated):
    def refuse(seen):
        raise ZeroDivisionError

    sample = simulated(3)
    with pytest.raises(ZeroDivisionError):
        fit_tuned(NETS, sample.data, sample.outcome, seed=1, watch=refuse)
