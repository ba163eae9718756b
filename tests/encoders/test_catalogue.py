from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch

from storm_clinic.encoders import catalogue
from storm_clinic.encoders.catalogue import (
    encoder_names,
    find_card,
    find_slide_card,
    slide_encoder_names,
)
from storm_clinic.encoders.contract import EncoderCard
from storm_clinic.encoders.hub import build_model
from storm_clinic.errors import EncoderError


def test_efficientnet_lite0_has_the_published_size():
    # 4.7 million, of which 1.3 million in the classifier.
    model = build_model(find_card("efficientnet-lite0"))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(3.4, rel=0.01)


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(EncoderError, match="did you mean 'virchow2'"):
        find_card("virchow-2")


def _outside() -> EncoderCard:
    return EncoderCard(
        name="outside",
        loader=lambda: torch.nn.Identity(),
        tile_px=224,
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pooling="pooled",
        width=3,
        licence="MIT",
        citation="none",
    )


def _broken() -> EncoderCard:
    raise KeyError("weights")


def _not_a_card() -> str:
    return "outside"


@pytest.fixture
def entry_point(monkeypatch):
    def install(*functions):
        points = EntryPoints(
            EntryPoint(name, f"{__name__}:{name}", catalogue.ENTRY_POINTS) for name, _ in functions
        )
        loaded = dict(functions)
        monkeypatch.setattr(EntryPoint, "load", lambda self: loaded[self.name])
        monkeypatch.setattr(catalogue, "entry_points", lambda group: points.select(group=group))

    return install


def test_a_package_adds_an_encoder_by_one_function(entry_point):
    entry_point(("outside", _outside))
    assert find_card("outside").licence == "MIT"
    assert "outside" in encoder_names()


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("outside", _broken, "cannot be loaded: KeyError"),
        ("outside", _not_a_card, "must return an EncoderCard"),
        ("renamed", _outside, "must return an EncoderCard named 'renamed'"),
        ("virchow2", _outside, "claimed by storm_clinic and"),
    ],
)
def test_a_package_that_adds_a_bad_encoder_is_named(entry_point, name, function, message):
    entry_point((name, function))
    with pytest.raises(EncoderError, match=message):
        find_card(name)


def test_a_bad_package_does_not_hide_the_built_in_encoders(entry_point):
    entry_point(("outside", _broken))
    assert find_card("virchow2").width == 2560


def test_the_example_of_the_documentation_is_found_once_its_package_is_installed(
    tmp_path, monkeypatch
):
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
    code = page.split("# my_encoder.py\n")[1].split("```")[0]
    entry = page.split('[project.entry-points."storm_clinic.encoders"]\n')[1].split("```")[0]
    (tmp_path / "my_encoder.py").write_text(code)
    info = tmp_path / "my_encoder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-encoder\nVersion: 1.0\n")
    entry = entry.replace('"', "")
    (info / "entry_points.txt").write_text(f"[storm_clinic.encoders]\n{entry}")
    monkeypatch.syspath_prepend(tmp_path)
    card = find_card("my-encoder")
    tokens = build_model(card).forward_features(torch.empty(1, 3, 224, 224, device="meta"))
    assert tokens.shape[2] == card.width
    assert "my-encoder" in encoder_names()


# ---- docs/encoders.md --------------------------------------------------------------------------

_PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"


def _documented(section: str) -> dict[str, list[str]]:
    """Rows of the table of a section of the page, by name."""
    text = _PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_page_lists_every_tile_encoder_with_the_facts_of_its_card():
    rows = _documented("Tile encoders")
    assert list(rows) == encoder_names()
    for name, (tile, shown, embedding, weights, licence) in rows.items():
        card = find_card(name)
        assert tile == f"{card.tile_px} px at {card.mpp:g}"
        assert shown == f"{card.input_px} px at {card.shown_mpp(card.tile_px, card.mpp):.4g}"
        assert embedding.rpartition(", ")[2] == str(card.width)
        assert ("mean" in embedding) == (card.pooling == "cls+mean")
        assert ("class token" in embedding) == (card.pooling != "pooled")
        assert card.hub_id is None or f"`{card.hub_id}`" in weights
        assert ("gated" in weights, "own code" in weights) == (card.gated, card.remote_code)
        assert licence == card.licence


def test_the_page_lists_every_slide_encoder_with_the_facts_of_its_card():
    rows = _documented("Slide encoders")
    assert list(rows) == slide_encoder_names()
    for name, (tiles, _, embedding, weights, licence) in rows.items():
        card = find_slide_card(name)
        assert tiles == f"`{card.tile_encoder}`, {card.tile_px} px at {card.mpp:g}"
        assert embedding == f"{card.pooling}, {card.width}"
        assert card.hub_id is None or f"`{card.hub_id}`" in weights
        assert ("gated" in weights, "own code" in weights) == (card.gated, card.remote_code)
        assert licence == card.licence


def test_the_page_names_every_encoder_whose_licence_reaches_what_is_derived():
    cards = [find_card(name) for name in encoder_names()]
    cards += [find_slide_card(name) for name in slide_encoder_names()]
    text = _PAGE.read_text(encoding="utf-8").split("\n## Licences\n")[1].split("\n## ")[0]
    derived = {card.name for card in cards if card.licence == "CC-BY-NC-ND-4.0" and card.gated}
    assert all(f"`{name}`" in text for name in derived)


def test_the_page_names_every_encoder_that_is_code_beside_its_weights():
    cards = [find_card(name) for name in encoder_names()]
    cards += [find_slide_card(name) for name in slide_encoder_names()]
    text = _PAGE.read_text(encoding="utf-8").split("### Code beside the weights")[1].split("##")[0]
    named = {card.name for card in cards if f"`{card.name}`" in text}
    assert named == {card.name for card in cards if card.remote_code}


def test_the_catalogue_is_read_without_torch():
    script = (
        "import sys; from storm_clinic.encoders.catalogue import find_card, find_slide_card; "
        "find_card('conch'), find_slide_card('chief'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
