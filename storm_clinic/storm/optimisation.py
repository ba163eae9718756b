"""How STORM's networks are optimised: AdamW, warm-up and cosine, accumulation, clipping, EMA.

Nothing here knows a loss. All that a fit needs to go on later is in `Optimiser.state_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from storm_clinic.errors import TrainingError

_BETAS = (0.9, 0.95)  # as masked autoencoders are trained (He et al., CVPR 2022)
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a network is optimised.

    Attributes
    ----------
    learning_rate : float
        Highest, at the end of the warm-up.
    n_steps : int
        Updates of the weights in all.
    warm_up : int
        Updates in which the rate rises in equal parts from near 0.
    weight_decay : float
        Of AdamW, on weights of linear and convolutional layers only.
    final_share : float
        Share of the highest rate at which the cosine ends.
    clip : float
        Norm at which gradients are clipped.
    accumulate : int
        Batches whose gradients are averaged before one update.
    ema : float
        Share of the running mean of weights that each update keeps; 0 keeps no mean.

    Raises
    ------
    TrainingError
        If a number cannot be.
    """

    learning_rate: float
    n_steps: int
    warm_up: int = 0
    weight_decay: float = 0.05
    final_share: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        wrong = {
            "learning_rate must be above 0": not 0 < self.learning_rate < math.inf,
            "n_steps must be at least 1": self.n_steps < 1,
            "warm_up must lie below n_steps": not 0 <= self.warm_up < max(self.n_steps, 1),
            "weight_decay must not be negative": not 0 <= self.weight_decay < math.inf,
            "final_share must be from 0 to 1": not 0 <= self.final_share <= 1,
            "clip must be above 0": not self.clip > 0,
            "accumulate must be at least 1": self.accumulate < 1,
            "ema must be from 0 to below 1": not 0 <= self.ema < 1,
        }
        problem = next((text for text, is_wrong in wrong.items() if is_wrong), None)
        if problem:
            raise TrainingError(problem, where="optimisation of STORM")

    def rate_at(self, step: int) -> float:
        """Learning rate of an update, the first of which is 0.

        References
        ----------
        Loshchilov & Hutter, SGDR, ICLR 2017 (the cosine).
        """
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / (self.warm_up + 1)
        done = min((step - self.warm_up) / (self.n_steps - self.warm_up), 1.0)
        falling = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_share + (1 - self.final_share) * falling)


class Optimiser:
    """Updates the weights of a module as an `Optimisation` says.

    Parameters
    ----------
    module : nn.Module
        Its parameters that ask for a gradient are optimised, under their names.
    plan : Optimisation
    scales : mapping of parameter's name to float, optional
        By what the learning rate of a parameter is multiplied; 1 by default. See
        `storm_clinic.storm.image_encoder.layer_scales`.

    Attributes
    ----------
    steps : int
        Updates made.
    """

    def __init__(
        self, module: nn.Module, plan: Optimisation, *, scales: Mapping[str, float] | None = None
    ) -> None:
        self.plan = plan
        self.steps = 0
        self._added = 0
        self._named = {
            name: weight for name, weight in module.named_parameters() if weight.requires_grad
        }
        unknown = sorted(set(scales or {}) - set(dict(module.named_parameters())))
        if unknown or not self._named:
            problem = f"no parameter is called {unknown[0]!r}" if unknown else "nothing to optimise"
            raise TrainingError(problem, where="optimisation of STORM")
        groups = parameter_groups(self._named, weight_decay=plan.weight_decay, scales=scales or {})
        self._adamw = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=_BETAS)
        self._mean = (
            {name: weight.detach().clone() for name, weight in self._named.items()}
            if plan.ema
            else {}
        )

    @property
    def is_last_part(self) -> bool:
        """Whether the next batch completes an update; only then need processes share gradients."""
        return self._added + 1 == self.plan.accumulate

    def backward(self, loss: Tensor) -> bool:
        """Add the gradient of a batch's mean loss; every ``accumulate`` batches update the weights.

        Returns
        -------
        bool
            Whether the weights were updated.

        Raises
        ------
        TrainingError
            If the gradient is not finite.
        """
        torch.autograd.backward(loss / self.plan.accumulate)
        self._added += 1
        if self._added < self.plan.accumulate:
            return False
        norm = nn.utils.clip_grad_norm_(self._named.values(), self.plan.clip)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient is not finite at update {self.steps}",
                where="optimisation of STORM",
                fix="Lower the learning rate or lengthen the warm-up.",
            )
        rate = self.plan.rate_at(self.steps)
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["scale"]
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self.steps, self._added = self.steps + 1, 0
        self._update_mean()
        return True

    def averaged(self) -> dict[str, Tensor]:
        """Running mean of the weights by parameter's name; the weights where no mean is kept."""
        weights = self._mean or {name: weight.detach() for name, weight in self._named.items()}
        return dict(weights)

    def state_dict(self) -> dict[str, Tensor]:
        """Moments, means and number of updates, by names that safetensors can hold.

        Raises
        ------
        TrainingError
            Between the parts of one update: gradients are not kept.
        """
        if self._added:
            raise TrainingError("cannot be kept in the middle of an update", where="optimiser")
        state = {"steps": torch.tensor(self.steps)}
        for name, weight in self._named.items():
            moments = self._adamw.state.get(weight, {})
            state |= {f"{kind}.{name}": moments[kind] for kind in _MOMENTS if kind in moments}
        return state | {f"mean.{name}": weight for name, weight in self._mean.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave; the weights themselves are the module's affair.

        Raises
        ------
        TrainingError
            If the state is that of other parameters, or one keeps means and the other does not.
        """
        steps = int(state["steps"]) if "steps" in state else 0
        wanted = {"steps"} | {f"mean.{name}" for name in self._mean}
        if steps:
            wanted |= {f"{kind}.{name}" for kind in _MOMENTS for name in self._named}
        if wanted != set(state):
            odd = sorted(wanted ^ set(state))
            raise TrainingError(
                f"{len(odd)} tensors are not those of this network, such as {odd[0]}",
                where="state of the optimiser",
            )
        self.steps = steps
        for name, weight in self._named.items():
            if steps:
                moments = {kind: state[f"{kind}.{name}"] for kind in _MOMENTS}
                # AdamW counts its updates on the CPU, and keeps its moments beside the weights.
                self._adamw.state[weight] = {
                    kind: value.clone() if kind == "step" else value.to(weight.device, copy=True)
                    for kind, value in moments.items()
                }
            if self._mean:
                self._mean[name].copy_(state[f"mean.{name}"])

    def _update_mean(self) -> None:
        if not self._mean:
            return
        # Early on a long mean would still be the random start (as in TensorFlow's EMA).
        kept = min(self.plan.ema, (1 + self.steps) / (10 + self.steps))
        for name, weight in self._named.items():
            self._mean[name].lerp_(weight.detach(), 1 - kept)


def parameter_groups(
    named: Mapping[str, nn.Parameter], *, weight_decay: float, scales: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameters by what happens to them: ``params``, ``weight_decay`` and ``scale`` of the rate.

    Decay is for matrices named ``weight``; biases, norms, learned tokens and positions have none,
    as pulling them to 0 simplifies nothing.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in named.items():
        decays = name.endswith("weight") and weight.dim() >= 2
        key = (weight_decay if decays else 0.0, float(scales.get(name, 1.0)))
        groups.setdefault(key, []).append(weight)
    return [
        {"params": weights, "weight_decay": decay, "scale": scale}
        for (decay, scale), weights in groups.items()
    ]
