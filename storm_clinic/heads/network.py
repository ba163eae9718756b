"""A network on packed bags, tables and covariates, joined late, early or by cross-attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from storm_clinic.errors import InputError, StudyError
from storm_clinic.heads.architecture import STORM, Architecture
from storm_clinic.heads.branch_attention import BranchAttention
from storm_clinic.heads.latent_exchange import LatentExchange, Latents
from storm_clinic.heads.latent_transformer import LatentTransformer
from storm_clinic.heads.patient_batches import PatientBatch
from storm_clinic.heads.pooling import (
    EvidencePooling,
    GatedAttention,
    MaxPooling,
    MeanPooling,
    Pooled,
    TopAttention,
)
from storm_clinic.heads.streamed_pooling import HiddenStream
from storm_clinic.heads.torchmil_pooling import PUBLISHED, TorchmilPooling

_FIRST_READOUT = 0.1  # scale of the first readouts: at the start only covariates say something


@dataclass(frozen=True, eq=False)
class StepDraws:
    """What chance decides in one step; both passes over a batch use the same.

    Attributes
    ----------
    dropout : dict of str to tensor, shape (n_patients, n)
        Factors of each input's vector.
    kept : dict of str to bool tensor, shape (n_patients,)
        Whose tiles or tables are shown.
    """

    dropout: dict[str, Tensor]
    kept: dict[str, Tensor]

    def of(self, rows: slice) -> StepDraws:
        """The draws of some patients."""
        return StepDraws(
            {name: factors[rows] for name, factors in self.dropout.items()},
            {name: kept[rows] for name, kept in self.kept.items()},
        )


_EVERYTHING = StepDraws({}, {})


class Readout(nn.Module):
    """Linear, without a bias; outputs that all patients share get nothing from it."""

    def __init__(self, n_inputs: int, shared: tuple[bool, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(shared), n_inputs))
        self.register_buffer("_own", ~torch.tensor(shared), persistent=False)

    def forward(self, vector: Tensor) -> Tensor:
        """From (n_patients, n_inputs) to (n_patients, n_outputs)."""
        own: Tensor = self._own  # type: ignore[assignment]
        return vector @ (self.weight * own[:, None]).T


class TileNetwork(nn.Module):
    """A vector an input, joined into raw outputs; covariates also enter linearly.

    Each tile passes one hidden layer, then a pooling; each table one hidden layer. With the pooling
    ``storm`` the layer on tiles is linear, its bias being the modality's embedding, and what the
    latents of one input of tiles have read is told to those of the others before they are pooled.
    Then:

    - ``late``: every input has a linear readout of its own, and their outputs are summed.
    - ``early``: vectors and covariates lie beside one another and pass one more hidden layer.
    - ``cross``: as ``early``, and before it each table, and the covariates, ask the tiles of the
      first tile input by attention of their own (Chen et al., MCAT, ICCV 2021).

    An input that a patient lacks is masked: in its place stands what was learned for its absence,
    a vector (``early``, ``cross``) or a contribution to the outputs (``late``).

    Parameters
    ----------
    architecture : Architecture
    seed : int
        Of the first weights.
    """

    def __init__(self, architecture: Architecture, seed: int) -> None:
        super().__init__()
        self.architecture = plan = architecture
        hidden, outputs = plan.n_hidden, plan.n_outputs
        with torch.random.fork_rng(devices=[]):
            # Layers draw on their own; ours replace those of linear layers, torchmil's others stay.
            torch.manual_seed(seed)
            self.tile = nn.ModuleDict({n: nn.Linear(w, hidden) for n, w in plan.tiles.items()})
            self.pooling = nn.ModuleDict({n: _pooling(plan) for n in plan.tiles})
            self.exchange = None
            if plan.pooling == STORM:
                self.exchange = LatentExchange(tuple(plan.tiles), hidden, plan.n_attention)
            self.table = nn.ModuleDict({n: nn.Linear(w, hidden) for n, w in plan.tables.items()})
            sizes = {n: int(self.pooling[n].n_pooled) for n in plan.tiles}  # type: ignore[arg-type]
            sizes |= dict.fromkeys(plan.tables, hidden)
            self.vector_sizes = sizes
            self.queries = nn.ModuleDict(_queries(plan))
            if plan.fusion == "late":
                self.readouts = nn.ModuleDict(
                    {n: Readout(s, plan.shared) for n, s in sizes.items()}
                )
                self.absent = nn.ParameterDict(
                    {n: nn.Parameter(torch.zeros(outputs)) for n in sizes}
                )
            else:
                width = sum(sizes.values()) + plan.n_clinical + hidden * len(self.queries)
                self.joint = nn.Linear(width, hidden)
                self.readouts = nn.ModuleDict({"joint": Readout(hidden, plan.shared)})
                self.absent = nn.ParameterDict(
                    {n: nn.Parameter(torch.zeros(s)) for n, s in sizes.items()}
                )
                for name in self.queries:
                    self.absent[f"asked_{name}"] = nn.Parameter(torch.zeros(hidden))
        self.from_clinical = Readout(plan.n_clinical, plan.shared)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._draw(torch.Generator().manual_seed(seed))

    def _draw(self, generator: torch.Generator) -> None:
        """Weights uniform within one over the square root of the inputs; biases zero.

        Latents and modality embeddings are normal: layer norms then see tokens around a point away
        from zero, where they are smooth and keep how far a tile lies from the mean.
        """
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    if layer.bias is not None:
                        layer.bias.zero_()
                elif isinstance(layer, LatentTransformer):
                    layer.latents.normal_(generator=generator)
            if self.exchange is not None:
                for layer in self.tile.values():
                    layer.bias.normal_(generator=generator)  # type: ignore[operator]
            for readout in self.readouts.values():
                weight: Tensor = readout.weight  # type: ignore[assignment]
                bound = 1 / math.sqrt(weight.shape[1])
                weight.uniform_(-bound, bound, generator=generator).mul_(_FIRST_READOUT)

    def pool(
        self, batch: PatientBatch, seen: Mapping[str, Tensor], *, weighted: bool = False
    ) -> dict[str, tuple[Tensor, Pooled]]:
        """Hidden tiles, (n_tiles, n_hidden), of each input and what its pooling makes of them.

        Of a stream no hidden tile is given.

        Parameters
        ----------
        batch : PatientBatch
            Some patients.
        seen : mapping of input to bool tensor, shape (n_patients,)
            Who has it, and is shown it; only ``storm`` asks.
        weighted : bool
            Whether tiles of streams are weighed too.
        """
        hidden, pooled, latents = {}, {}, {}
        for name in self.architecture.tiles:
            pooling = self.pooling[name]
            if name in batch.streams:
                hidden[name] = self.bias.new_empty(0, self.architecture.n_hidden)  # none is held
                stream = self._stream(name, batch)
                if self.exchange is not None and isinstance(pooling, LatentTransformer):
                    vectors, known = pooling.read_stream(stream, weighted)
                    latents[name] = Latents(vectors, known, stream.segments)
                else:
                    pooled[name] = pooling.pool_stream(stream, weighted)  # type: ignore[operator]
                continue
            tiles = batch.tiles[name]
            hidden[name] = self._hidden(name, tiles.values)
            given = (hidden[name], tiles.segments, tiles.places)
            if self.exchange is not None and isinstance(pooling, LatentTransformer):
                vectors, shares = pooling.read(*given)
                latents[name] = Latents(vectors, shares, tiles.segments)
            else:
                pooled[name] = pooling(*given)
        if self.exchange is not None:
            pooled = self.exchange(latents, seen)
        return {name: (hidden[name], pooled[name]) for name in self.architecture.tiles}

    @property
    def can_stream(self) -> bool:
        """Whether its poolings can look at a bag chunk by chunk: all but those of torchmil."""
        return self.architecture.pooling not in PUBLISHED

    def _stream(self, name: str, batch: PatientBatch) -> HiddenStream:
        return HiddenStream(
            batch.streams[name],
            lambda values: self._hidden(name, values),
            tuple(self.tile[name].parameters()),
        )

    def _hidden(self, name: str, values: Tensor) -> Tensor:
        projected = self.tile[name](values)
        if self.exchange is None:
            projected = torch.relu(projected)
        # Sums over thousands of tiles stay in the weights' own precision under autocast.
        hidden: Tensor = projected.to(self.bias.dtype)
        return hidden

    def forward(
        self,
        batch: PatientBatch,
        draws: StepDraws = _EVERYTHING,
        branch: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Raw outputs of whole patients, (n_patients, n_outputs), and the sum of instance losses.

        Parameters
        ----------
        batch : PatientBatch
            Some patients.
        draws : StepDraws
            Of these patients.
        branch : int64 tensor, shape (n_patients,), optional
            See `BranchAttention.instance_loss`; without it, and without branches, the loss is 0.
        """
        vectors: dict[str, Tensor] = {}
        instance = batch.clinical.new_zeros(())
        first: tuple[Tensor, str] | None = None
        seen = {
            n: who & draws.kept[n] if n in draws.kept else who for n, who in batch.present.items()
        }
        for name, (hidden, pooled) in self.pool(batch, seen, weighted=branch is not None).items():
            vectors[name] = pooled.vector
            first = first or (hidden, name)
            if branch is not None:
                instance = instance + self._instance_loss(name, batch, hidden, pooled, branch)
        for name, numbers in batch.tables.items():
            vectors[name] = torch.relu(self.table[name](numbers)).to(numbers.dtype)
        for name, factors in draws.dropout.items():
            vectors[name] = vectors[name] * factors
        outputs = self.from_clinical(batch.clinical) + self.bias
        if self.architecture.fusion == "late":
            for name, vector in vectors.items():
                own = self.readouts[name](vector)
                absent = self.absent[name] * ~torch.tensor(self.architecture.shared)
                outputs = outputs + torch.where(seen[name][:, None], own, absent)
            return outputs, instance
        asked = self._ask(batch, vectors, first) if first is not None and self.queries else {}
        return outputs + self._joined(batch, vectors, asked, seen, first), instance

    def _instance_loss(
        self, name: str, batch: PatientBatch, hidden: Tensor, pooled: Pooled, branch: Tensor
    ) -> Tensor:
        pooling = self.pooling[name]
        if not isinstance(pooling, BranchAttention):
            return hidden.new_zeros(())
        if name in batch.streams:
            return pooling.stream_instance_loss(self._stream(name, batch), pooled, branch)
        return pooling.instance_loss(hidden, batch.tiles[name].segments, pooled, branch)

    def _ask(
        self, batch: PatientBatch, vectors: dict[str, Tensor], first: tuple[Tensor, str]
    ) -> dict[str, Tensor]:
        """What each table, and the covariates, read from the tiles by attention of their own."""
        hidden, tiles_name = first
        queries = {
            name: layer(batch.clinical if name == "clinical" else vectors[name])
            for name, layer in self.queries.items()
        }
        if tiles_name in batch.streams:
            return self._ask_stream(self._stream(tiles_name, batch), queries)
        segments = batch.tiles[tiles_name].segments
        found = {}
        for name, query in queries.items():
            scores = (query[segments.of_tile] * hidden).sum(dim=1) / math.sqrt(hidden.shape[1])
            found[name] = segments.sum(segments.softmax(scores)[:, None] * hidden)
        return found

    def _ask_stream(self, stream: HiddenStream, queries: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `_ask` gives, of one patient, all asking in one look; queries are (1, n_hidden)."""

        def terms(
            hidden: Tensor, _places: Tensor | None, asked: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            assert asked is not None
            with torch.autocast("cpu", enabled=False):  # these products are never rounded
                scores = hidden @ asked.T / math.sqrt(hidden.shape[1])
            return scores[:, :, None], hidden[:, None]

        asked = torch.cat(list(queries.values())).to(self.bias.dtype)
        means = stream.mean(terms, (), asked=asked).means
        return dict(zip(queries, means, strict=True))

    def _joined(
        self,
        batch: PatientBatch,
        vectors: dict[str, Tensor],
        asked: dict[str, Tensor],
        seen: dict[str, Tensor],
        first: tuple[Tensor, str] | None,
    ) -> Tensor:
        parts = [
            torch.where(seen[name][:, None], vector, self.absent[name])
            for name, vector in vectors.items()
        ]
        for name, vector in asked.items():
            assert first is not None
            both = seen[first[1]] & seen.get(name, torch.tensor(True))
            parts.append(torch.where(both[:, None], vector, self.absent[f"asked_{name}"]))
        joint = torch.relu(self.joint(torch.cat([*parts, batch.clinical], dim=1)))
        outputs: Tensor = self.readouts["joint"](joint.to(batch.clinical.dtype))
        return outputs

    def start_from(self, slopes: NDArray[np.float64], intercepts: NDArray[np.float64]) -> None:
        """Set clinical coefficients, (n_clinical, n_outputs), and intercepts, (n_outputs,)."""
        with torch.no_grad():
            self.from_clinical.weight.copy_(torch.from_numpy(slopes.T.copy()))
            self.bias.copy_(torch.from_numpy(intercepts))

    def point_readouts(self, direction: int) -> None:
        """Let all readouts of inputs begin with one sign: 1 where a higher output is worse."""
        with torch.no_grad():
            for readout in self.readouts.values():
                readout.weight.abs_().mul_(direction)  # type: ignore[operator]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """A copy of the weights, by name."""
        return {name: value.detach().numpy().copy() for name, value in self.state_dict().items()}

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take weights by name.

        Raises
        ------
        InputError
            If a name or a shape does not fit.
        """
        weights = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"weights do not fit the network: {error}") from error


def _queries(plan: Architecture) -> dict[str, nn.Module]:
    if plan.fusion != "cross" or not plan.tiles:
        return {}
    queries: dict[str, nn.Module] = {
        name: nn.Linear(plan.n_hidden, plan.n_hidden) for name in plan.tables
    }
    if plan.n_clinical:
        queries["clinical"] = nn.Linear(plan.n_clinical, plan.n_hidden)
    return queries


def _pooling(plan: Architecture) -> nn.Module:
    """A new pooling of the architecture's kind."""
    hidden, attention = plan.n_hidden, plan.n_attention
    if plan.pooling in PUBLISHED:
        return TorchmilPooling(plan.pooling, hidden, attention)
    build: dict[str, Any] = {
        "mean": lambda: MeanPooling(hidden),
        "max": lambda: MaxPooling(hidden),
        "attention": lambda: GatedAttention(hidden, attention),
        "top": lambda: TopAttention(hidden, attention, plan.n_top),
        "clam": lambda: BranchAttention(hidden, attention, plan.n_branches),
        "evidence": lambda: EvidencePooling(hidden, plan.n_branches),
        "transformer": lambda: LatentTransformer(hidden, plan.n_latents),
        STORM: lambda: LatentTransformer(hidden, plan.n_latents),
    }
    if plan.pooling not in build:
        raise StudyError(f"unknown pooling {plan.pooling!r}")
    module: nn.Module = build[plan.pooling]()
    return module
