"""Whatever a file of somebody else's does to the process that reads it, this one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from looping_heap import make_heap_loop
from misbehaviour import divide, hand_back, sleep, zeros
from scipy import sparse

from storm_clinic.errors import FeatureError, SectionError, StormClinicError
from storm_clinic.features.declaration import Declaration
from storm_clinic.features.foreign_file import describe_foreign, read_foreign
from storm_clinic.features.foreign_reading import ForeignReading
from storm_clinic.features.interop import import_slides
from storm_clinic.features.lost_tasks import TimeLimits

LIMITS = TimeLimits(task_s=5.0)
DECLARED = Declaration("uni", mpp=0.5, tile_px=256)


def write_file(path: Path, n_tiles: int = 7, **attributes) -> Path:
    rng = np.random.default_rng(n_tiles)
    with h5py.File(path, "w") as file:
        file["features"] = rng.normal(size=(n_tiles, 5)).astype(np.float32)
        file["coords"] = rng.integers(0, 9000, (n_tiles, 2))
        file.attrs.update(attributes)
    return path


@pytest.fixture
def given(tmp_path):
    """A folder with two good files, before and after whatever is called ``m``."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("a", "z"):
        write_file(folder / f"{name}.h5")
    return folder


def rows(given: Path, tmp_path: Path):
    result = import_slides([given], tmp_path / "store" / "uni", DECLARED, limits=LIMITS)
    for name in ("a", "z"):  # what the bad one did costs the others nothing
        with h5py.File(given / f"{name}.h5") as file:
            np.testing.assert_array_equal(result.store.read(name).features, file["features"])
    assert result.exit_code == 3
    return result.table.set_index("slide_id")


# ---- what counts as a file's time --------------------------------------------------------------


def test_what_a_process_imports_before_it_reads_is_not_counted_against_the_file(
    tmp_path, monkeypatch
):
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "slow_to_import.py").write_text(
        "import time\ntime.sleep(2.0)\n\n\ndef name_of(path):\n    return path.name\n"
    )
    monkeypatch.syspath_prepend(modules)
    import slow_to_import

    with ForeignReading(TimeLimits(task_s=1.0)) as reading:
        assert reading.call(slow_to_import.name_of, tmp_path / "a.h5") == "a.h5"


# ---- files that hang or kill -------------------------------------------------------------------


def test_a_heap_that_leads_to_itself_is_a_row_and_the_import_goes_on(given, tmp_path):
    make_heap_loop(write_file(given / "m.h5", encoder="uni"), "uni")
    row = rows(given, tmp_path).loc["m"]
    assert row["status"] == "failed"
    # Another libhdf5 may notice the damage itself.
    if "cannot be read as HDF5" not in row["reason"]:
        assert row["reason"] == (
            f"{given / 'm.h5'}: a reader process hung on it for 5 s; the file is likely damaged. "
            "Make it again, or copy it again from where it is whole."
        )


def test_a_file_that_never_opens_is_a_row_and_the_import_goes_on(given, tmp_path):
    os.mkfifo(given / "m.h5")  # waits for somebody to write into it
    row = rows(given, tmp_path).loc["m"]
    assert row["status"] == "failed"
    assert "a reader process hung on it for 5 s; the file is likely damaged" in row["reason"]


_DIES = """
import ctypes, os
import storm_clinic.features.foreign_file as foreign_file
honest = foreign_file.{function}
def poisoned(path, *args, **options):
    if path.name == "m.h5":
        {death}
    return honest(path, *args, **options)
poisoned.__name__ = poisoned.__qualname__ = "{function}"
foreign_file.{function} = poisoned
"""


@pytest.mark.parametrize("function", ["describe_foreign", "read_foreign"])
@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os._exit(7)", "with status 7"),
        ("ctypes.string_at(0)", "by signal 11"),
        ("os.kill(os.getpid(), 9)", "by signal 9"),
    ],
)
def test_a_file_that_kills_its_reader_is_a_row_and_the_import_goes_on(
    given, tmp_path, sabotage, function, death, how
):
    sabotage(_DIES.format(function=function, death=death))
    write_file(given / "m.h5")
    row = rows(given, tmp_path).loc["m"]
    assert row["status"] == "failed"
    assert f"a reader process died on it, {how}; the file is likely damaged" in row["reason"]


def test_an_import_of_nothing_but_a_hanging_file_ends_with_its_reason(tmp_path):
    os.mkfifo(tmp_path / "m.h5")
    with pytest.raises(FeatureError, match=r"none of the 1 sources.*hung on it for 1 s"):
        import_slides([tmp_path / "m.h5"], tmp_path / "s" / "uni", DECLARED, limits=TimeLimits(1.0))


# ---- what comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "longdouble"])
def test_what_is_read_there_is_what_is_read_here(tmp_path, dtype):
    path = tmp_path / "a.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["features"] = rng.normal(size=(1, 9, 4)).astype(dtype)
        file["coords"] = rng.integers(0, 9000, (9, 2))
        file.attrs["extractor"] = "uni"
    with ForeignReading() as reading:
        assert reading.call(describe_foreign, path) == describe_foreign(path)
        found, expected = reading.call(read_foreign, path), read_foreign(path)
        one = reading.call(read_foreign, path, row=3)[0]
    for there, here in zip(found, expected, strict=True):
        assert (there.dtype, there.shape) == (here.dtype, here.shape)
        np.testing.assert_array_equal(there, here)
        there[0] = 0  # as one may with an array of one's own
    np.testing.assert_array_equal(one, expected[0][[3]])


VALUES = [
    np.empty((0, 5), np.float32),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(12).reshape(3, 4)[:, ::2],
    np.array(["a", "bc"], object),
    np.array(["a", "bc"]),
]


@pytest.mark.parametrize("value", VALUES)
def test_arrays_of_every_form_cross_whole(tmp_path, value):
    with ForeignReading() as reading:
        found = reading.call(hand_back, tmp_path, value=value)
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(found, value)


def test_a_matrix_without_counts_crosses_whole(tmp_path):
    with ForeignReading() as reading:
        found = reading.call(hand_back, tmp_path, value=sparse.csr_array((3, 4)))
    assert (found.shape, found.nnz) == ((3, 4), 0)


def test_an_error_that_is_raised_there_is_raised_here(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("no")
    with pytest.raises(FeatureError) as here:
        describe_foreign(path)
    with ForeignReading() as reading, pytest.raises(FeatureError) as there:
        reading.call(describe_foreign, path)
    assert type(there.value) is type(here.value)
    assert str(there.value) == str(here.value)


def test_an_error_that_nobody_foresaw_is_one_of_ours_and_its_traceback_is_printed(tmp_path, capfd):
    with ForeignReading(error=SectionError) as reading:
        with pytest.raises(SectionError, match=r"a\.h5: unexpected ZeroDivisionError: "):
            reading.call(divide, tmp_path / "a.h5")
        assert len(reading.call(zeros, tmp_path, n=3)) == 3
    assert "in divide" in capfd.readouterr().err


# ---- processes and memory ----------------------------------------------------------------------


def killed_when(path: Path, process: subprocess.Popen) -> threading.Thread:
    """A thread that kills a process as soon as a file is there."""

    def wait_and_kill() -> None:
        while not path.exists():
            time.sleep(0.01)
        process.kill()

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_a_process_killed_amid_a_file_costs_that_file_and_is_replaced(tmp_path):
    with ForeignReading() as reading:
        reading.call(zeros, tmp_path, n=1)
        thread = killed_when(tmp_path / "began", reading._child.process)
        with pytest.raises(FeatureError, match="began: a reader process died on it, by signal 9"):
            reading.call(sleep, tmp_path / "began")
        thread.join()
        assert len(reading.call(zeros, tmp_path, n=3)) == 3


def test_a_process_killed_while_it_has_nothing_to_do_costs_nothing(tmp_path):
    with ForeignReading() as reading:
        reading.call(zeros, tmp_path, n=1)
        victim = reading._child.process
        victim.kill()
        victim.wait()
        assert len(reading.call(zeros, tmp_path, n=3)) == 3


def test_a_process_that_hangs_is_ended(tmp_path):
    with ForeignReading(TimeLimits(task_s=0.5)) as reading:
        reading.call(zeros, tmp_path, n=1)
        process = reading._child.process
        with pytest.raises(FeatureError, match=r"hung on it for 0\.5 s"):
            reading.call(sleep, tmp_path / "began")
        assert process.poll() is not None


def test_one_may_wait_without_end(tmp_path):
    with ForeignReading(TimeLimits(task_s=float("inf"))) as reading:
        assert len(reading.call(zeros, tmp_path, n=3)) == 3


def test_a_process_that_cannot_start_is_not_the_files_fault(tmp_path, sabotage, capfd):
    sabotage("raise SystemExit('planted failure')")
    with (
        ForeignReading() as reading,
        pytest.raises(StormClinicError, match="cannot start; it ended with status 1") as found,
    ):
        reading.call(zeros, tmp_path, n=1)
    assert not isinstance(found.value, FeatureError)
    assert "planted failure" in capfd.readouterr().err


def test_leaving_gives_process_and_memory_back(tmp_path):
    before = sorted(Path("/proc/self/fd").iterdir())
    with ForeignReading(TimeLimits(task_s=0.5)) as reading:
        array = reading.call(zeros, tmp_path, n=1 << 20)
        assert os.fstat(reading._memory).st_size == 0  # what is read is held once
        process = reading._child.process
        with pytest.raises(FeatureError):
            reading.call(sleep, tmp_path / "began")
        reading.call(zeros, tmp_path, n=1)
        process = reading._child.process
    assert process.poll() is not None
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert not array.any()


def test_no_process_is_started_before_there_is_a_file():
    with ForeignReading() as reading:
        assert reading._child is None


def cpu_s(process: int) -> float | None:
    """Seconds of CPU that a process took; None if it is gone, or dead and not yet waited for."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[11]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel must end it")
def test_a_process_in_an_endless_loop_ends_when_its_parent_is_killed(tmp_path):
    path = write_file(tmp_path / "m.h5", encoder="uni")
    make_heap_loop(path, "uni")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from storm_clinic.features.foreign_file import describe_foreign\n"
        "from storm_clinic.features.foreign_reading import ForeignReading\n"
        "with ForeignReading() as reading:\n"
        "    print(reading._running().process.pid, flush=True)\n"
        "    reading.call(describe_foreign, Path(sys.argv[1]))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    with parent:
        child = int(parent.stdout.readline())
        while (spent := cpu_s(child)) is not None and spent < 2.0:
            time.sleep(0.05)
        if spent is None:
            pytest.skip("this libhdf5 does not follow the heap")
        parent.kill()
    deadline = time.monotonic() + 60
    while cpu_s(child) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cpu_s(child) is None
