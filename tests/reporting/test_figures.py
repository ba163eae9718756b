"""Figures: vector, the same bytes each time, safe to put into a page, legible without colour."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from storm_clinic.reporting.calibration_figure import calibration
from storm_clinic.reporting.class_figure import class_curves
from storm_clinic.reporting.forest_figure import ForestRow, forest
from storm_clinic.reporting.risk_group_figure import group_colours, risk_groups
from storm_clinic.reporting.svg import BLUE, GREEN, ORANGE, PURPLE, VERMILLION

SVG = "{http://www.w3.org/2000/svg}"


def forest_of(evidence, cohort: str, slug: str = "f", names: dict[str, str] | None = None):
    rows = [
        ForestRow(
            (names or {}).get(model, model),
            evidence.one("c_index", model=model),
            next(iter(evidence.find("c_index_gain", model=model, over="clinical")), None),
            is_candidate=model == "fusion",
            is_comparator=model == "clinical",
        )
        for model in evidence.models
    ]
    return forest(rows, slug=slug, label="C-index", over="clinical", neutral=0.5, title=cohort)


@pytest.fixture(scope="module")
def drawn(validated, binary) -> dict[str, str]:
    [evidence] = validated.validation
    [classes] = binary.validation
    return {
        "f": forest_of(evidence, "hospital_b"),
        "c": calibration(evidence.calibration, slug="c", title="t", candidate="fusion"),
        "g": risk_groups(evidence.risk_groups[0], slug="g", title="t"),
        "r": class_curves(classes.classes, slug="r", title="t", candidate="deep"),
    }


@pytest.mark.parametrize("slug", ["f", "c", "g", "r"])
def test_a_figure_is_one_well_formed_svg_with_words_for_who_cannot_see_it(drawn, slug):
    root = ET.fromstring(drawn[slug])
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{slug}-title {slug}-desc"
    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text


@pytest.mark.parametrize("slug", ["f", "c", "g", "r"])
def test_ids_are_the_figures_own_and_every_reference_finds_one(drawn, slug):
    root = ET.fromstring(drawn[slug])
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith(f"{slug}-") for name in ids)
    for element in root.iter():
        target = element.get("{http://www.w3.org/1999/xlink}href")
        if target:
            assert target.removeprefix("#") in ids
        clip = element.get("clip-path")
        if clip:
            assert clip.removeprefix("url(#").removesuffix(")") in ids


@pytest.mark.parametrize("slug", ["f", "c", "g", "r"])
def test_a_figure_brings_no_style_for_the_page_no_date_and_no_script(drawn, slug):
    text = drawn[slug]
    for forbidden in ("<style", "<script", "<metadata", "<!DOCTYPE", "matplotlib.org", "onload="):
        assert forbidden not in text


def test_words_stay_words(drawn):
    texts = " ".join(ET.fromstring(drawn["g"]).itertext())
    assert "Patients at risk" in texts
    assert "intermediate" in texts
    assert "log-rank p < 0.001" in texts


def test_numbers_at_risk_are_in_the_figure(drawn, validated):
    texts = [t.strip() for t in ET.fromstring(drawn["g"]).itertext()]
    for group in validated.validation[0].risk_groups[0].groups:
        for n in group.at_risk:
            assert str(n) in texts


def test_the_description_holds_the_numbers(drawn, validated):
    description = ET.fromstring(drawn["f"]).find(f"{SVG}desc").text
    shown = validated.validation[0].one("c_index", model="fusion")
    assert (
        f"fusion: C-index {shown.value:.2f} ({shown.lower:.2f} to {shown.upper:.2f})" in description
    )


def test_the_same_input_gives_the_same_bytes(drawn, validated):
    [evidence] = validated.validation
    assert risk_groups(evidence.risk_groups[0], slug="g", title="t") == drawn["g"]
    assert forest_of(evidence, "hospital_b") == drawn["f"]


def test_a_callers_matplotlib_settings_neither_enter_nor_leave(drawn, validated):
    [evidence] = validated.validation
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9}):
        assert risk_groups(evidence.risk_groups[0], slug="g", title="t") == drawn["g"]
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.parametrize("name", ["<b>&amp;", "$x^2$", "$unclosed", '"><script>', "模型"])
def test_hostile_and_foreign_names_are_drawn_as_they_are(validated, name):
    text = forest_of(validated.validation[0], "hospital_b", names={"abmil": name})
    root = ET.fromstring(text)
    assert name in {t.strip() for t in root.itertext()}
    assert "<script" not in text


def test_a_model_without_numbers_has_its_line():
    rows = [ForestRow("m", None, None, is_candidate=True)]
    text = forest(rows, slug="f", label="C-index", over=None, neutral=0.5, title="t")
    assert "not estimated" in text


@pytest.mark.parametrize("n", range(1, 7))
def test_groups_have_distinct_colours_of_the_colour_blind_safe_palette(n):
    colours = group_colours(n)
    assert len(set(colours)) == n
    assert set(colours) - {"#1b2733"} <= {BLUE, ORANGE, GREEN, VERMILLION, PURPLE}
