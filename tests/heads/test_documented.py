"""The tables of heads in docs/models.md say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.heads.network_head import NETWORK_HEADS, POOLINGS
from storm_clinic.heads.objectives import OBJECTIVES
from storm_clinic.heads.zoo import heads

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
OUTCOMES = {Survival: "survival", CompetingRisks: "competing risks", Classes: "classes"}
NETWORKS = {head.name for head in NETWORK_HEADS}


def rows(header: str) -> dict[str, list[str]]:
    """Cells of each row of the table with this header, by the name in its first cell."""
    table = PAGE.split(header)[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0].strip("`"): row[1:] for row in cells}


CLASSICAL, BY_POOLING, BY_OBJECTIVE = (
    rows(header) for header in ("| head | outcome |", "| pooling | how", "| objective | outcome |")
)


def options(text: str) -> dict[str, str]:
    return dict(re.findall(r"`(\w+)` \(([\w.]+)", text))


def defaults(given) -> dict[str, str]:
    return {
        name: option.default if isinstance(option.default, str) else f"{option.default:g}"
        for name, option in given.items()
    }


def test_every_head_is_documented_and_no_other():
    named = {f"{pooling}-{objective}" for pooling in BY_POOLING for objective in BY_OBJECTIVE}
    assert named == NETWORKS
    assert CLASSICAL.keys() == heads().keys() - NETWORKS


@pytest.mark.parametrize("name", list(CLASSICAL))
def test_a_documented_head_is_that_of_the_code(name):
    outcome, inputs, _, given = CLASSICAL[name]
    head = heads()[name]
    said = {
        "clinical, and tables": ({"clinical", "table"}, set()),
        "tiles, and any": ({"tiles", "clinical", "table"}, {"tiles"}),
        "any": ({"tiles", "clinical", "table"}, set()),
    }
    assert (head.takes, head.needs) == said[inputs]
    assert outcome == ", ".join(OUTCOMES[kind] for kind in head.outcomes)
    assert options(given) == defaults(head.options)


def test_documented_poolings_and_objectives_have_the_options_of_the_code():
    assert {n: options(c[-1]) for n, c in BY_POOLING.items()} == {
        name: defaults(given) for name, given in POOLINGS.items()
    }
    for kind in OBJECTIVES:
        outcome, _, late, given = BY_OBJECTIVE[kind.name]
        assert outcome == ", ".join(OUTCOMES[of] for of in kind.outcomes)
        assert options(given) == defaults(kind.options)
        if kind.outcomes != (Classes,):
            assert late == ("used" if kind.entry_times else "refused")


def test_options_that_all_networks_share_are_documented():
    text = PAGE.split("All networks have these options:")[1].split("\n\n")[0]
    shared = set.intersection(*(set(head.options) for head in NETWORK_HEADS))
    by_name = {name: NETWORK_HEADS[0].options[name] for name in shared}
    assert options(text) == defaults(by_name)
