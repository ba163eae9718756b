"""Started by torchrun: pretrain on shards, and write the weights from the first process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from planted_sections import network
from safetensors.torch import save_file

from storm_clinic.storm.optimisation import Optimisation
from storm_clinic.storm.pretrain import PretrainPlan, pretrain
from storm_clinic.storm.processes import joined_processes
from storm_clinic.storm.shards import read_shards

PLAN = PretrainPlan(
    optimisation=Optimisation(learning_rate=0.01, n_steps=6, warm_up=2, accumulate=2, ema=0.5),
    batch=12,
    log_every=3,
)


def weights(shards: Path) -> dict[str, torch.Tensor]:
    """Of this process, after training together with the others, and the curve's last loss."""
    with joined_processes("cpu") as processes:
        made = pretrain(network(), read_shards(shards), PLAN, processes)
    loss = torch.tensor([point["loss"] for point in made.history])
    return {"size": torch.tensor(processes.size), "curve": loss, **made.model.state_dict()}


if __name__ == "__main__":
    shards_folder, out = map(Path, sys.argv[1:])
    save_file(weights(shards_folder), out / f"rank{os.environ['RANK']}.safetensors")
