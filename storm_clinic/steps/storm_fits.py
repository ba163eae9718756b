"""Fits on left-out sections: which are asked for, which are kept from before, and making the rest.

A fit is kept by the process that made it, as soon as it is done: an interruption costs no more than
the fits that are being made at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import joblib
import torch

from storm_clinic.files import Workspace, digest_value
from storm_clinic.progress import Progress
from storm_clinic.steps.storm_folds import PairedData
from storm_clinic.steps.storm_starts import Start
from storm_clinic.storm.evaluate import Recipe, Seen, hold_out
from storm_clinic.storm.evaluation_file import EvaluationFile
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.kept_fits import KeptFits, network_key, of_genes, rival_key
from storm_clinic.storm.rivals import RivalView, hold_out_rival
from storm_clinic.storm.section_digest import section_digest
from storm_clinic.storm.variable_genes import most_variable_genes

_FITTING = "leave out and impute"


@dataclass(frozen=True, eq=False)
class NetworkWork:
    """Teach a network without some sections, and impute all genes it knows on them.

    Attributes
    ----------
    key : str
        From `network_key`.
    genes : tuple of str
        Those that are looked at.
    start : Start or None
        The checkpoint that it starts from.
    """

    key: str
    seen: list[Seen]
    left_out: tuple[str, ...]
    recipe: Recipe
    seed: int
    pitch_um: float
    genes: tuple[str, ...]
    start: Start | None

    @property
    def row(self) -> str:
        """What its row of the table is called."""
        return self.recipe.name

    def run(self) -> list[HeldOut]:
        """What was imputed."""
        return hold_out(
            self.seen,
            self.left_out,
            self.recipe,
            seed=self.seed,
            n_genes=self.recipe.n_genes,
            pitch_um=self.pitch_um,
            start=None if self.start is None else self.start.load(),
        )


@dataclass(frozen=True, eq=False)
class RivalWork:
    """Fit a rival without some sections, and let it answer for them; see `NetworkWork`."""

    key: str
    views: list[RivalView]
    left_out: tuple[str, ...]
    row: str
    genes: tuple[str, ...]

    def run(self) -> list[HeldOut]:
        """What was imputed."""
        return hold_out_rival(self.row, self.views, self.left_out, n_genes=len(self.genes))


Work = NetworkWork | RivalWork


def kept_fits(workspace: Workspace) -> KeptFits:
    """Where a workspace's fits are kept: evaluations and fine-tunings share them."""
    # Absolute: processes that are used again may stand in another folder.
    return KeptFits((workspace.root / "storm" / "fits").absolute())


def network_work(
    asked: EvaluationFile,
    data: PairedData,
    recipes: Sequence[Recipe],
    groups: Sequence[tuple[str, ...]],
    n_genes: int,
    starts: Mapping[str, Start],
) -> list[Work]:
    """Each recipe by each seed on each fold.

    Parameters
    ----------
    asked : EvaluationFile
        Its seeds.
    data : PairedData
        Of its sections.
    recipes : sequence of Recipe
        Networks.
    groups : sequence of tuple of str
        From `evaluate.folds`.
    n_genes : int
        How many of the training sections' most variable genes are looked at.
    starts : mapping of str to Start
        By what a recipe's ``start`` says.
    """
    digests = {
        looks: [section_digest(one.section, {"image": one.shown(looks)}) for one in data.seen]
        for looks in {recipe.looks for recipe in recipes}
    }
    genes = {group: _genes(data, group, n_genes) for group in groups}
    work: list[Work] = []
    for recipe in recipes:
        start = None if recipe.start is None else starts[recipe.start]
        for seed in asked.seeds:
            for group in groups:
                key = network_key(
                    digests[recipe.looks],
                    _is_left_out(data, group),
                    recipe,
                    seed=seed,
                    pitch_um=data.pitch_um,
                    start=None if start is None else start.digest,
                )
                work.append(
                    NetworkWork(
                        key, data.seen, group, recipe, seed, data.pitch_um, genes[group], start
                    )
                )
    return work


def rival_work(
    asked: EvaluationFile, data: PairedData, groups: Sequence[tuple[str, ...]]
) -> list[Work]:
    """Each rival of a YAML on each fold."""
    if not asked.baselines:
        return []
    digests = [
        digest_value(
            [
                section_digest(view.lattice, {"image": view.image, "wide": view.wide}),
                section_digest(view.section, {}),
                view.group,
            ]
        )
        for view in data.views
    ]
    genes = {group: _genes(data, group, asked.top_genes) for group in groups}
    return [
        RivalWork(
            rival_key(digests, _is_left_out(data, group), name, n_genes=len(genes[group])),
            data.views,
            group,
            name,
            genes[group],
        )
        for name in asked.baselines
        for group in groups
    ]


def _is_left_out(data: PairedData, group: tuple[str, ...]) -> list[bool]:
    return [section.name in group for section in data.measured]


def _genes(data: PairedData, group: tuple[str, ...], n_genes: int) -> tuple[str, ...]:
    """The most variable genes of all sections outside a fold."""
    training = (section for section in data.measured if section.name not in group)
    return most_variable_genes(training, n_genes).symbols


@dataclass(frozen=True, eq=False)
class Fits:
    """What was imputed, in the order of the work; how many fits were kept, and how many are new."""

    found: list[HeldOut]
    n_kept: int
    n_new: int


def done_or_kept(work: Sequence[Work], fits: KeptFits, jobs: int, progress: Progress) -> Fits:
    """Read what is kept and do the rest; results do not depend on how many of which there are.

    Parameters
    ----------
    work : sequence of Work
        All that is asked for. The same fit may be asked for twice, at the same genes.
    fits : KeptFits
        Where fits are found and put.
    jobs : int
        Processes.
    progress : callable
        See `Progress`; what is kept counts as done.

    Raises
    ------
    TrainingError
        As a fit, or if a kept one is damaged.
    """
    kept: dict[str, list[HeldOut]] = {}
    new: dict[str, Work] = {}
    for one in work:
        if one.key not in kept and one.key not in new:
            found = fits.read(one.key)
            if found is None:
                new[one.key] = one
            else:
                kept[one.key] = of_genes(found, one.genes)
    n_kept, n_new = len(kept), len(new)
    if n_kept:
        progress(_FITTING, n_kept, n_kept + n_new)
    if new:
        pool = joblib.Parallel(n_jobs=min(jobs, n_new), return_as="generator")
        run: Callable[[Any, KeptFits], Any] = joblib.delayed(_run)
        made = pool(run(one, fits) for one in new.values())
        for done, (key, found) in enumerate(zip(new, made, strict=True), n_kept + 1):
            kept[key] = found
            progress(_FITTING, done, n_kept + n_new)
    results = [replace(part, recipe=one.row) for one in work for part in kept[one.key]]
    return Fits(results, n_kept, n_new)


def _run(work: Work, fits: KeptFits) -> list[HeldOut]:
    with one_thread():
        found = work.run()
    fits.keep(work.key, found)
    return of_genes(found, work.genes)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: sums then do not depend on how many the machine has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
