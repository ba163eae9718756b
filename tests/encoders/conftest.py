"""Small networks with the architecture of the real ones, and a machine without a network."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable

import pytest
import torch

from storm_clinic.encoders.catalogue import find_card
from storm_clinic.encoders.contract import EncoderCard, State
from storm_clinic.encoders.hub import build_model


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to connect anywhere fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _shrink(name: str) -> EncoderCard:
    """The catalogue's row with fewer, narrower blocks; all else as it stands there."""
    card = find_card(name)
    small = {"depth": 2, "embed_dim": 48, "num_heads": 4}
    arguments = {**card.arguments, **small}
    # The gated feed-forward needs an even hidden width; elsewhere timm's own ratio holds.
    if "mlp_ratio" in card.arguments:
        arguments["mlp_ratio"] = 2 * round(card.arguments["mlp_ratio"] * 24) / 48
    elif "giant" in card.architecture:
        arguments["mlp_ratio"] = 256 / 48
    width = 96 if card.pooling == "cls+mean" else 48
    return dataclasses.replace(card, arguments=arguments, width=width)


@pytest.fixture
def shrunk() -> Callable[[str], EncoderCard]:
    return _shrink


def _random_state(card: EncoderCard) -> State:
    """Weights of a card's network, drawn so that every tensor matters to the output."""
    generator = torch.Generator().manual_seed(7)
    state = build_model(card).state_dict()
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.2 + (name.endswith("weight"))
        if tensor.is_floating_point()
        else torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in sorted(state.items())
    }


@pytest.fixture
def random_state() -> Callable[[EncoderCard], State]:
    return _random_state


@pytest.fixture
def random_tiles() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8, generator=generator)
