from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.errors import InputError, StormClinicError
from storm_clinic.features.execution import ReaderPool
from storm_clinic.features.lost_tasks import MAX_TRIES, Crashed, Hung, TimeLimits
from storm_clinic.features.shard import Shard
from storm_clinic.features.tiling import (
    PlanTask,
    ReaderSettings,
    ReadTask,
    Refused,
    SlideJob,
    SlidePlan,
    TilesRead,
)
from storm_clinic.slides.reader import open_slide
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters


@pytest.fixture
def settings(tmp_path):
    return ReaderSettings(
        geometry=TileGeometry(tile_px=64, mpp=0.5),
        tissue=TissueParameters(),
        n_slots=3,
        batch_size=4,
        pictures=tmp_path / "qc",
    )


def _replies(pool: ReaderPool, tasks) -> list:
    for task in tasks:
        pool.submit(task)
    outcomes = []
    while len(outcomes) < len(tasks):
        outcomes += pool.wait()
    by_task = {id(outcome.task): outcome.reply for outcome in outcomes}
    return [by_task[id(task)] for task in tasks]


def test_a_reader_lays_tiles_and_fills_the_shared_memory(settings, write_tissue_slide, tmp_path):
    path = write_tissue_slide(tmp_path / "a.tif")
    job = SlideJob("a", path)
    with ReaderPool(1, settings) as pool:
        (plan,) = _replies(pool, [PlanTask(job)])
        assert isinstance(plan, SlidePlan)
        pool.slots[:] = 7  # what an earlier batch left behind
        (reply,) = _replies(pool, [ReadTask(job, 0, plan.corners[:3], slot=1)])
        pixels = pool.slots.copy()
    assert reply == TilesRead(failed=(), reason=None)
    with open_slide(path) as slide:
        expected = [slide.read((x, y), 64, 0.5) for x, y in plan.corners[:3].tolist()]
    np.testing.assert_array_equal(pixels[1, :3], np.stack(expected))
    assert (pixels[1, 3:] == 7).all()
    assert (pixels[[0, 2]] == 7).all()


def test_a_slide_that_cannot_be_used_gives_its_error_back(settings, tmp_path):
    path = tmp_path / "text.svs"
    path.write_text("this is no slide\n")
    with ReaderPool(1, settings) as pool:
        replies = _replies(pool, [PlanTask(SlideJob("text", path)), PlanTask(SlideJob("b", path))])
    assert [type(reply.error).__name__ for reply in replies] == ["UnreadableSlide"] * 2
    assert "text.svs" in str(replies[0].error)
    assert not replies[0].trace


def test_a_fault_of_the_program_comes_back_with_its_traceback(settings, tmp_path, sabotage):
    sabotage(
        """
        import storm_clinic.slides.reader as reader
        def thumbnail(self, mpp): raise ZeroDivisionError("planted")
        reader.Slide.thumbnail = thumbnail
        """
    )
    from PIL import Image

    path = tmp_path / "a.png"
    Image.new("RGB", (90, 90)).save(path)
    with ReaderPool(1, settings) as pool:
        (reply,) = _replies(pool, [PlanTask(SlideJob("a", path, mpp_override=0.5))])
    assert isinstance(reply, Refused)
    assert "unexpected ZeroDivisionError: planted" in str(reply.error)
    assert "in thumbnail" in reply.trace


_DIES = """
import os, ctypes
import storm_clinic.slides.reader as reader
honest = reader.Slide.thumbnail
def thumbnail(self, mpp):
    if "poison" in self.path.name:
        with open(os.environ["TRIES"], "a") as tries:
            tries.write("x")
        {death}
    return honest(self, mpp)
reader.Slide.thumbnail = thumbnail
"""


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os._exit(7)", "with status 7"),
        ("ctypes.string_at(0)", "by signal 11"),
        ("os.kill(os.getpid(), 9)", "by signal 9"),
    ],
)
def test_a_task_that_kills_its_reader_is_tried_again_and_then_set_aside(
    settings, write_tissue_slide, tmp_path, sabotage, monkeypatch, death, how
):
    sabotage(_DIES.format(death=death))
    tries = tmp_path / "tries"
    monkeypatch.setenv("TRIES", str(tries))
    jobs = [
        SlideJob(name, write_tissue_slide(tmp_path / f"{name}.tif"))
        for name in ("a", "poison", "b", "c")
    ]
    with ReaderPool(2, settings) as pool:
        replies = _replies(pool, [PlanTask(job) for job in jobs])
    crashed = replies.pop(1)
    assert isinstance(crashed, Crashed)
    assert how in str(crashed)
    assert len(tries.read_text()) == MAX_TRIES == crashed.tries
    # The others, some of which waited behind it, are not blamed.
    assert all(isinstance(reply, SlidePlan) for reply in replies)


def test_a_reader_that_is_killed_from_outside_costs_nothing(settings, write_tissue_slide, tmp_path):
    job = SlideJob("a", write_tissue_slide(tmp_path / "a.tif"))
    with ReaderPool(1, settings) as pool:
        _replies(pool, [PlanTask(job)])
        victim = pool._readers[0].process
        victim.kill()
        victim.wait()
        assert isinstance(_replies(pool, [PlanTask(job)])[0], SlidePlan)


def test_readers_that_cannot_start_end_the_run(settings, sabotage, tmp_path, capfd):
    sabotage("raise SystemExit('planted failure')")
    with ReaderPool(1, settings) as pool:
        pool.submit(PlanTask(SlideJob("a", tmp_path / "a.tif")))
        with pytest.raises(StormClinicError, match="cannot start; it ended with status 1"):
            pool.wait()
    assert "planted failure" in capfd.readouterr().err


def test_leaving_the_pool_leaves_nothing_behind(settings):
    before = sorted(Path("/proc/self/fd").iterdir())
    with ReaderPool(2, settings) as pool:
        processes = [reader.process for reader in pool._readers]
    assert all(process.poll() is not None for process in processes)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_readers_import_no_torch():
    code = (
        "import storm_clinic.features.reader_process, sys;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'mlflow', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_script_needs_no_main_guard(tmp_path):
    """Readers are not forked or spawned from the script; else it would start itself again."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from pathlib import Path
            from storm_clinic.features.execution import ReaderPool
            from storm_clinic.features.tiling import PlanTask, ReaderSettings, SlideJob
            from storm_clinic.slides.tiles import TileGeometry
            from storm_clinic.slides.tissue import TissueParameters

            print("started")
            settings = ReaderSettings(TileGeometry(64, 0.5), TissueParameters(), 1, 1, Path("qc"))
            with ReaderPool(2, settings) as pool:
                pool.submit(PlanTask(SlideJob("a", Path("absent.svs"))))
                while not (outcomes := pool.wait()):
                    pass
                print(type(outcomes[0].reply.error).__name__)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.split() == ["started", "UnreadableSlide"]


# ---- shards ------------------------------------------------------------------------------------

SLIDE_IDS = [f"TCGA-{number:04d}" for number in range(500)]


def test_shards_deal_every_slide_to_exactly_one():
    shards = [Shard(index, 7) for index in range(1, 8)]
    owners = [[shard.index for shard in shards if shard.takes(name)] for name in SLIDE_IDS]
    assert {len(owner) for owner in owners} == {1}
    sizes = np.bincount([owner[0] for owner in owners])[1:]
    assert sizes.min() > 40  # 71 expected each


def test_a_shard_is_the_same_on_every_machine():
    # First 16 hex digits of: printf %s slide-1 | sha256sum, as a number, modulo 8, plus 1.
    digest = subprocess.run(["sha256sum"], input=b"slide-1", capture_output=True, check=True).stdout
    owner = int(digest[:16], 16) % 8 + 1
    assert [index for index in range(1, 9) if Shard(index, 8).takes("slide-1")] == [owner]


def test_a_shard_reads_back_as_it_is_written():
    assert Shard.parse(" 2/8 ") == Shard(2, 8)
    assert str(Shard(2, 8)) == "2/8"


@pytest.mark.parametrize("text", ["0/8", "9/8", "2", "2/0", "-1/8", "a/b", "1/8/2", ""])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(InputError):
        Shard.parse(text)


def test_the_package_is_found_however_it_was_found(settings, monkeypatch, tmp_path):
    """A checkout on sys.path, not installed, works for readers too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(Path(__file__).parents[2]), *sys.path])
    with ReaderPool(1, settings) as pool:
        (reply,) = _replies(pool, [PlanTask(SlideJob("a", tmp_path / "absent.svs"))])
    assert isinstance(reply, Refused)


# ---- slides that hang --------------------------------------------------------------------------

_SLOW = """
import time
import storm_clinic.slides.reader as reader
honest = reader.Slide.thumbnail
def thumbnail(self, mpp):
    if "slow" in self.path.name:
        time.sleep(1.5)
    return honest(self, mpp)
reader.Slide.thumbnail = thumbnail
"""


def test_a_slide_may_take_only_so_long_in_all(settings, write_tissue_slide, tmp_path, sabotage):
    sabotage(_SLOW)
    jobs = [SlideJob(n, write_tissue_slide(tmp_path / f"{n}.tif")) for n in ("slow", "good")]
    with ReaderPool(1, settings, TimeLimits(slide_s=2.5)) as pool:
        first, second, third = _replies(pool, [PlanTask(jobs[k]) for k in (0, 0, 1)])
    assert isinstance(first, SlidePlan)
    assert isinstance(second, Hung)
    assert "not done after 2.5 s in all" in str(second)
    assert isinstance(third, SlidePlan)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_limits_that_end_everything_are_refused(seconds):
    with pytest.raises(InputError, match="must be above 0"):
        TimeLimits(task_s=seconds)
    with pytest.raises(InputError, match="must be above 0"):
        TimeLimits(slide_s=seconds)
    with pytest.raises(InputError, match="must be above 0"):
        TimeLimits(actor_s=seconds)
