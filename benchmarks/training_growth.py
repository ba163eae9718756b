"""How does training grow with patients and with models, and where does it stop being linear?

    python benchmarks/training_growth.py [--most 4000]

An epoch of gated attention (64 numbers a tile, 20 tiles a patient, hidden 32) on ever more
patients, for each objective: microseconds a patient, once with activations kept and once as above
the limit from which they are not (an objective that is not separable then needs two passes). Then
what all objectives cost without the network. Models are fitted one after the other or in processes,
so that their cost is a sum; the last table fits 1, 2 and 4 settings and says how near to it they
come.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import torch
from attention_network import attention_network
from measuring import interleaved, section, table

from storm_clinic.cohort.outcome import Classes, Outcome, Survival
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.contract import PatientData, Recipe
from storm_clinic.heads.fit import fit_tuned
from storm_clinic.heads.network import StepDraws
from storm_clinic.heads.network_inputs import NetworkInputs
from storm_clinic.heads.objectives import OBJECTIVES, Objective
from storm_clinic.heads.patient_batches import PatientBatches
from storm_clinic.heads.training import Schedule, Step, accumulate_gradient, one_thread
from storm_clinic.study import ModelSpec

WIDTH, TILES = 64, 20


def cohort(n: int) -> PatientData:
    """So many patients with random tiles."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n * TILES, WIDTH), dtype=np.float32)
    bags = Bags.pack(values, np.arange(0, n * TILES + 1, TILES))
    return PatientData(tuple(f"p{at}" for at in range(n)), bags)


def outcome_of(name: str, n: int) -> Outcome:
    """Classes, or survival with a third censored."""
    rng = np.random.default_rng(1)
    if name == "classes":
        return Classes(rng.integers(0, 2, n), ("no", "yes"))
    return Survival.from_arrays(rng.exponential(24, n) + 0.1, rng.random(n) > 1 / 3)


def epoch(name: str, data: PatientData, kept_tiles: int) -> tuple[object, Objective]:
    """A callable that takes the gradient once, and its objective."""
    (kind,) = [kind for kind in OBJECTIVES if kind.name == name]
    settings = {option: value.default for option, value in kind.options.items()}
    objective = kind.build(outcome_of(name, len(data)), Recipe((), settings, (), 0))
    encoded = NetworkInputs.fit(data, ("image",), 4).encode(data)
    network, batches = (
        attention_network(
            WIDTH,
            32,
            16,
            n_branches=objective.n_branches,
            shared=tuple(bool(value) for value in objective.shared),
        ),
        PatientBatches(encoded),
    )
    step, schedule = Step(StepDraws({}, {}), 0), Schedule(learning_rate=0.0, weight_decay=0.0)

    def take() -> None:
        with one_thread():
            accumulate_gradient(network, batches, step, objective, schedule, kept_tiles=kept_tiles)

    return take, objective


def growing(sizes: list[int]) -> list[str]:
    """Tables of microseconds a patient."""
    whole, alone = [], []
    for kind in OBJECTIVES:
        for kept, said in ((10**9, "kept"), (0, "not kept")):
            calls, objectives = {}, {}
            for n in sizes:
                calls[str(n)], objectives[n] = epoch(kind.name, cohort(n), kept)
            found = interleaved(calls, repetitions=3)
            per = [f"{found.median(str(n)) * 1e6 / n:.0f}" for n in sizes]
            whole.append([f"{kind.name}, activations {said}", *per])
        losses = {
            str(n): partial(one.loss, np.zeros((n, one.n_outputs))) for n, one in objectives.items()
        }
        found = interleaved(losses, repetitions=3)
        alone.append([kind.name, *(f"{found.median(str(n)) * 1e6 / n:.1f}" for n in sizes)])
    header = ["µs a patient, of patients:", *map(str, sizes)]
    return ["An epoch:", table(header, whole), "The objective alone:", table(header, alone)]


def models(n: int) -> list[str]:
    """Seconds of fitting ever more settings of one model."""
    data, outcome = cohort(n), outcome_of("cox", n)
    rows = []
    for count in (1, 1, 2, 4):  # the first only warms up
        dropouts = [0.1 * at for at in range(count)]
        spec = ModelSpec(
            name="abmil",
            head="attention-cox",
            inputs=("image",),
            options={"epochs": 10},
            tune={"dropout": dropouts},
        )
        start = time.perf_counter()
        fit_tuned(spec, data, outcome, seed=0)
        seconds = time.perf_counter() - start
        rows.append([str(count), f"{seconds:.2f}", f"{seconds / count:.2f}"])
    return [
        f"Settings of one model, {n} patients, 10 epochs, three inner folds and the refit:",
        table(["settings", "seconds", "a setting"], rows[1:]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=4000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [asked.most // 16, asked.most // 4, asked.most]
    body = [*growing(sizes), *models(asked.most // 8)]
    print(section("How training grows", packages=("torch", "numpy"), body=body))


if __name__ == "__main__":
    main()
