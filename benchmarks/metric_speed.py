"""How long do the metrics take? The C-index beside two other packages, and all metrics.

    python benchmarks/metric_speed.py [--patients 50000] [--repetitions 9]

The C-index of one simulated cohort, in turns by each package, several rounds; then every metric of
7,245 patients with its interval, by formula where there is one and from 1,000 resamples elsewhere.
Ours gives the standard error too; the others give the value alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import time
from collections.abc import Callable

import numpy as np
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_censored

from storm_clinic.cohort.outcome import CompetingRisks, Floats, Survival
from storm_clinic.metrics.calibration import (
    calibration_slope,
    complementary_log_log,
    observed_expected,
)
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.discrimination import concordance, dynamic_auc, uno_concordance
from storm_clinic.metrics.inputs import Timed
from storm_clinic.metrics.integrated import integrated_auc, integrated_brier
from storm_clinic.metrics.overall import brier, brier_scaled, log_score
from storm_clinic.metrics.smoothing import calibration_error
from storm_clinic.metrics.uncertainty import Statistic, bootstrap

PATIENTS, RESAMPLES, HORIZON = 7245, 1000, 24.0


def cohort(n: int, seed: int = 0) -> tuple[Survival, CompetingRisks, Floats, Floats]:
    """Exponential times, half censored: as survival, as competing risks; risks, probabilities."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    one, two = rng.exponential(60 * np.exp(-risk)), rng.exponential(90, n)
    times = np.stack([rng.exponential(60, n), one, two])
    first = np.minimum(times[0], one)
    survival = Survival(first, one <= times[0])
    both = CompetingRisks(times.min(axis=0), times.argmin(axis=0), ("relapse", "death"))
    return survival, both, risk, 1 - np.exp(-HORIZON / 60 * np.exp(risk))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def race(n: int, repetitions: int) -> None:
    """The same C-index by three packages in turns."""
    outcome, _, risk, _ = cohort(n)
    calls: dict[str, Callable[[], object]] = {
        "storm_clinic, value and error": lambda: concordance(outcome, risk),
        "scikit-survival, value": lambda: concordance_index_censored(
            outcome.event, outcome.time_months, risk
        ),
        "lifelines, value": lambda: concordance_index(outcome.time_months, -risk, outcome.event),
    }
    values = {
        "storm_clinic": concordance(outcome, risk).value,
        "scikit-survival": concordance_index_censored(outcome.event, outcome.time_months, risk)[0],
        "lifelines": concordance_index(outcome.time_months, -risk, outcome.event),
    }
    assert np.ptp(list(values.values())) < 1e-9, values
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            taken[name].append(seconds(call))
    own = np.array(taken["storm_clinic, value and error"])
    print(f"C-index of {n} patients, {outcome.n_events} events, {repetitions} rounds in turns")
    for name, times in taken.items():
        ratio = np.array(times) / own
        print(
            f"  {name:32} median {np.median(times):8.4f} s, from {min(times):.4f} to "
            f"{max(times):.4f}; {np.median(times) / np.median(own):6.1f} times ours "
            f"(rounds {ratio.min():.1f} to {ratio.max():.1f})"
        )


def timed(outcome: Timed, p: Floats) -> dict[str, Callable[[], Statistic]]:
    """Metrics of either kind of outcome."""
    times = np.array([12.0, 18.0, 24.0])
    by_time = 1 - (1 - p[:, None]) ** (times / HORIZON)
    lp = complementary_log_log(np.clip(p, 1e-6, 1 - 1e-6))
    return {
        "auc": lambda: dynamic_auc(outcome, p, HORIZON),
        "brier": lambda: brier(outcome, p, horizon_months=HORIZON),
        "brier_scaled": lambda: brier_scaled(outcome, p, horizon_months=HORIZON),
        "brier_integrated": lambda: integrated_brier(outcome, by_time, times),
        "log_score": lambda: log_score(outcome, np.clip(p, 1e-6, 1 - 1e-6), horizon_months=HORIZON),
        "o_e": lambda: observed_expected(outcome, p, horizon_months=HORIZON),
        "calibration_slope": lambda: calibration_slope(outcome, lp, horizon_months=HORIZON),
        "ici": lambda: calibration_error(outcome, p, horizon_months=HORIZON),
    }


def all_metrics() -> None:
    """Every metric of one cohort with its interval."""
    survival, competing, risk, p = cohort(PATIENTS)
    calls = {
        "survival": {
            "c_index": lambda: concordance(survival, risk, tau_months=60),
            "c_index_uno": lambda: uno_concordance(survival, risk, tau_months=60),
            "auc_integrated": lambda: integrated_auc(survival, risk, tau_months=HORIZON),
            **timed(survival, p),
        },
        "competing risks": {
            "c_index": lambda: wolbers_concordance(competing, risk, tau_months=60),
            "c_index_uno": lambda: wolbers_concordance(
                competing, risk, tau_months=60, uncensored=True
            ),
            **timed(competing, p),
        },
    }
    print(f"Every metric of {PATIENTS} patients with its interval, seconds")
    total = 0.0
    for kind, metrics in calls.items():
        for name, call in metrics.items():
            start = time.perf_counter()
            statistic = call()
            how = "formula" if statistic.influence is not None else f"{RESAMPLES} resamples"
            if statistic.influence is not None:
                statistic.interval()
            else:
                bootstrap(statistic, n=RESAMPLES, seed=1)
            spent = time.perf_counter() - start
            total += spent
            print(f"  {kind:16} {name:20} {spent:8.3f}  {how}")
    print(f"  all of them {total:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patients", type=int, default=50_000)
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    packages = ("numpy", "scipy", "scikit-survival", "lifelines")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(versions)
    race(arguments.patients, arguments.repetitions)
    all_metrics()


if __name__ == "__main__":
    main()
