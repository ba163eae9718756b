"""How long is one epoch of gated-attention training on ragged bags, beside CLAM's and torchmil's?

    python benchmarks/mil_training.py [--bags 20] [--repetitions 3] [--no-warm-up]

Bags are random, 1536 numbers a tile, their sizes log-normal around 2,000 tiles. All three train the
same function (1536 → 512, gated attention of 256, two classes) from the same weights: the loss of
the whole cohort at these weights is printed for each. An epoch passes every bag forward and
backward once. The peers take an optimiser step a bag (CLAM) or a batch (torchmil), we take one an
epoch, on the exact gradient of the cohort. One thread each.

CLAM (github.com/mahmoodlab/CLAM, master of 2024) is written here as its documented loop: one bag at
a time through CLAM_SB with ``size_arg="small"`` and without instance loss, Adam, a step a bag; its
default ``--drop_out`` is 0.25. torchmil is the installed package, with its ``collate_fn`` that pads
a batch to its longest bag: batches of four, as its README starts, and of sixteen. Peers hold their
bags in memory as float32; ours are read from a packed float16 array, as training does with a cohort
from the cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from attention_network import attention_network, image_cohort
from measuring import interleaved, section, table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmil.data import collate_fn
from torchmil.models import ABMIL

from storm_clinic.cohort.outcome import Classes
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.network import TileNetwork
from storm_clinic.heads.objectives import ClassObjective
from storm_clinic.heads.patient_batches import PatientBatches
from storm_clinic.heads.training import Schedule, train

WIDTH, HIDDEN, ATTENTION = 1536, 512, 256
SPREAD = 0.7  # standard deviation of the logarithm of a bag's size
RATE = 1e-4
PADDED_TOGETHER = (4, 16)  # torchmil's README begins with 4


class OneBag(nn.Module):
    """The layers of CLAM_SB, small, in its order."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.tile = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Dropout(dropout))
        drop = nn.Dropout(dropout)
        self.content = nn.Sequential(nn.Linear(HIDDEN, ATTENTION), nn.Tanh(), drop)
        self.gate = nn.Sequential(nn.Linear(HIDDEN, ATTENTION), nn.Sigmoid(), drop)
        self.score = nn.Linear(ATTENTION, 1)
        self.classifier = nn.Linear(HIDDEN, 2)

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits of one bag, (1, 2)."""
        hidden = self.tile(tiles)
        scores = self.score(self.content(hidden) * self.gate(hidden))
        logits: Tensor = self.classifier(torch.softmax(scores.T, dim=1) @ hidden)
        return logits


def clam(start: OneBag, bags: list[Tensor], labels: Tensor, dropout: float) -> Callable[[], None]:
    """An epoch of CLAM's loop."""
    model = OneBag(dropout)
    model.load_state_dict(start.state_dict())
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=1e-5)
    order = torch.Generator().manual_seed(0)

    def epoch() -> None:
        for at in torch.randperm(len(bags), generator=order).tolist():
            loss = nn.functional.cross_entropy(model(bags[at]), labels[at : at + 1])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return epoch


def torchmil_model(start: OneBag) -> ABMIL:
    """torchmil's ABMIL with the same weights; its one logit is the difference of the two."""
    features = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU())
    model = ABMIL(in_shape=(WIDTH,), att_dim=ATTENTION, gated=True, feat_ext=features)
    with torch.no_grad():
        for mine, theirs in (
            (features[0], start.tile[0]),
            (model.pool.fc1.module, start.content[0]),
            (model.pool.fc_gated.module, start.gate[0]),
        ):
            mine.load_state_dict(theirs.state_dict())
        model.pool.fc2.weight.copy_(start.score.weight)
        model.classifier.module.weight.copy_(start.classifier.weight.diff(dim=0))
        model.classifier.module.bias.copy_(start.classifier.bias.diff(dim=0))
    return model


def torchmil(
    model: ABMIL, bags: list[Tensor], labels: Tensor, batch_size: int
) -> Callable[[], None]:
    """An epoch over torchmil's padded batches."""
    items = [{"X": bag, "Y": label} for bag, label in zip(bags, labels, strict=True)]
    loader = DataLoader(items, batch_size=batch_size, shuffle=True, collate_fn=collate_fn)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)

    def epoch() -> None:
        for batch in loader:
            _, losses = model.compute_loss(batch["Y"], batch["X"], batch["mask"])
            optimiser.zero_grad()
            sum(losses.values()).backward()
            optimiser.step()

    return epoch


def network_like(start: OneBag) -> TileNetwork:
    """Our network with the same weights."""
    network = attention_network(WIDTH, HIDDEN, ATTENTION, n_branches=2)
    both = [start.content[0], start.gate[0]]
    weights = {
        "tile.image.weight": start.tile[0].weight,
        "tile.image.bias": start.tile[0].bias,
        "pooling.image.scores.content_and_gate.weight": torch.cat([part.weight for part in both]),
        "pooling.image.scores.content_and_gate.bias": torch.cat([part.bias for part in both]),
        "pooling.image.scores.score.weight": start.score.weight,
        "readouts.image.weight": start.classifier.weight.diff(dim=0),
        "bias": start.classifier.bias.diff(dim=0),
    }
    network.load_arrays(
        network.arrays() | {name: value.detach().numpy() for name, value in weights.items()}
    )
    return network


class Ours:
    """Our training, an epoch a call."""

    def __init__(self, start: OneBag, bags: Bags, outcome: Classes, **options: object) -> None:
        schedule = Schedule(learning_rate=RATE, weight_decay=1e-5, **options)
        batches = PatientBatches(image_cohort(bags), bfloat16=schedule.bfloat16)
        self._steps = train(network_like(start), batches, ClassObjective(outcome), schedule, seed=0)
        self.losses: list[float] = []

    def __call__(self) -> None:
        self.losses.append(next(self._steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bags", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--no-warm-up", action="store_true", help="for epochs of minutes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes = np.exp(np.log(2000) + SPREAD * rng.normal(size=asked.bags)).astype(np.int64)
    packed = rng.standard_normal((sizes.sum(), WIDTH), dtype=np.float32).astype(np.float16)
    labels = np.arange(asked.bags) % 2
    packed += (0.1 * np.repeat(labels, sizes))[:, None].astype(np.float16)
    bags = Bags.pack(packed, np.concatenate([[0], np.cumsum(sizes)]))
    tensors = [torch.from_numpy(bags.bag(at).astype(np.float32)) for at in range(len(bags))]
    targets, outcome = torch.from_numpy(labels), Classes(labels, ("no", "yes"))
    start = OneBag(0.0)
    padded = torchmil_model(start)
    with torch.no_grad():
        pairs = list(zip(tensors, targets, strict=True))
        at_start = {
            "CLAM": np.mean([nn.functional.cross_entropy(start(x), y[None]) for x, y in pairs]),
            "torchmil": np.mean(
                [float(sum(padded.compute_loss(y[None], x[None])[1].values())) for x, y in pairs]
            ),
        }
    exact = Ours(start, bags, outcome)
    rounded = Ours(start, bags, outcome, bfloat16=True)
    calls: dict[str, Callable[[], object]] = {
        "CLAM, dropout 0.25": clam(start, tensors, targets, 0.25),
        "CLAM, no dropout": clam(start, tensors, targets, 0.0),
        **{
            f"torchmil, {n} bags": torchmil(torchmil_model(start), tensors, targets, n)
            for n in PADDED_TOGETHER
        },
        "ours, fp32": exact,
        "ours, fp32, dropout 0.25": Ours(start, bags, outcome, dropout=0.25),
        "ours, bf16": rounded,
        "ours, bf16, 512 tiles a bag": Ours(start, bags, outcome, bfloat16=True, most_tiles=512),
    }
    warm_up = 0 if asked.no_warm_up else 1
    timings = interleaved(calls, repetitions=asked.repetitions, warm_up=warm_up)
    peers = [name for name in calls if not name.startswith("ours")]
    rows = [
        [name, *(str(timings.ratio(peer, name)) for peer in peers)]
        for name in calls
        if name.startswith("ours")
    ]
    per_tile = [[name, f"{timings.median(name) / sizes.sum() * 1e6:.1f}"] for name in calls]
    at_start |= {"ours, fp32": exact.losses[0], "ours, bf16": rounded.losses[0]}
    drift = [abs(a - b) for a, b in zip(exact.losses, rounded.losses, strict=True)]
    print(
        section(
            "Training on ragged bags",
            packages=("torch", "torchmil", "numpy"),
            body=[
                f"{asked.bags} bags of {sizes.min()} to {sizes.max()} tiles, {sizes.sum()} in all; "
                f"{WIDTH} → {HIDDEN}, gated attention of {ATTENTION}; one thread; "
                f"{asked.repetitions} repetitions. How many times longer the peer's epoch takes:",
                table(["", *peers], rows),
                "Microseconds a tile, of this run:",
                table(["", "µs"], per_tile),
                "Loss at the weights that all start from: "
                + ", ".join(f"{name} {float(value):.6f}" for name, value in at_start.items())
                + f". Over {len(drift)} epochs fp32 and bf16 differ by at most {max(drift):.1e}.",
            ],
        )
    )


if __name__ == "__main__":
    main()
