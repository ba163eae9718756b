"""Which files under some folders are slides."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storm_clinic.errors import InputError

# What OpenSlide reads as one file. A DICOM slide is many files: name one of them.
_SLIDES = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi", ".zvi"}
)
_IMAGES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg"})
# A Hamamatsu VMS or VMU slide keeps its pixels in JPEG files beside it.
_WITH_IMAGES_BESIDE = frozenset({".vms", ".vmu"})


@dataclass(frozen=True)
class FoundSlides:
    """What a search found.

    Attributes
    ----------
    paths : tuple of Path
        Slides, sorted, each once.
    ignored : mapping of str to int
        Other files in the folders that were searched: their suffix, and how many.
    """

    paths: tuple[Path, ...]
    ignored: Mapping[str, int]


def find_slides(sources: Iterable[str | Path]) -> FoundSlides:
    """Find slides: files as they are named, and folders searched with all folders below.

    A file that is named is taken whatever its suffix; within folders the suffix decides, and names
    that begin with a dot are left out.

    Raises
    ------
    InputError
        If a source does not exist, or no slide is found.
    """
    found: dict[Path, Path] = {}
    ignored: Counter[str] = Counter()
    named = [Path(source).expanduser() for source in sources]
    for source in named:
        if not source.exists():
            raise InputError("there is no such file or folder", where=source)
        for path in _search(source, ignored) if source.is_dir() else [source]:
            found.setdefault(path.resolve(), path)
    if not found:
        raise InputError(
            "no slide found (looked for " + ", ".join(sorted(_SLIDES | _IMAGES)) + ")",
            where=", ".join(map(str, named)),
        )
    return FoundSlides(tuple(sorted(found.values())), dict(sorted(ignored.items())))


def _search(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    seen: set[Path] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root)
        # A link may lead back up.
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        suffixes = {Path(name).suffix.lower() for name in names}
        wanted = _SLIDES if suffixes & _WITH_IMAGES_BESIDE else _SLIDES | _IMAGES
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if suffix in wanted and not name.startswith("."):
                yield here / name
            else:
                ignored[suffix or "(no suffix)"] += 1
