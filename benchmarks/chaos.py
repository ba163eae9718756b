"""Kill an extraction at random points, fill its disk, hang its slides: nothing may be lost.

Each kill -9 (of the driver, a reader, or one of two workers that share a store) is followed by a
rerun, after which the store must equal that of an undisturbed run byte for byte, with no process,
open file, shared memory or half-written file left behind. Ends with status 1 on any violation.

    python benchmarks/chaos.py [--kills 51] [--seed 1] [--slides 1000]
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import measuring
import numpy as np
import tifffile
import torch
from safetensors.torch import save_file

from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.hub import load_encoder
from storm_clinic.errors import StormClinicError
from storm_clinic.features.lost_tasks import TimeLimits
from storm_clinic.features.shard import Shard
from storm_clinic.files import Workspace
from storm_clinic.steps.extraction import extract

REFUSED = 7  # the run ended with an error of ours: it says what is wrong
FAILED = 3  # some slides failed, as `extract` reports it
KINDS = ("driver", "reader", "worker")
_GRACE_S = 20.0
# What a run of 1,000 slides may keep more of at its end than after a fifth of it.
# One looks while files are being written; a leak of one a slide would be hundreds.
_GROWTH_FILES = 5
_GROWTH_MIB = 24.0
_SABOTAGE = """
import os, time
import storm_clinic.slides.reader as reader
honest = reader.Slide.thumbnail
def thumbnail(self, mpp):
    if "hangs" in self.path.name:
        time.sleep(3600)
    if "crashes" in self.path.name:
        os.kill(os.getpid(), 11)
    return honest(self, mpp)
reader.Slide.thumbnail = thumbnail
"""


@dataclass
class Report:
    """What was done and seen.

    Attributes
    ----------
    rows : list of [str, str, str]
        What was done, how often, what was seen.
    violations : list of str
    """

    rows: list[list[str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.violations.append(what)
            print(f"VIOLATION: {what}", file=sys.stderr)


# ---- slides, encoder, runs ---------------------------------------------------------------------


def write_slide(path: Path, *, side: int, seed: int) -> Path:
    """A pyramidal TIFF, white with a block of stained texture, at 0.5 µm per pixel."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 244, dtype=np.uint8)
    block = slice(side // 8, side - side // 8)
    noise = rng.integers(-40, 40, (*pixels[block, block].shape[:2], 3))
    pixels[block, block] = np.clip(np.array([190, 90, 150]) + noise, 0, 255)
    with tifffile.TiffWriter(path) as writer:
        for factor in (1, 16):
            small = pixels.reshape(side // factor, factor, side // factor, factor, 3)
            writer.write(
                small.mean(axis=(1, 3)).astype(np.uint8),
                tile=(64, 64),
                compression="deflate",
                photometric="rgb",
                resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
                metadata=None,
                subfiletype=int(factor > 1),
            )
    return path


def _network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 8, stride=8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )


def make_encoder(folder: Path) -> tuple[EncoderCard, Path]:
    """A small convolutional network with weights by seed; nothing is fetched."""
    generator = torch.Generator().manual_seed(5)
    shapes = {name: tensor.shape for name, tensor in _network().state_dict().items()}
    path = folder / "weights.safetensors"
    save_file({name: torch.randn(s, generator=generator) for name, s in shapes.items()}, path)
    card = EncoderCard(
        name="chaos",
        loader=_network,
        tile_px=64,
        input_px=64,
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pooling="pooled",
        width=12,
        batch_size=4,
        licence="MIT",
        citation="none",
    )
    return card, path


@dataclass
class Bench:
    """Slides and an encoder, and runs of `extract` in processes that may be killed."""

    folder: Path
    report: Report
    n_slides: int = 8
    slides: Path = field(init=False)
    reference: dict[str, bytes] = field(init=False)
    seconds: float = field(init=False)
    saw_memory: bool = False  # shared by readers, so that looking for what is left can find it

    def __post_init__(self) -> None:
        self.slides = self.folder / "slides"
        self.slides.mkdir()
        for number in range(self.n_slides):
            write_slide(self.slides / f"s{number}.tif", side=512, seed=number)
        self._card, self._weights = make_encoder(self.folder)
        load_encoder(self._card, weights=self._weights, device="cpu")  # imported before any fork
        start = time.monotonic()
        self.report.expect(wait_for(self.start("undisturbed")) == 0, "the undisturbed run failed")
        self.seconds = time.monotonic() - start
        self.reference = contents(self.store("undisturbed"))
        self.report.expect(len(self.reference) == 2 * self.n_slides + 1, "files are missing")

    def store(self, name: str) -> Path:
        return self.folder / name / "features" / "c" / "chaos"

    def start(
        self,
        name: str,
        *,
        slides: Path | None = None,
        before: Callable[[], object] = lambda: None,
        shard: Shard | None = None,
        limits: TimeLimits | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> int:
        """Fork a process that extracts into the workspace of that name; returns its id."""
        process = os.fork()
        if process:
            return process
        status = 99  # whatever is not an error of ours
        try:
            before()
            result = extract(
                slides or self.slides,
                cohort="c",
                encoder=self._card,
                weights=self._weights,
                workspace=Workspace(self.folder / name),
                device="cpu",
                readers=2,
                shard=shard,
                limits=limits,
                progress=progress,
            )
            status = result.exit_code
        except StormClinicError as error:
            print(f"  refused: {error}", file=sys.stderr)
            status = REFUSED
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)

    def require_whole(self, name: str, after: str) -> None:
        """Run to the end, and hold the store against that of the undisturbed run."""
        self.report.expect(wait_for(self.start(name)) == 0, f"{after}: the rerun failed")
        self.require_equal(name, after)

    def require_equal(self, name: str, after: str) -> None:
        found = contents(self.store(name))
        same = found == self.reference
        self.report.expect(same, f"{after}: differs: {differing(found, self.reference)}")
        parts = [path.name for path in (self.folder / name).rglob("*.part")]
        self.report.expect(not parts, f"{after}: left half written: {parts}")


def contents(store: Path) -> dict[str, bytes]:
    """Feature files, contract and pictures; the index and records hold times."""
    paths = [*store.glob("*.h5"), *store.glob("contract.json"), *store.glob("qc/s*.jpg")]
    return {path.name: path.read_bytes() for path in paths}


def differing(left: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    return sorted(name for name in {*left, *right} if left.get(name) != right.get(name))


# ---- processes ---------------------------------------------------------------------------------


def wait_for(process: int) -> int:
    """Exit status; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def children(process: int) -> list[int]:
    """Living child processes."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == process]


def parent_of(path: Path) -> int | None:
    try:
        state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None  # it has just ended
    return None if state == "Z" else int(parent)


def ended_in_time(processes: list[int]) -> bool:
    deadline = time.monotonic() + _GRACE_S
    while any(parent_of(Path(f"/proc/{number}")) is not None for number in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def open_files() -> list[str]:
    """Of this process."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def shared_memory(processes: Iterable[Path]) -> set[int]:
    """Inodes of the tiles that these processes share; the memory goes with the last of them."""
    found = set()
    for process in processes:
        with suppress(OSError):  # it has ended, or is somebody else's
            for handle in (process / "fd").iterdir():
                if "memfd:storm_clinic" in str(handle.readlink()):
                    found.add(handle.stat().st_ino)
    return found


# ---- faults ------------------------------------------------------------------------------------


def kill_at_random(bench: Bench, number: int, kind: str, rng: random.Random) -> str:
    """One kill -9 into a fresh store, a rerun, and the comparison. Returns what was hit."""
    name = f"kill{number}"
    what = f"kill {number} of a {kind}"
    if kind == "worker":
        drivers = [bench.start(name, shard=Shard(index, 2)) for index in (1, 2)]
    else:
        drivers = [bench.start(name)]
    time.sleep(rng.uniform(0.0, bench.seconds))
    readers = [reader for driver in drivers for reader in children(driver)]
    memory = shared_memory(Path(f"/proc/{number}") for number in readers)
    bench.saw_memory |= bool(memory)
    victim = rng.choice(readers) if kind == "reader" and readers else drivers[0]
    hit = "reader" if victim in readers else kind if kind == "worker" else "driver"
    before = {n for n, data in contents(bench.store(name)).items() if data != bench.reference[n]}
    bench.report.expect(not before, f"{what}: not whole while it ran: {before}")
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        hit = "nobody: it was done"
    statuses = [wait_for(driver) for driver in drivers]
    if hit == "reader":
        bench.report.expect(statuses == [0], f"{what}: the run did not go on: {statuses}")
    else:
        good = (0, -signal.SIGKILL)
        bench.report.expect(all(s in good for s in statuses), f"{what}: ended with {statuses}")
        if -signal.SIGKILL not in statuses:
            hit = "nobody: it was done"
    bench.report.expect(ended_in_time(readers), f"{what}: readers live on")
    left = memory & shared_memory(Path("/proc").glob("[0-9]*"))
    bench.report.expect(not left, f"{what}: shared memory is left")
    found = contents(bench.store(name))
    torn = [n for n, data in found.items() if data != bench.reference.get(n)]
    bench.report.expect(not torn, f"{what}: torn files: {torn}")
    bench.require_whole(name, what)
    return hit


def said(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr)


def kill_many(bench: Bench, n_kills: int, seed: int) -> None:
    """Until so many kills have hit a process; one that came too late does not count."""
    rng = random.Random(seed)
    before = open_files()
    hits: dict[str, int] = {}
    number = 0
    while sum(n for what, n in hits.items() if "nobody" not in what) < n_kills:
        hit = kill_at_random(bench, number, KINDS[number % len(KINDS)], rng)
        hits[hit] = hits.get(hit, 0) + 1
        said(f"kill {number}: {hit}")
        number += 1
    bench.report.expect(open_files() == before, f"left open: {before}, now {open_files()}")
    bench.report.expect(bench.saw_memory, "shared memory was never seen")
    names = {"worker": "one of two workers in one store", "reader": "reader", "driver": "driver"}
    for what, n in sorted(hits.items()):
        if what in names:
            row = [f"kill -9 of {names[what]}, rerun", str(n), "equal byte for byte"]
            bench.report.rows.append(row)


def two_runs_at_once(bench: Bench, times: int) -> None:
    for number in range(times):
        name = f"twice{number}"
        processes = [bench.start(name) for _ in range(2)]
        statuses = [wait_for(process) for process in processes]
        bench.report.expect(statuses == [0, 0], f"two runs at once ended with {statuses}")
        bench.require_equal(name, "two runs at once")
    bench.report.rows.append(["two runs of all slides at once", str(times), "both end well; equal"])


def bad_slides(bench: Bench) -> None:
    """A slide that hangs the decoder and one that crashes it, among good ones."""
    folder = bench.folder / "with_bad"
    folder.mkdir()
    for path in bench.slides.iterdir():
        os.link(path, folder / path.name)
    for name in ("hangs", "crashes"):
        os.link(bench.slides / "s0.tif", folder / f"{name}.tif")
    planted = bench.folder / "sabotage"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(_SABOTAGE)
    process = bench.start(
        "bad",
        slides=folder,
        before=lambda: sys.path.insert(0, str(planted)),
        limits=TimeLimits(task_s=5.0),
    )
    bench.report.expect(wait_for(process) == FAILED, "bad slides: not reported by the exit code")
    bench.require_equal("bad", "bad slides")
    table = (bench.store("bad") / "failures.csv").read_text()
    for reason in ("3 reader processes hung on it", "3 reader processes died on it"):
        bench.report.expect(reason in table, f"bad slides: no {reason!r} in failures.csv")
    seen = "listed with the reason; the others equal"
    bench.report.rows.append(["a slide that hangs, one that crashes", "3 tries each", seen])


def few_file_handles(bench: Bench) -> None:
    seen = {"refused": 0, "slides failed": 0, "went well": 0}
    words = {REFUSED: "refused", FAILED: "slides failed", 0: "went well"}
    limits = range(8, 48, 8)
    for limit in limits:
        name = f"handles{limit}"

        def lower(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        status = wait_for(bench.start(name, before=lower))
        bench.report.expect(status in words, f"{limit} file handles: ended with {status}")
        seen[words.get(status, "refused")] += 1
        bench.require_whole(name, f"{limit} file handles")
    listed = ", ".join(f"{n} {what}" for what, n in seen.items())
    row = [f"{limits[0]} to {limits[-1]} file handles, rerun with more", str(len(limits)), listed]
    bench.report.rows.append(row)


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[bool]:
    """A real file system of that size; False where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def full_disk(bench: Bench) -> None:
    sizes = (24, 48, 96, 160)
    for kib in sizes:
        name = f"disk{kib}"
        with small_disk(bench.folder / name, kib) as mounted:
            if not mounted:
                bench.report.rows.append(["a full disk", "0", "not done: mounting needs root"])
                return
            status = wait_for(bench.start(name))
            bench.report.expect(status == REFUSED, f"a disk of {kib} KiB: ended with {status}")
            parts = list((bench.folder / name).rglob("*.part"))
            bench.report.expect(not parts, f"a disk of {kib} KiB: left half written: {parts}")
            command = ["mount", "-o", "remount,size=8m", str(bench.folder / name)]
            subprocess.run(command, check=True)
            bench.require_whole(name, f"a disk of {kib} KiB")
    row = ["a full disk, rerun with more", str(len(sizes)), "ends with an error; then equal"]
    bench.report.rows.append(row)


def flat_memory(bench: Bench, n_slides: int) -> None:
    """Memory of driver and readers over many small slides, at a fifth of the run and at its end."""
    folder = bench.folder / "many"
    folder.mkdir()
    small = [write_slide(bench.folder / f"small{k}.tif", side=512, seed=k) for k in range(4)]
    for number in range(n_slides):
        os.link(small[number % len(small)], folder / f"m{number:05d}.tif")
    log = bench.folder / "memory.txt"

    def note(what: str, done: int, total: int) -> None:
        if what == "slides" and done in (total // 5, total):
            sizes = [resident_mib(p) for p in (os.getpid(), *children(os.getpid()))]
            with log.open("a") as file:
                n_open = len(list(Path("/proc/self/fd").iterdir()))
                file.write(f"{sizes[0]} {max(sizes[1:], default=0.0)} {n_open}\n")

    status = wait_for(bench.start("many", slides=folder, progress=note))
    bench.report.expect(status == 0, f"{n_slides} slides: ended with {status}")
    lines = [list(map(float, line.split())) for line in log.read_text().splitlines()]
    early, late = lines[0], lines[-1]
    for what, k in (("the driver", 0), ("a reader", 1)):
        grown = late[k] - early[k]
        bench.report.expect(grown < _GROWTH_MIB, f"{what} grew by {grown:.0f} MiB")
    more = late[2] - early[2]
    bench.report.expect(more < _GROWTH_FILES, f"open files grew by {more:.0f}")
    seen = ", ".join(
        f"{what} {early[k]:.0f} → {late[k]:.0f} MiB" for what, k in (("driver", 0), ("reader", 1))
    )
    bench.report.rows.append([f"{n_slides} slides: memory at 1/5 and at the end", "1", seen])


def resident_mib(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--kills", type=int, default=51)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--slides", type=int, default=1000)
    asked = arguments.parse_args()
    torch.set_num_threads(1)  # and no threads of ours, so that forking is safe
    report = Report()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="storm_chaos_") as folder:
        bench = Bench(Path(folder), report)
        kill_many(bench, asked.kills, asked.seed)
        two_runs_at_once(bench, 3)
        bad_slides(bench)
        few_file_handles(bench)
        full_disk(bench)
        flat_memory(bench, asked.slides)
    took = (
        f"Seed {asked.seed}; {time.monotonic() - start:.0f} s; {len(report.violations)} violations."
    )
    table = measuring.table(["done", "times", "seen"], report.rows)
    body = [table, took, *(f"- VIOLATION: {violation}" for violation in report.violations)]
    packages = ["storm-clinic", "torch", "h5py", "openslide-python"]
    print(measuring.section("Faults during extraction", packages=packages, body=body))
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
