"""Whether a slide's file is the one that was meant, to the last byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

from storm_clinic.errors import SlideError

# By how many hexadecimal digits a checksum has: archives of slides publish MD5 (the GDC among
# them), and nobody forges a slide to be taken for another; what is meant here is damage.
ALGORITHMS = {32: "md5", 64: "sha256"}


def require_checksum(path: Path, stated: str) -> None:
    """Read a whole file and hold it against what a table says.

    Parameters
    ----------
    path : Path
        The slide's file.
    stated : str
        32 hexadecimal digits of an MD5, or 64 of a SHA-256, in either case of letters.

    Raises
    ------
    SlideError
        If the file has another checksum, or cannot be read.
    """
    algorithm = ALGORITHMS[len(stated)]
    try:
        with path.open("rb") as handle:
            digest = hashlib.file_digest(
                handle, lambda: hashlib.new(algorithm, usedforsecurity=False)
            )
    except OSError as error:
        raise SlideError(f"cannot be read: {error.strerror or error}", where=path) from error
    if digest.hexdigest() != stated.lower():
        raise SlideError(
            f"its {algorithm.upper()} is {digest.hexdigest()}, the slides table says "
            f"{stated.lower()}: the file is damaged, or another one",
            where=path,
            fix="Copy the slide again from where it came from, or correct the table.",
        )
