"""HDF5 whose heap leads nowhere, as eight blanked bytes of somebody else's file may make it."""

from __future__ import annotations

from pathlib import Path

# A collection's header, and its only object: index, references, a gap, the length and its text.
_HEADER, _OBJECT = 16, 16


def make_heap_loop(path: Path, text: str) -> None:
    """Damage a file whose first heap holds one text of variable length, this one.

    What follows the text is the object of free space, index 0, which reaches to the heap's end.
    Of length 0 it reaches to itself; libhdf5 2.0 goes from it to itself for ever.
    """
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    first = heap + _HEADER + _OBJECT
    assert data[first : first + len(text)] == text.encode()
    free = first + -(-len(text) // 8) * 8
    assert int.from_bytes(data[free : free + 2], "little") == 0
    data[free + 8 : free + 16] = bytes(8)
    path.write_bytes(data)
