"""Atomic writes, safe names, digests, and the workspace that every relative path starts from."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm_clinic.errors import StorageError, UnsafeName

if TYPE_CHECKING:
    import pandas as pd

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+ -]*")
_MAX_NAME = 180  # leaves room for ".h5.<owner>.part" under the 255 bytes of common file systems
_PART = re.compile(r".+\.(?P<owner>[A-Za-z0-9]+)-(?P<process>\d{1,9})\.part")
_ERRNO = re.compile(r"\berrno = (\d{1,4})\b")
_ABANDONED_S = 24 * 3600.0


def _owner() -> str:
    """Name of the machine and of the set of its process ids: containers may have one name."""
    host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32]
    numbering = Path("/proc/self/ns/pid")
    return f"{host}n{numbering.stat().st_ino}" if numbering.exists() else host


_OWNER = _owner()


def safe_name(name: str, *, what: str = "name") -> str:
    """Return ``name`` unchanged if it may become a file name, else refuse it.

    Allowed are ASCII letters, digits, and ``. _ @ + -`` and inner spaces, starting with a letter
    or digit, at most 180 characters: nothing that could leave its folder, hide or be re-encoded.

    Raises
    ------
    UnsafeName
        If it is anything else; the message quotes the name.
    """
    if (
        not isinstance(name, str)
        or len(name) > _MAX_NAME
        or not _SAFE_NAME.fullmatch(name)
        or name.endswith((" ", "."))
    ):
        raise UnsafeName(
            f"{name!r} cannot become a file name",
            where=what,
            fix="Use letters, digits, '.', '_', '-', at most 180, starting with a letter or digit.",
        )
    return name


_FREE_SOME = "Free some space and run the same again."
_ASK = "Check the disk or the network it is reached by, and run the same again."
_STORAGE_PROBLEMS = {
    errno.ENOSPC: ("the disk is full", _FREE_SOME),
    errno.EDQUOT: ("the disk is full", _FREE_SOME),
    errno.EFBIG: ("the file is larger than the system allows", "Raise the limit (ulimit -f)."),
    errno.EACCES: ("this place may not be written to", "Check its permissions."),
    errno.EPERM: ("this place may not be written to", "Check its permissions."),
    errno.EROFS: ("this place may not be written to", "Check its permissions."),
    errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n), or use fewer readers."),
    errno.ENFILE: ("too many files are open", "Raise the limit of the system."),
    errno.EIO: ("the disk fails", _ASK),
    errno.ESTALE: ("the disk is gone", _ASK),
    errno.ENOTCONN: ("the disk is gone", _ASK),
    errno.ETIMEDOUT: ("the disk does not answer", _ASK),
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of storage while ``path`` is written into a `StorageError`.

    A full or failing disk, a missing permission, too many open files; other faults are let pass.
    """
    try:
        yield
    except OSError as error:
        known = _STORAGE_PROBLEMS.get(_number_of(error))
        if known is None:
            raise
        raise StorageError(known[0], where=path, fix=known[1]) from error


def _number_of(error: OSError) -> int:
    """The system's error number; h5py raises a plain OSError that only says it, or its message."""
    if error.errno is not None:
        return error.errno
    said = str(error)
    found = _ERRNO.search(said)
    if found:
        return int(found[1])
    return next((number for number in _STORAGE_PROBLEMS if os.strerror(number) in said), 0)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a ``.part`` path beside ``path``; on leaving well, fsync it and rename it into place.

    Readers see the old file or the whole new one, never a part. The name of the part holds machine
    and process id, so that two writers of one file do not meet; the later rename wins. No locks
    are needed, which shared file systems may lack.

    Raises
    ------
    StorageError
        If the disk is full or the folder may not be written.
    """
    part = part_of(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("rb+") as handle:
                os.fsync(handle.fileno())
            part.replace(path)
            _fsync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Where this process writes a file before it is renamed to ``path``."""
    return path.with_name(f"{path.name}.{_OWNER}-{os.getpid()}.part")


def remove_dead_parts(path: Path) -> None:
    """Remove what killed processes left half written of a file; see `sweep_dead_parts`."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*-*.part"):
        if _is_dead(part):
            part.unlink(missing_ok=True)


def sweep_dead_parts(folder: Path) -> None:
    """Remove what killed processes left half written in a folder, if there is such a folder.

    Whether a process of another machine lives cannot be seen from here; of those, parts that
    nobody has touched for a day are removed.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        parts = [Path(entry.path) for entry in entries if entry.name.endswith(".part")]
    for part in parts:
        if _is_dead(part):
            part.unlink(missing_ok=True)


def _is_dead(part: Path) -> bool:
    """Whether nobody writes this part any more; False of a name that is not `part_of`'s."""
    found = _PART.fullmatch(part.name)
    if found is None:
        return False
    if found["owner"] == _OWNER:
        return not _is_running(int(found["process"]))
    try:
        return time.time() - part.stat().st_mtime > _ABANDONED_S
    except FileNotFoundError:
        return False  # it has just been renamed into place


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's, but alive
    return not _has_ended(process_id)


def _has_ended(process_id: int) -> bool:
    """Whether a process that still has its number only waits for its parent to ask how it ended.

    Of a killed run nobody may ask for a while, and in some containers nobody ever does.
    """
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False  # gone in between, or a system that does not say so
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create_once(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and never replaces one."""
    part = part_of(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            # Unlike a rename, a link fails where the name is taken.
            os.link(part, path)
        except FileExistsError:
            pass  # another process was first; the caller compares
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """What `json_text` gave; NaN, infinity and numbers beyond float64 are no JSON.

    Raises
    ------
    ValueError
        If it is no JSON, no UTF-8, or nested too deeply to be any of ours.
    """
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def harmless_cell(cell: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises.

    Numbers are numbers and stay as they are.
    """
    if not isinstance(cell, str):
        return cell
    # CSV writers quote a line feed but not a bare carriage return, which would start a new row.
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def csv_text(table: pd.DataFrame) -> str:
    """A table for people as CSV, without its index, in which no cell can run as a formula."""
    made = table.rename(columns=harmless_cell)
    texts = [at for at, kind in enumerate(made.dtypes) if kind.kind not in "iufbM"]
    for at in texts:
        made.isetitem(at, list(map(harmless_cell, made.iloc[:, at])))
    return str(made.to_csv(index=False, lineterminator="\n"))


def json_text(value: Any) -> str:
    """JSON with keys sorted and two spaces, so that equal values are equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `json_text` atomically."""
    write_text(path, json_text(value))


def digest_bytes(data: bytes) -> str:
    """SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in chunks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_value(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_bytes(text.encode("utf-8"))


def digest_folder(folder: Path) -> dict[str, str]:
    """Digest of every file under a folder, by its relative POSIX path, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


@dataclass(frozen=True)
class Workspace:
    """The folder that holds ``cohorts/ pipelines/ features/ mlruns/ reports/``."""

    root: Path = Path()

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))  # text is what people write

    @property
    def cohorts(self) -> Path:
        return self.root / "cohorts"

    @property
    def pipelines(self) -> Path:
        return self.root / "pipelines"

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def mlruns(self) -> Path:
        return self.root / "mlruns"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def path(self, path: str | Path) -> Path:
        """A path as given if absolute, else under the workspace."""
        return self.root / Path(path).expanduser()

    def store(self, cohort: str, encoder: str) -> Path:
        """Folder of one cohort's feature files from one encoder or checkpoint."""
        return self.features / safe_name(cohort, what="cohort") / safe_name(encoder, what="encoder")
