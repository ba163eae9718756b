"""No text of a cohort becomes markup: not in drawings, and not in the gallery of tiles."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from storm_clinic.reporting.content import TileGallery, TilePicture
from storm_clinic.reporting.svg import draw
from storm_clinic.steps.gallery_page import write_gallery

ATTACKS = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "--><svg onload=alert(1)><!--",
    "]]></title></desc><style>*{display:none}</style>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "javascript:alert(1)",
    r"$\frac{1}{$",  # no formula, and so no error
]
SVG = "{http://www.w3.org/2000/svg}"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_drawing_shows_hostile_text_as_text(attack):
    def paint(figure):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], label=attack)
        axes.set_xlabel(attack)
        axes.set_xticks([0, 1], [attack, "level"])
        axes.legend()

    made = draw(paint, slug="s", title=attack, description=attack, width_in=3, height_in=2)
    root = ET.fromstring(made)
    assert root.find(f"{SVG}title").text == root.find(f"{SVG}desc").text == attack
    assert [item.text for item in root.iter(f"{SVG}text")].count(attack) == 3
    names = {item.tag.removeprefix(SVG) for item in root.iter()}
    assert not names & {"script", "img", "image", "style", "foreignObject", "a", "animate", "set"}
    assert not [name for item in root.iter() for name in item.attrib if name.startswith("on")]
    # Where a page's own parser reads it, which does not know XML's rules.
    assert {tag for tag, _ in Tags(made).found} == {name.lower() for name in names}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_gallery_shows_hostile_text_as_text(tmp_path, attack):
    pictures = (TilePicture(PIXEL, attack),)
    gallery = TileGallery(model=attack, cohort=attack, most=pictures, least=pictures, note=attack)
    path = tmp_path / "gallery.html"
    write_gallery(path, attack, attack, gallery, None, [(attack, pictures, pictures)])
    page = Tags(path.read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.found} <= {
        *("html", "meta", "title", "style", "body", "h1", "h2", "h3", "p"),
        *("figure", "img", "figcaption"),
    }
    assert sum(tag == "style" for tag, _ in page.found) == 1
    assert all(attrs == {"src": PIXEL, "alt": "tile"} for tag, attrs in page.found if tag == "img")
    assert page.words.count(attack) >= 6
