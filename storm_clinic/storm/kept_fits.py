"""What fits said of left-out sections, kept on disk and found again by all that it depends on.

A file is one fit: a network or a rival, taught without some sections, and what it imputed on them.
It is safetensors with JSON in its header, so that reading it runs no code. Its name is a digest of
everything that decides its content; whatever changes leads to another name, and to a new fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from storm_clinic.errors import TrainingError
from storm_clinic.files import atomic_write, digest_value, parse_json, remove_dead_parts
from storm_clinic.provenance import package_versions
from storm_clinic.storm.evaluate import Recipe
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.section_digest import arrays_digest

# Raise it with every change of code after which a fit gives other numbers (a test says when):
# what was kept before is then never taken for what the code would give today.
FITS_VERSION = 1
FORMAT, FORMAT_VERSION = "storm_clinic/storm-fit", 1
_HEADER = "storm_clinic"
_DECISIVE_PACKAGES = ("torch", "numpy", "scipy")


def network_key(
    sections: Sequence[str],
    is_left_out: Sequence[bool],
    recipe: Recipe,
    *,
    seed: int,
    pitch_um: float,
    start: str | None,
) -> str:
    """Digest of all that decides what a network imputes.

    Parameters
    ----------
    sections : sequence of str
        `section_digest` of each section, with the embeddings that the recipe sees, in order.
    is_left_out : sequence of bool
        Of each section.
    recipe : Recipe
        Its name, and the seed in its plan, which is replaced, are of no account.
    seed, pitch_um
        See `evaluate.taught_network`.
    start : str or None
        Digest of the checkpoint that teaching starts from.
    """
    settings = asdict(recipe)
    for name in ("name", "start"):
        del settings[name]
    del settings["finetune"]["seed"]
    return _key("network", sections, is_left_out, [settings, seed, pitch_um, start])


def rival_key(
    sections: Sequence[str], is_left_out: Sequence[bool], name: str, *, n_genes: int
) -> str:
    """Digest of all that decides what a rival imputes; see `network_key` and `hold_out_rival`."""
    return _key("rival", sections, is_left_out, [name, n_genes])


def _key(kind: str, sections: Sequence[str], is_left_out: Sequence[bool], others: Any) -> str:
    made_by = [FITS_VERSION, package_versions(_DECISIVE_PACKAGES)]
    folds = [list(sections), [bool(out) for out in is_left_out]]
    return digest_value([kind, made_by, folds, others])


@dataclass(frozen=True)
class KeptFits:
    """A folder of fits, one file each; any of them may be removed at any time.

    Attributes
    ----------
    folder : Path
        Made when the first is kept.
    """

    folder: Path

    def path(self, key: str) -> Path:
        """Where the fit of this key is, or would be."""
        return self.folder / f"{key[:40]}.safetensors"

    def keep(self, key: str, found: Sequence[HeldOut]) -> None:
        """Write what one fit said of each of its left-out sections, atomically.

        Raises
        ------
        StorageError
            If the disk is full or the folder may not be written.
        """
        arrays = {
            # safetensors writes memory as it lies, and reads it as if rows stood together.
            f"{place}.{name}": np.ascontiguousarray(array)
            for place, one in enumerate(found)
            for name, array in (("measured", one.measured), ("imputed", one.imputed))
        }
        sections = [
            {
                "section": one.section,
                "patient": one.patient,
                "seed": one.seed,
                "genes": list(one.genes),
            }
            for one in found
        ]
        facts = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "key": key,
            "sections": sections,
            "digest": digest_value([sections, arrays_digest(arrays)]),
        }
        path = self.path(key)
        remove_dead_parts(path)
        with atomic_write(path) as part:
            part.write_bytes(save(arrays, {_HEADER: json.dumps(facts, allow_nan=False)}))

    def read(self, key: str) -> list[HeldOut] | None:
        """What the fit of this key said, or None where it is not there.

        Parameters
        ----------
        key : str
            From `network_key` or `rival_key`.

        Returns
        -------
        list of HeldOut or None
            Its ``recipe`` is the key: what a row is called decides nothing.

        Raises
        ------
        TrainingError
            If the file is damaged, of another version, or another fit's.
        """
        path = self.path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, "np") as file:
                facts = parse_json(file.metadata()[_HEADER])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stated = (facts["format"], facts["format_version"], facts["key"])
            found = [
                HeldOut(
                    key,
                    one["section"],
                    one["patient"],
                    one["seed"],
                    tuple(one["genes"]),
                    arrays[f"{place}.measured"],
                    arrays[f"{place}.imputed"],
                )
                for place, one in enumerate(facts["sections"])
            ]
            digest, own = facts["digest"], digest_value([facts["sections"], arrays_digest(arrays)])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"is no kept fit: {error!r}", where=path, fix=_ANEW) from error
        if stated != (FORMAT, FORMAT_VERSION, key):
            raise TrainingError("is the file of another fit or version", where=path, fix=_ANEW)
        if own != digest:
            raise TrainingError("was changed after it was written", where=path, fix=_ANEW)
        return found


_ANEW = "Remove this file and run the same again: this one fit is then made anew."


def of_genes(found: Sequence[HeldOut], genes: tuple[str, ...]) -> list[HeldOut]:
    """The same fit seen at some of its genes only, in the order given."""
    narrowed = []
    for one in found:
        columns = [one.genes.index(gene) for gene in genes]
        # One layout in memory, wherever it comes from: sums over it are then the same to the bit.
        measured, imputed = (
            np.ascontiguousarray(array[:, columns]) for array in (one.measured, one.imputed)
        )
        narrowed.append(replace(one, genes=genes, measured=measured, imputed=imputed))
    return narrowed
