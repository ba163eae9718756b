"""Pretrain on shards in one process, or started by torchrun in two, and compare the weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from planted_sections import network
from safetensors.torch import load_file, save_file
from tiny_vit import tiny_vit

from storm_clinic.storm.image_encoder import load_trainable
from storm_clinic.storm.optimisation import Optimisation
from storm_clinic.storm.pretrain import PretrainPlan, pretrain
from storm_clinic.storm.processes import joined_processes
from storm_clinic.storm.shards import read_shards

PLAN = PretrainPlan(
    optimisation=Optimisation(learning_rate=0.01, n_steps=6, warm_up=2, accumulate=2, ema=0.5),
    batch=12,
    log_every=3,
)


def weights(folder: Path, vit: Path | None = None) -> dict[str, torch.Tensor]:
    """Of this process, after training together with the others, and the curve's last loss.

    With the weights of a tiny vision transformer that is trained too.
    """
    shards, encoder = read_shards(folder), None
    if vit is not None:
        encoder = load_trainable(tiny_vit(), weights=vit, tiles_at_once=16)
    config = network(image_width=shards.image_width)
    with joined_processes("cpu") as processes:
        made = pretrain(config, shards, PLAN, processes, encoder=encoder)
    loss = torch.tensor([point["loss"] for point in made.history])
    found = {"size": torch.tensor(processes.size), "curve": loss, **made.model.state_dict()}
    if encoder is not None:
        found |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    return found


def compare_two_with_one(shards: Path, scratch: Path, vit: Path | None = None) -> None:
    """Assert that two processes, gradients exchanged by gloo, learn what one does."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    files = [__file__, shards, scratch, *([] if vit is None else [vit])]
    subprocess.run(
        [sys.executable, *torchrun, *map(str, files)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
        capture_output=True,
    )
    alone = weights(shards, vit)
    first, second = (load_file(scratch / f"rank{rank}.safetensors") for rank in range(2))
    assert (alone.pop("size"), first.pop("size"), second.pop("size")) == (1, 2, 2)
    assert set(alone) == set(first) == set(second)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        found = first[name]
        if name.endswith(("query_key_value.bias", "qkv.bias")):
            # Softmax ignores the bias of keys: its gradient is rounding, which Adam scales to 1.
            (query, _, value), (q, _, v) = expected.chunk(3), found.chunk(3)
            expected, found = torch.cat([query, value]), torch.cat([q, v])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-6, msg=name)


if __name__ == "__main__":
    shards_folder, out, *vit_file = map(Path, sys.argv[1:])
    found = weights(shards_folder, *vit_file)
    save_file(found, out / f"rank{os.environ['RANK']}.safetensors")
