"""How long does scoring take once the features are there? Ours beside the plain loop.

    python benchmarks/scoring_speed.py [--slides 10000] [--tiles 300] [--width 384]

Makes a store of simulated features (log-normal numbers of tiles about the given median, float16) in
a temporary folder, fits an attention model with covariates to 60 of its patients, and scores all of
them twice in one process: by `storm-clinic score`'s path, up to the written CSV, and by a loop that
opens one slide at a time and calls the same model. Both verify every array's digest. The files have
just been written, so that they come from the machine's cache, not from its disk; the cost of a
plain read of the same bytes is printed beside it. Both compute with
one torch thread.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from storm_clinic.bundle import (
    Bundle,
    ClinicalColumn,
    Manifest,
    OutcomeDefinition,
    TrainingCohort,
    write_bundle,
)
from storm_clinic.cohort.outcome import Survival
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.reference import FeatureReference
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.heads import zoo
from storm_clinic.heads.bag_cache import build_bags
from storm_clinic.heads.contract import PatientData, Recipe, Sample
from storm_clinic.provenance import code_version, package_versions
from storm_clinic.steps.scorable_model import ScorableModel
from storm_clinic.steps.score_file import write_guarded_csv
from storm_clinic.steps.score_request import request_tables
from storm_clinic.steps.score_rows import ScoredRows
from storm_clinic.steps.score_slides import FoundSlides
from storm_clinic.steps.scorer import Scorer
from storm_clinic.study import Study

N_TRAINED = 60
STUDY = Study.from_document(
    {
        "format": 1,
        "study": "speed",
        "question": "How fast are simulated patients scored?",
        "endpoint": {"name": "pfs", "horizons_months": [12]},
        "features": {"encoder": "simulated"},
        "development": ["simulated"],
        "clinical": ["age"],
        "candidate": "fusion",
        "models": [
            {"name": "clinical", "head": "cox", "inputs": ["clinical"]},
            {"name": "fusion", "head": "attention-cox", "inputs": ["image", "clinical"]},
        ],
        "evaluation": {"seed": 1},
    }
)


def make_store(folder: Path, n_slides: int, tiles: int, width: int) -> FeatureStore:
    rng = np.random.default_rng(0)
    contract = FeatureContract("simulated", "0" * 64, width, 0.5, 224)
    store = FeatureStore.create(folder, contract)
    block = rng.normal(size=(40_000, width)).astype(np.float16)
    for number in range(n_slides):
        n_tiles = int(np.clip(rng.lognormal(np.log(tiles), 0.6), 20, 20_000))
        start = int(rng.integers(0, len(block) - n_tiles))
        coords = np.arange(2 * n_tiles, dtype=np.int64).reshape(n_tiles, 2)
        store.write(
            SlideFeatures(
                f"s{number:06d}",
                block[start : start + n_tiles],
                coords=coords,
                tissue=np.ones(n_tiles, np.float16),
                slide_digest="1" * 64,
                slide_mpp=0.25,
            )
        )
    return store


def make_bundle(folder: Path, store: FeatureStore, ages: np.ndarray) -> Bundle:
    rng = np.random.default_rng(1)
    ids = [f"s{number:06d}" for number in range(N_TRAINED)]
    data = PatientData(
        keys=tuple(ids),
        bags=build_bags(store, [[slide] for slide in ids]),
        clinical=pd.DataFrame({"age": ages[:N_TRAINED]}),
    )
    outcome = Survival(rng.exponential(30, N_TRAINED) + 1, rng.random(N_TRAINED) < 0.6)
    states = {}
    for spec in STUDY.models:
        head = zoo.find(spec.head)
        settings = zoo.settings_of(head, spec)[0]
        recipe = Recipe(
            spec.inputs, settings | {"epochs": 3} if head.stages else settings, (12,), 1
        )
        *_, last = head.path(Sample(data, outcome), recipe)
        states[spec.name] = last.finish().state()
    manifest = Manifest(
        study=STUDY.resolved(),
        features=store.contract.to_json(),
        clinical=(ClinicalColumn(name="age", kind="continuous", unit="years"),),
        outcome=OutcomeDefinition(name="pfs", kind="survival", horizons_months=(12,)),
        risk_thresholds=dict.fromkeys(states, (0.0,)),
        training={
            "simulated": TrainingCohort(
                n_patients=N_TRAINED, n_events=36, digests={}, origin={"simulated": True}
            )
        },
        seeds={"study": 1},
        key_id=None,
        code=code_version().as_dict(),
        packages=package_versions(("numpy",)),
        run_id=None,
    )
    assert data.bags is not None
    reference = FeatureReference.of(data.bags.pooled_mean(), seed=1)
    return write_bundle(folder, states, manifest, references={"image": reference})


def ours(scorer: Scorer, store: FeatureStore, folder: Path) -> np.ndarray:
    found = FoundSlides(store, store.slide_ids(), {})
    request = request_tables(
        scorer, found.slide_ids, clinical=folder / "clinical.csv", patients=None
    )
    table = ScoredRows(scorer, request, found).table(None)
    write_guarded_csv(table, folder / "risks.csv")
    return table["risk"].to_numpy()


def plain_loop(bundle: Bundle, store: FeatureStore, ages: np.ndarray) -> np.ndarray:
    """One slide at a time: open the file, predict. No reference, no rows, no CSV."""
    from storm_clinic.heads.bags import Bags

    model = bundle.restore()
    risks = []
    for at, slide in enumerate(store.slide_ids()):
        data = PatientData(
            keys=(slide,),
            bags=Bags.from_arrays([store.read(slide).features]),
            clinical=pd.DataFrame({"age": ages[at : at + 1]}),
        )
        risks.append(model.predict(data).risk[0])
    return np.array(risks)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--width", type=int, default=384)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = make_store(folder / "features", given.slides, given.tiles, given.width)
        ages = np.round(np.random.default_rng(2).normal(62, 9, given.slides), 1)
        pd.DataFrame({"patient_id": store.slide_ids(), "age": ages}).to_csv(
            folder / "clinical.csv", index=False
        )
        bundle = make_bundle(folder / "bundle", store, ages)
        scorer = Scorer(ScorableModel(bundle, "speed", 1, "locked", datetime.now(UTC)))
        paths = [store.path(slide) for slide in store.slide_ids()]
        start = time.perf_counter()
        gigabytes = sum(len(path.read_bytes()) for path in paths) / 1e9
        plain_read = time.perf_counter() - start
        print(f"{platform.machine()}, {given.slides} slides, median {given.tiles} tiles of")
        print(f"{given.width} float16: {gigabytes:.2f} GB in {len(paths)} files")
        print(f"read as bytes           {plain_read:8.1f} s")
        batched, risks = timed(lambda: ours(scorer, store, folder))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        loop, one_by_one = timed(lambda: plain_loop(bundle, store, ages))
        for name, (wall, processor) in (
            ("storm-clinic score", batched),
            ("one slide at a time", loop),
        ):
            per = 10_000 / given.slides
            print(
                f"{name:20s} {wall:10.1f} s, {wall * per:6.1f} s per 10,000, "
                f"{wall / gigabytes:5.1f} s per GB; {processor * per:6.1f} s of CPU per 10,000"
            )
        print(f"ratio {loop[0] / batched[0]:.2f}; peak memory of ours {peak:.2f} GB")
        print(f"largest difference of a risk {np.abs(risks - one_by_one).max():.1e}")


def timed(call: Callable[[], np.ndarray]) -> tuple[tuple[float, float], np.ndarray]:
    """Wall and processor seconds, and the result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return (time.perf_counter() - wall, time.process_time() - processor), result


if __name__ == "__main__":
    main()
