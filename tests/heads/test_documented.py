"""The table of heads in docs/models.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from storm_clinic.heads.zoo import heads

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def documented() -> dict[str, list[str]]:
    """Cells of each head's row."""
    text = PAGE.read_text(encoding="utf-8").split("| head | outcome |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_head_is_documented_and_no_other():
    assert documented().keys() == heads().keys()


def test_documented_inputs_are_those_a_head_takes():
    said = {"clinical": ({"clinical"}, {"clinical"}), "any": ({"image", "clinical"}, set())}
    said["image, or both"] = ({"image", "clinical"}, {"image"})
    for name, (_, inputs, *_) in documented().items():
        head = heads()[name]
        assert (head.takes, head.needs) == said[inputs], name


def test_documented_options_and_defaults_are_those_of_the_code():
    options = {
        name: {key: float(value) for key, value in re.findall(r"`(\w+)` \(([\d.]+)", cells[-1])}
        for name, cells in documented().items()
    }
    options["attention-cox"] |= options["mean-cox"]
    options["attention-classes"] |= options["attention-cox"]
    for name, head in heads().items():
        assert options[name] == {key: float(o.default) for key, o in head.options.items()}, name
