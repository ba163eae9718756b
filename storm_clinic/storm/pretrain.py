"""Pretraining: a network learns to predict what is hidden from it, from shards of paired spots.

Every number of a batch (which spots, what is hidden, dropout) is drawn from seed and position, so
that a training that was interrupted goes on as if it had not been, and several processes do
together what one does alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from storm_clinic.encoders.weights import weights_digest
from storm_clinic.errors import TrainingError
from storm_clinic.files import digest_value
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.decoders import Decoders, Losses, LossWeights, Targets
from storm_clinic.storm.image_encoder import TrainableEncoder, layer_scales
from storm_clinic.storm.masking import Draws, Masked, MaskingMix, Shown, mask
from storm_clinic.storm.model import Encoded, StormModel
from storm_clinic.storm.optimisation import Optimisation, Optimiser
from storm_clinic.storm.processes import Processes
from storm_clinic.storm.shards import ShardSet
from storm_clinic.storm.spot_batches import Order, SpotBatch, SpotReader, measure_scales
from storm_clinic.storm.training_state import keep_state, read_state

PARTS = ("image", "expression", "virtual")
# What is drawn at a position; each has its own stream.
_MASKS, _DROPOUT, _NOVAE = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class PretrainPlan:
    """How a network is pretrained.

    Attributes
    ----------
    optimisation : Optimisation
    batch : int
        Contexts a batch, over all processes.
    seed : int
        Of weights, order, masks and dropout.
    masking : MaskingMix
    weights : LossWeights
    log_every, keep_every : int
        Updates between two points of the loss curve, and between two states kept on disk.

    Raises
    ------
    TrainingError
        If a number cannot be.
    """

    optimisation: Optimisation
    batch: int = 256
    seed: int = 0
    masking: MaskingMix = field(default_factory=MaskingMix)
    weights: LossWeights = field(default_factory=LossWeights)
    log_every: int = 20
    keep_every: int = 200

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("seed", 0), ("log_every", 1), ("keep_every", 1)):
            if getattr(self, name) < least:
                raise TrainingError(
                    f"{name} must be at least {least}, is {getattr(self, name)}",
                    where="pretraining of STORM",
                )


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What came out, on the CPU.

    Attributes
    ----------
    model : StormModel
        With the mean of weights where one is kept, in evaluation mode.
    decoders : Decoders
        That belong to it: for looking at reconstructions; nothing else needs them.
    encoder : TrainableEncoder or None
        That was trained with it, where one was.
    history : list of dict
        Points of the loss curve: ``step``, ``loss``, ``rate``, and the mean loss of each part over
        the contexts that were asked for it; a part that nobody was asked for is left out.
    """

    model: StormModel
    decoders: Decoders
    history: list[dict[str, float]]
    encoder: TrainableEncoder | None = None


Point = dict[str, float]


def pretrain(
    config: StormConfig,
    shards: ShardSet,
    plan: PretrainPlan,
    processes: Processes,
    *,
    axes: Tensor | None = None,
    encoder: TrainableEncoder | None = None,
    state: Path | None = None,
    on_point: Callable[[Point], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Pretrained:
    """Pretrain a network from random weights.

    Parameters
    ----------
    config : StormConfig
        Fits the shards: numbers an image, and genes.
    shards : ShardSet
        Training sections only; they also give the scales of genes and images.
    plan : PretrainPlan
        All that decides the result beside them.
    processes : Processes
        From `joined_processes`; their number changes nothing but rounding, and with dropout its
        draws.
    axes : float tensor, shape (image_axes, image_width), optional
        From `image_scale.principal_axes` of the shards' embeddings; needed where the network has
        axes.
    encoder : TrainableEncoder, optional
        Is trained with the network, and changed in place: images are then embedded anew in each
        batch, those alone that a context shows. What masked images are to be predicted as stays
        the embedding in the shards, of the encoder as it was: a target that moves with the encoder
        would be met best by embeddings that are all the same. Needs shards with tiles.
    state : Path, optional
        File from which the training goes on if it is there, and where its state is kept.
    on_point : callable, optional
        Called with each new point of the history, by the first process only.
    on_step : callable, optional
        Called after each update with how many were made, and of how many.

    Raises
    ------
    TrainingError
        If shards do not fit the network, the batch cannot be divided among the processes, a
        gradient is not finite, or the state is of another training.
    """
    _check(config, shards, plan, processes, axes, encoder)
    identity = _identity(config, shards, plan)
    if encoder is not None:
        identity = digest_value([identity, _encoder_identity(encoder)])
    with _own_chance(processes.device):
        module = _start(config, shards, plan, axes, encoder).to(processes.device)
        work = _Work(module, shards, plan, processes)
        optimiser, history = work.optimiser, work.history
        kept = read_state(state, identity=identity) if state is not None else None
        if kept is not None:
            kept.restore(module, optimiser)
            history += kept.history
            work.window = torch.tensor(kept.window, dtype=torch.float64)
        n_steps = plan.optimisation.n_steps
        while optimiser.steps < n_steps:
            is_due = work.update()
            if is_due and on_point is not None and processes.is_first:
                on_point(history[-1])
            done = optimiser.steps
            if state is not None and (done % plan.keep_every == 0 or done == n_steps):
                if processes.is_first:
                    window = work.window.tolist()
                    keep_state(
                        state, module, optimiser, identity=identity, history=history, window=window
                    )
                processes.wait()
            if on_step is not None:
                on_step(done, n_steps)
    module.load_state_dict(optimiser.averaged(), strict=False)  # buffers are in place
    module = module.cpu().eval()
    return Pretrained(module.model, module.decoders, history, module.encoder)


class Pretraining(nn.Module):
    """Network, decoders and perhaps an image encoder, as one module that gives losses."""

    def __init__(
        self,
        config: StormConfig,
        masking: MaskingMix,
        weights: LossWeights,
        encoder: TrainableEncoder | None = None,
    ) -> None:
        super().__init__()
        self.model = StormModel(config)
        self.decoders = Decoders(config)
        self.encoder = encoder
        self._masking, self._weights = masking, weights

    def forward(self, batch: SpotBatch, draws: Draws) -> Losses:
        """Losses of a batch whose chance is drawn."""
        encoded, masked = self.encode(batch, draws)
        targets = Targets(batch.image, batch.expression, batch.panel, batch.spots)
        return self.decoders.losses(encoded, masked, targets, self.model, self._weights)

    def encode(self, batch: SpotBatch, draws: Draws) -> tuple[Encoded, Masked]:
        """Tokens of a batch of which parts are hidden."""
        contexts = embedded_contexts(batch, self.model, self.encoder)
        shown = shown_by_novae(batch, self.model)
        masked = mask(contexts, draws, self._masking, shown=shown)
        return self.model(masked.contexts, embedded=True), masked

    def shown(self, batch: SpotBatch, draws: Draws) -> Tensor:
        """Spots of a batch whose image some context shows, int64 (n_shown,); at least one.

        One is embedded even where none is shown: then its gradient is 0, not missing, which
        processes that train together must have.
        """
        nothing = batch.image[:, :0]
        masked = mask(batch.contexts(nothing, nothing), draws, self._masking)
        seen = masked.contexts.present("image") & ~masked.contexts.masked("image")
        spots = torch.unique(batch.spots[seen])
        return spots if len(spots) else batch.spots.new_zeros(1)


def embedded_contexts(
    batch: SpotBatch, model: StormModel, encoder: TrainableEncoder | None
) -> Contexts:
    """Contexts of a batch as tokens, nothing masked yet.

    Images are those of the shards, or an encoder's of the batch's tiles; a spot whose tile is not
    at hand has none that means anything, and must be masked.
    """
    image = batch.image
    if encoder is not None:
        found = encoder(batch.tiles).float()
        image = torch.zeros_like(image).index_copy(0, batch.shown, found)
    tokens = model.embed_image(image)
    if model.config.gene_encoder != "novae":
        return batch.contexts(tokens, model.embed_expression(batch.expression, batch.panel))
    return batch.contexts(tokens, model.novae_tokens(batch.novae))


def shown_by_novae(batch: SpotBatch, model: StormModel) -> Shown | None:
    """What Novae's embeddings hold of a batch; None where masks may be drawn freely."""
    if model.config.gene_encoder != "novae":
        return None
    embedded = batch.novae.isfinite().all(dim=1)
    return Shown(batch.at_slots(batch.visible), batch.at_slots(embedded))


class _Work:
    """One update after the other, and the curve of the loss."""

    def __init__(
        self, module: Pretraining, shards: ShardSet, plan: PretrainPlan, processes: Processes
    ) -> None:
        self.plan, self.processes = plan, processes
        scales = None
        if module.encoder is not None:
            decay, network = module.encoder.layer_decay, module.encoder.network
            scales = layer_scales(network, decay=decay, prefix="encoder.network.")
        self.optimiser = Optimiser(module, plan.optimisation, scales=scales)
        self.history: list[Point] = []
        # Since the last point: batches, their total, sums of the parts, and contexts of these.
        self.window = torch.zeros(2 + 2 * len(PARTS), dtype=torch.float64)
        self.n_slots, self.n_novae_draws = shards.n_slots, shards.novae_draws
        self.order = Order(shards, batch=plan.batch, seed=plan.seed)
        self.reader = SpotReader(shards)
        share = plan.batch // processes.size
        self.rows = slice(processes.rank * share, (processes.rank + 1) * share)
        module.train()
        if processes.device.type == "cuda":
            module.model.compile()  # in place: names of weights stay
        self.alone = module
        self.module: nn.Module = module
        if processes.size > 1:
            self.module = DistributedDataParallel(module)

    def update(self) -> bool:
        """Update the weights once; returns whether the curve has a new point."""
        plan, first = self.plan.optimisation, self.optimiser.steps
        parts = [self._part(first * plan.accumulate + part) for part in range(plan.accumulate)]
        self.window += self.processes.total(torch.stack(parts).sum(dim=0)).cpu()
        done = self.optimiser.steps
        if done % self.plan.log_every and done < plan.n_steps:
            return False
        n_batches, total, *of_parts = self.window.tolist()
        point = {"step": done, "rate": plan.rate_at(first), "loss": total / n_batches}
        sums, contexts = of_parts[: len(PARTS)], of_parts[len(PARTS) :]
        point |= {name: s / n for name, s, n in zip(PARTS, sums, contexts, strict=True) if n}
        self.history.append(point)
        self.window.zero_()
        return True

    def _part(self, position: int) -> Tensor:
        """Add one batch's gradient; what it adds to the window."""
        device = self.processes.device
        place, rows = self.order.at(position)
        batch = self.reader.batch(place, rows[self.rows])
        masks = torch.Generator().manual_seed(_seed(self.plan.seed, position, _MASKS))
        draws = Draws.draw(self.plan.batch, self.n_slots, masks).part(self.rows)
        if self.n_novae_draws:
            draw = _seed(self.plan.seed, position, _NOVAE) % self.n_novae_draws
            batch = self.reader.with_novae(place, batch, draw)
        if self.alone.encoder is not None:
            batch = self.reader.with_tiles(place, batch, self.alone.shown(batch, draws))
        batch, draws = batch.to(device), draws.to(device)
        torch.manual_seed(_seed(self.plan.seed, position, _DROPOUT, self.processes.rank))
        with self._without_exchange():
            with _bfloat16(device):
                losses: Losses = self.module(batch, draws)
            self.optimiser.backward(losses.total)
        total = losses.total.detach()[None]
        return torch.cat([torch.ones_like(total), total, losses.sums, losses.contexts])

    def _without_exchange(self) -> AbstractContextManager[None]:
        """Processes exchange gradients once an update, not once a batch."""
        if isinstance(self.module, DistributedDataParallel) and not self.optimiser.is_last_part:
            no_sync: AbstractContextManager[None] = self.module.no_sync()
            return no_sync
        return nullcontext()


def _start(
    config: StormConfig,
    shards: ShardSet,
    plan: PretrainPlan,
    axes: Tensor | None,
    encoder: TrainableEncoder | None,
) -> Pretraining:
    torch.manual_seed(plan.seed)
    module = Pretraining(config, plan.masking, plan.weights, encoder)
    scales = measure_scales(shards)
    module.model.gene_scale.set(scales.gene_mean, scales.gene_spread)
    if axes is not None:
        module.model.set_image_axes(axes)
    module.decoders.set_image_scale(scales.image_mean, scales.image_spread)
    return module


def _check(
    config: StormConfig,
    shards: ShardSet,
    plan: PretrainPlan,
    processes: Processes,
    axes: Tensor | None,
    encoder: TrainableEncoder | None,
) -> None:
    problem = None
    if (config.image_width, config.n_genes) != (shards.image_width, len(shards.vocabulary)):
        problem = (
            f"shards of {shards.image_width} numbers an image and {len(shards.vocabulary)} genes "
            f"do not fit a network for {config.image_width} and {config.n_genes}"
        )
    elif (axes is not None) != bool(config.image_axes):
        problem = f"a network with {config.image_axes} image axes needs them, and no other does"
    elif (config.gene_width if config.gene_encoder == "novae" else 0) != shards.novae_width:
        problem = (
            f"shards with embeddings by Novae of {shards.novae_width} numbers (0: none) do not fit "
            f"a network with the gene encoder {config.gene_encoder!r} of {config.gene_width}"
        )
    elif encoder is not None and config.image_axes:
        problem = (
            "image axes are those of embeddings that stay as they are; an encoder that is trained "
            "has none"
        )
    elif encoder is not None and (encoder.card.tile_px, encoder.card.width) != (
        shards.tile_px,
        shards.image_width,
    ):
        problem = (
            f"shards of tiles of {shards.tile_px} px (0: none) and {shards.image_width} numbers an "
            f"image do not fit an encoder of {encoder.card.tile_px} px and {encoder.card.width}"
        )
    elif plan.batch % processes.size:
        problem = f"a batch of {plan.batch} cannot be divided among {processes.size} processes"
    if problem:
        raise TrainingError(problem, where="pretraining of STORM")


def _identity(config: StormConfig, shards: ShardSet, plan: PretrainPlan) -> str:
    settings = asdict(plan)
    for name in ("log_every", "keep_every"):  # they decide nothing
        del settings[name]
    return digest_value([config.to_json(), shards.digest, shards.n_slots, settings])


def _encoder_identity(encoder: TrainableEncoder) -> list[str | float]:
    weights = weights_digest(encoder.network.state_dict())
    return [encoder.card.name, weights, encoder.tiles_at_once, encoder.layer_decay]


def _seed(*what: int) -> int:
    """A seed for each combination of numbers; near ones have nothing in common."""
    return int(digest_value(what)[:15], 16)


@contextmanager
def _own_chance(device: torch.device) -> Iterator[None]:
    """Leave torch's own random state as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _bfloat16(device: torch.device) -> AbstractContextManager[object]:
    if device.type != "cuda":
        return nullcontext()  # on a CPU results are fp32's, the same on every machine
    return torch.autocast("cuda", dtype=torch.bfloat16)
