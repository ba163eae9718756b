"""Slides dealt out on a cluster that is pretended, then on Ray's own with a machine killed."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from storm_clinic.errors import InputError, StorageError, StormClinicError
from storm_clinic.features import ray_execution
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.ray_actor import ActorShare, SharedWork
from storm_clinic.features.ray_cluster import connected
from storm_clinic.features.ray_execution import extract_on_ray
from storm_clinic.features.slide_result import SlideResult
from storm_clinic.features.tiling import SlideJob
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters


class _RayError(Exception):
    pass


class _RayTaskError(_RayError):
    def __init__(self, cause):
        self.cause = cause


class _Lost(Exception):
    """Raised by a pretended actor: its process is gone."""


@dataclass(eq=False)
class _Call:
    number: int
    what: str
    args: tuple


class PretendedRay:
    """As much of Ray as is used; calls are done one by one, in any order but an actor's own.

    ``behave(jobs, stored)`` does what an actor does with a parcel.
    """

    exceptions = SimpleNamespace(RayError=_RayError, RayTaskError=_RayTaskError)

    def __init__(self, behave, *, cores=3, seed=0, start=lambda: None):
        self.behave, self.cores, self.start = behave, cores, start
        self.rng = random.Random(seed)
        self.outstanding: dict[int, list] = {}
        self.most_outstanding = 0
        self.alive: set[int] = set()
        self.parcels: list[list[str]] = []

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": self.cores}}]

    def remote(self, kind):
        return self

    def options(self, **asked):
        def make():
            number = len(self.outstanding)
            self.outstanding[number] = []
            self.alive.add(number)

            def method(what):
                return SimpleNamespace(remote=lambda *args: self._call(number, what, args))

            return SimpleNamespace(
                prepare=method("prepare"), extract=method("extract"), number=number
            )

        return SimpleNamespace(remote=make)

    def kill(self, handle):
        self.alive.discard(handle.number)

    def wait(self, calls, timeout):
        heads = [queue[0] for queue in self.outstanding.values() if queue]
        call = self.rng.choice([head for head in heads if head in calls])
        return [call], [other for other in calls if other is not call]

    def get(self, call):
        number, what = call.number, call.what
        self.outstanding[number].remove(call)
        if number not in self.alive:
            raise _RayError("The actor died.")
        try:
            if what == "prepare":
                return self.start()
            jobs, stored = call.args
            self.parcels.append([job.slide_id for job in jobs])
            return self.behave(jobs, stored)
        except _Lost:
            self.alive.discard(number)
            raise _RayError("The actor died.\nMore that nobody reads.") from None
        except StormClinicError as error:
            raise _RayTaskError(error) from None

    def _call(self, number, what, args):
        call = _Call(number, what, args)
        self.outstanding[number].append(call)
        n_parcels = sum(other.what == "extract" for other in self.outstanding[number])
        self.most_outstanding = max(self.most_outstanding, n_parcels)
        return call


class HangingRay(PretendedRay):
    """Actors do not come back with some slides, unless killed, and some wait for a place.

    Each look takes a minute.
    """

    def __init__(self, behave, *, hang=(), waiting=(), **options):
        super().__init__(behave, **options)
        self.hang, self.waiting, self.now = set(hang), set(waiting), 0.0
        self.killed = set()

    def kill(self, handle):
        super().kill(handle)
        self.killed.add(handle.number)

    def wait(self, calls, timeout):
        self.now += 60.0
        heads = [queue[0] for queue in self.outstanding.values() if queue]
        able = [head for head in heads if head in calls and not self._hangs(head)]
        ended = [self.rng.choice(able)] if able else []
        return ended, [other for other in calls if other not in ended]

    def _hangs(self, call):
        if call.number not in self.alive:
            return False
        if call.what == "prepare":
            return call.number in self.waiting
        return any(job.slide_id in self.hang for job in call.args[0])


@pytest.fixture
def work(store):
    return SharedWork(
        load=None,
        folder=store.folder,
        contract=store.contract,
        geometry=TileGeometry(64, 0.5),
        tissue=TissueParameters(),
        share=ActorShare(1, gpu=False),
    )


def _jobs(n_slides):
    return [SlideJob(f"s{number:02d}", Path(f"/s{number:02d}.tif")) for number in range(n_slides)]


def _written(job):
    return SlideResult(job.slide_id, job.path, "written", n_tiles=1)


@pytest.mark.parametrize("seed", range(3))
def test_an_actor_that_does_not_come_back_is_ended_and_its_slide_set_aside(work, seed, monkeypatch):
    """An encoder that hangs, which no limit of readers sees."""
    ray = HangingRay(lambda jobs, stored: [_written(job) for job in jobs], hang={"s03"}, seed=seed)
    monkeypatch.setattr(ray_execution.time, "monotonic", lambda: ray.now)
    work = replace(work, limits=TimeLimits(actor_s=600.0))
    results = extract_on_ray(ray, _jobs(20), work)
    (failed,) = [result for result in results if result.status == "failed"]
    assert failed.reason == (
        "/s03.tif: 3 actors were lost on it; set aside. The last: it took more than 600 s a slide"
    )
    assert sum(result.status == "written" for result in results) == 19
    assert not ray.alive


def test_actors_that_wait_for_a_place_are_not_taken_to_hang(work, monkeypatch):
    """Somebody else's work may hold a shared cluster for days; one actor goes on meanwhile."""
    ray = HangingRay(lambda jobs, stored: [_written(job) for job in jobs], waiting={1, 2})
    monkeypatch.setattr(ray_execution.time, "monotonic", lambda: ray.now)
    work = replace(work, limits=TimeLimits(actor_s=90.0))
    results = extract_on_ray(ray, _jobs(40), work)
    assert all(result.status == "written" for result in results)
    assert ray.killed == {0, 1, 2}  # at the end, and no sooner


@pytest.mark.parametrize("seed", range(6))
def test_every_slide_is_done_once_whatever_is_lost(work, seed):
    rng = random.Random(seed)
    done = Counter()
    losses = Counter()

    def behave(jobs, stored):
        # No slide is unlucky three times: that would be its own fault.
        if rng.random() < 0.3 and all(losses[job.slide_id] < 2 for job in jobs):
            losses.update(job.slide_id for job in jobs)
            raise _Lost
        done.update(job.slide_id for job in jobs)
        return [_written(job) for job in jobs]

    ray = PretendedRay(behave, cores=1 + seed, seed=seed)
    jobs = _jobs(90)
    results = extract_on_ray(ray, jobs, work)
    assert [result.slide_id for result in results] == [job.slide_id for job in jobs]
    assert {result.status for result in results} == {"written"}
    assert set(done.values()) == {1}
    assert losses
    assert ray.most_outstanding == 2  # what is lost with an actor stays little
    assert not ray.alive


def test_a_slide_on_which_actors_die_is_set_aside_after_three_tries_and_no_other_is(work):
    def behave(jobs, stored):
        if any(job.slide_id == "s07" for job in jobs):
            raise _Lost
        return [_written(job) for job in jobs]

    ray = PretendedRay(behave)
    results = extract_on_ray(ray, _jobs(60), work)
    (failed,) = [result for result in results if result.status == "failed"]
    assert failed.slide_id == "s07"
    assert failed.reason == (
        "/s07.tif: 3 actors were lost on it; set aside. The last: The actor died."
    )
    tries = [parcel for parcel in ray.parcels if "s07" in parcel]
    assert len(tries) == 3
    assert tries[1:] == [["s07"], ["s07"]]


def test_what_a_lost_actor_had_written_is_not_made_again(work, store, toy_slide):
    seen = {}

    def behave(jobs, stored):
        for job in jobs:
            if job.slide_id in stored:
                seen[job.slide_id] = stored[job.slide_id]
                continue
            store.write(toy_slide(slide_id=job.slide_id))
            if job.slide_id == "s01" and not seen:
                raise _Lost
        known = {True: "unchanged", False: "written"}
        return [SlideResult(j.slide_id, j.path, known[j.slide_id in stored], 6) for j in jobs]

    results = extract_on_ray(PretendedRay(behave, cores=1), _jobs(40), work)
    assert "s01" in seen
    assert seen["s01"].slide_mpp == toy_slide().slide_mpp
    # To whoever asked for it, it was written in this run.
    assert {(result.status, result.n_tiles) for result in results} == {("written", 6)}


def test_what_the_store_held_before_is_said_to_be_unchanged(work, store, toy_slide):
    store.write(toy_slide(slide_id="s00"))

    def behave(jobs, stored):
        return [
            replace(_written(job), status="unchanged") if job.slide_id in stored else _written(job)
            for job in jobs
        ]

    results = extract_on_ray(PretendedRay(behave), _jobs(2), work)
    assert [result.status for result in results] == ["unchanged", "written"]


def test_an_error_of_one_machine_ends_the_run_and_all_actors(work):
    def behave(jobs, stored):
        raise StorageError("the disk is full", where="/s")

    ray = PretendedRay(behave)
    with pytest.raises(StorageError, match="the disk is full"):
        extract_on_ray(ray, _jobs(9), work)
    assert not ray.alive


def test_actors_that_cannot_start_end_the_run(work):
    def start():
        raise _Lost

    with pytest.raises(StormClinicError, match="actors cannot start: The actor died"):
        extract_on_ray(PretendedRay(None, start=start), _jobs(9), work)


def test_an_actor_gets_a_gpu_or_the_cores_of_the_encoder():
    def cluster(*machines):
        return SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": m} for m in machines])

    mixed = cluster({"CPU": 64}, {"CPU": 32, "GPU": 4}, {"CPU": 16, "GPU": 1})
    gpu = ActorShare.of(mixed, threads=2, device="auto")
    assert gpu == ActorShare(8, gpu=True)
    assert [gpu.fits(node["Resources"]) for node in mixed.nodes()] == [0, 4, 1]
    cpu = ActorShare.of(mixed, threads=3, device="cpu")
    assert [cpu.fits(node["Resources"]) for node in mixed.nodes()] == [21, 10, 5]
    with pytest.raises(StormClinicError, match="no machine of the cluster has a GPU"):
        ActorShare.of(cluster({"CPU": 4}), threads=1, device="cuda")


def test_a_cluster_without_tokens_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="whoever reaches a cluster without tokens"):
        connected("10.0.0.1:6379").__enter__()


# ---- on Ray itself -----------------------------------------------------------------------------

_SCRIPT = """
import os, sys
from pathlib import Path

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on loopback only
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = "0123456789abcdef" * 4
import ray
from ray.cluster_utils import Cluster
import torch
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.encoding import LoadedEncoder
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.extraction import extract_slides
from storm_clinic.features.ray_actor import ActorShare, SharedWork
from storm_clinic.features.ray_cluster import connected
from storm_clinic.features.ray_execution import extract_on_ray
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.tile_reading import TileReading
from storm_clinic.features.tiling import SlideJob
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters

slides, out = map(Path, sys.argv[1:])
torch.set_num_threads(1)


def load(device):
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 12)).eval()
    card = EncoderCard(
        name="tiny", loader=torch.nn.Identity, tile_px=64, input_px=64, mpp=0.5,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), pooling="pooled", width=12, batch_size=4,
        licence="MIT", citation="none",
    )
    return LoadedEncoder(card, model, "ab" * 32, torch.device(device)), 4


geometry, tissue = TileGeometry(64, 0.5), TissueParameters(min_area_um2=1000)
contract = FeatureContract(
    encoder="tiny", encoder_digest="ab" * 32, width=12, mpp=0.5, tile_px=64, pooling="pooled",
    tissue=tissue.as_dict(),
)
jobs = [SlideJob(path.stem, path) for path in sorted(slides.iterdir())]
here = FeatureStore.create(out / "here", contract)
extract_slides(jobs, load("cpu")[0], here, TileReading(geometry, tissue, n_readers=1, batch_size=4))
there = FeatureStore.create(out / "there", contract)
small = {"object_store_memory": 80 << 20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
machines = [cluster.add_node(num_cpus=1, wait=False, **small) for _ in range(2)]
killed = []


def kill_a_machine(what, done, total):
    if done >= 2 and not killed:
        killed.append(done)
        cluster.remove_node(machines[0], allow_graceful=False)


work = SharedWork(load, there.folder, contract, geometry, tissue, ActorShare(1, gpu=False))
with connected(cluster.address) as ray:
    results = extract_on_ray(ray, jobs, work, progress=kill_a_machine)
print([result.status for result in results].count("written"), killed[0] < len(jobs))
cluster.shutdown()
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_machine_killed_amid_the_work_costs_nothing(write_tissue_slide, tmp_path):
    (tmp_path / "slides").mkdir()
    for number in range(8):
        write_tissue_slide(tmp_path / "slides" / f"s{number}.tif", seed=number)
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path / "slides", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["8", "True"]
    stores = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.h5")}
        for name in ("here", "there")
    ]
    assert stores[0] == stores[1]
    assert len(stores[0]) == 8
    assert not list(tmp_path.rglob("*.part"))
