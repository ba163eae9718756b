"""One process, or several that ``torchrun`` started on the same training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor, distributed

from storm_clinic.encoders.hub import choose_device

# The others wait for the first while it embeds all sections, which may take it a day.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Processes:
    """One process among those that train together.

    Attributes
    ----------
    rank, size : int
        Its number, and how many there are.
    device : torch.device
        Its own.
    patient : group of torch.distributed, optional
        In which they wait for one another.
    """

    rank: int
    size: int
    device: torch.device
    patient: distributed.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, on each of them."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Go on when all have come this far."""
        if self.size > 1:
            distributed.barrier(group=self.patient)


@contextmanager
def joined_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone where it did not start this one.

    On GPUs each process takes the one of its local rank and they talk through NCCL, else through
    gloo. A group that exists already is used and left standing.

    Parameters
    ----------
    device : str
        As for `storm_clinic.encoders.hub.load_encoder`.
    """
    chosen = choose_device(device)
    if not distributed.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        # For waiting alone: a process that hangs while all train is still missed in minutes.
        patient = cast(
            "distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=_PATIENCE)
        )
        size = distributed.get_world_size()
        yield Processes(distributed.get_rank(), size, chosen, patient)
    finally:
        if own:
            distributed.destroy_process_group()
