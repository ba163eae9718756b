"""What a section and arrays of it are, as one digest: equal ones were the very same data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.files import digest_value
from storm_clinic.storm.paired import PairedSection


def section_digest(section: PairedSection, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over all that a network or a rival can read of a section.

    The picture itself is not read: what was made of it is in ``arrays``, and with it the encoder,
    the side of its tiles and the points at which it looked.

    Parameters
    ----------
    section : PairedSection
        Its name, patient, places, symbols and counts count; where its image lies does not.
    arrays : mapping of name to array
        Such as embeddings of its points.
    """
    counts = section.counts
    own = {
        "centres_um": section.centres_um.astype("<f8"),
        "counts.values": counts.data.astype("<i8"),
        "counts.columns": counts.indices.astype("<i8"),
        "counts.starts": counts.indptr.astype("<i8"),
    }
    facts = [section.name, section.patient, section.grid, section.pitch_um]
    lists = [list(section.symbols), list(section.spots)]
    return digest_value([facts, lists, arrays_digest(own), arrays_digest(arrays)])


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, types, shapes and bytes of arrays, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
