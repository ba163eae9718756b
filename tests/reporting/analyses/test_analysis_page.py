"""Every analysis on the page: filled, with notes in place of values, and not asked for."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest

from storm_clinic.reporting.analysis_sections import analysis_tables
from storm_clinic.reporting.labels import section_label
from storm_clinic.reporting.page import Report, render
from storm_clinic.reporting.sections import SECTIONS, number_of, parts, placed, see
from storm_clinic.reporting.svg import (
    BLUE,
    DARKER,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PALE,
    PURPLE,
    RULE,
    VERMILLION,
)
from storm_clinic.study import Claim

VOID = {"meta", "img", "br", "hr"}
ANALYSES = [section for section in SECTIONS if section.analysis]


class Reader(HTMLParser):
    """Ids, links and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"]] if given.get("href") else []
        self.tables += [given["id"]] if tag == "table" else []
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html(full, noted, nothing_asked, from_elsewhere) -> dict[str, str]:
    contents = {
        "full": full,
        "noted": noted,
        "nothing": nothing_asked,
        "elsewhere": from_elsewhere,
    }
    return {name: render(content) for name, content in contents.items()}


@pytest.fixture(scope="module")
def read(html) -> dict[str, Reader]:
    return {name: Reader(text) for name, text in html.items()}


ALL = ["full", "noted", "nothing", "elsewhere"]


def section_of(text: str, key: str) -> str:
    found = re.search(rf'<section id="{key}".*?</section>', text, re.DOTALL)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("name", ALL)
def test_ids_are_unique_and_every_link_arrives(read, name):
    page = read[name]
    assert len(page.ids) == len(set(page.ids))
    assert {link.lstrip("#") for link in page.links} <= set(page.ids)


@pytest.mark.parametrize("name", ALL)
def test_no_gap_is_printed_as_a_word_of_the_program(read, name):
    text = re.sub(r"^.*?@media print \{.*?\}\s*\}", "", read[name].text)  # not the style
    assert not re.search(r"\b(nan|None|inf|True|False)\b", text)
    assert "content" not in text
    assert "{see" not in text


@pytest.mark.parametrize("section", ANALYSES, ids=lambda s: s.key)
def test_an_analysis_has_its_section_only_where_it_was_asked_for(html, section):
    assert f'<section id="{section.key}"' in html["full"]
    assert f'<section id="{section.key}"' in html["noted"]
    assert f'<section id="{section.key}"' not in html["nothing"]


@pytest.mark.parametrize(
    "key",
    [
        "utility",
        "group-comparison",
        "adjusted",
        "subgroups",
        "sites",
        "site-probe",
        "internal",
        "drift",
        "imputed-genes",
        "storm-domain",
    ],
)
def test_an_analysis_that_could_not_be_made_says_why(html, key):
    assert "only 3 events" in section_of(html["noted"], key)


@pytest.mark.parametrize(
    ("key", "figures", "tables"),
    [
        ("adequacy", 0, 1),
        ("missingness", 0, 1),
        ("case-mix", 1, 1),
        ("drift", 0, 1),
        ("storm-domain", 0, 1),
        ("imputed-genes", 0, 1),
        ("utility", 1, 1),
        ("group-comparison", 0, 4),
        ("adjusted", 1, 2),
        ("time-effects", 1, 1),
        ("shapes", 1, 1),
        ("subgroups", 2, 2),
        ("sites", 2, 2),
        ("site-probe", 0, 1),
        ("internal", 2, 4),
    ],
)
def test_a_section_shows_its_figures_and_tables(html, key, figures, tables):
    text = section_of(html["full"], key)
    assert (text.count("<svg "), text.count("<table ")) == (figures, tables)


def test_sample_size_is_the_first_thing_the_statistician_reads(full):
    statistician = parts(full)[1]
    assert statistician.reader == "statistician"
    assert statistician.sections[0].key == "adequacy"


def test_the_precision_that_can_be_reached_stands_on_the_first_screen(html):
    first = html["full"].split("<nav")[0]
    assert "With 118 events a calibration slope can be told to within 0.31 either way." in first


@pytest.mark.parametrize("name", ["full", "nothing_asked", "from_elsewhere"])
def test_numbers_of_sections_run_on_and_are_those_printed(request, name):
    content = request.getfixturevalue(name)
    sections = placed(content)
    assert [s.number for s in sections] == list(range(1, len(sections) + 1))
    page = render(content)
    found = re.findall(r'<h2 id="h-([\w-]+)"><span class="n">(\d+)</span>', page)
    assert found == [(s.key, str(s.number)) for s in sections]
    contents = re.findall(r'<li><span class="n">(\d+)</span> <a href="#([\w-]+)">', page)
    assert contents == [(str(s.number), s.key) for s in sections]


def test_a_reference_follows_its_section(full, nothing_asked):
    assert number_of(full, "checks") != number_of(nothing_asked, "checks")
    for content in (full, nothing_asked):
        assert f'<a href="#checks">{see(content, "checks")}</a>' in render(content)
    with pytest.raises(KeyError):
        see(nothing_asked, "sites")


def test_what_was_not_named_before_is_exploratory(html, full):
    for section in ANALYSES:
        text = section_of(html["full"], section.key)
        assert ("exploratory" in text.split("</h2>")[0]) == section.infers
    assert "named before" in section_of(html["full"], "claims-section").split("</h2>")[0]
    performance = section_of(html["full"], "performance").split("</h2>")[0]
    assert "named before, of fusion: C-index, Gain in C-index over clinical" in performance


def test_a_gain_over_another_model_is_not_the_claimed_one(html):
    text = section_of(html["full"], "performance")
    caption = re.search(r"‘fusion’ over each other model on hospital_b.*?</caption>", text)
    assert caption is not None
    assert "named before" not in caption[0]


def test_a_claim_on_net_benefit_labels_the_decision_curves(full):
    claim = Claim(metric="net_benefit_gain", over="clinical", lower_bound_at_least=0.0)
    claimed = replace(full, study=full.study.model_copy(update={"claims": (claim,)}))
    [section] = [s for s in SECTIONS if s.key == "utility"]
    label = "named before, of fusion: "
    assert section_label(claimed, section).startswith(label)
    [table] = [t for t in analysis_tables(claimed) if t.slug.endswith("decision")]
    assert table.label.startswith(label)


def test_multiplicity_is_said_where_p_values_are_adjusted(html):
    assert "Adjusted by Holm&#39;s method inside the family" in section_of(
        html["full"], "subgroups"
    )
    assert "adjusted (Holm) only inside the family" in html["full"]


def test_complete_cases_stand_beside_imputation(html):
    text = section_of(html["full"], "adjusted")
    assert "Multiple imputation (20 times)" in text
    assert "Complete cases" in text
    assert "198 patients, 90 events" in text


def test_a_stratum_that_is_too_small_is_shown_in_words(html):
    text = section_of(html["full"], "subgroups")
    assert "Too few patients to say anything: stage Stage II." in text
    assert "too few to say" in text  # in the figure
    assert "7 events; at least 10 are needed" in text  # beneath the table


def test_predictions_from_elsewhere_say_what_is_unknown(read):
    text = read["elsewhere"].text
    assert "how the model was trained is not known to this report" in text
    assert "Whether any of these patients were used for training is not known" in text
    assert "Nothing is known to have been named before" in text
    assert "What the model looked at" not in text
    assert "named before, of" not in text


def test_sources_are_given_only_for_what_was_used(read):
    used = read["full"].text
    unused = read["nothing"].text
    for source in ("Rubin DB", "Grambsch", "IntHout", "Vickers", "Holm S", "Howard", "Durrleman"):
        assert source in used
        assert source not in unused
    assert "Harrell FE" in unused
    assert "Gray RJ" not in used


def test_words_are_explained_only_where_they_are_used(html):
    assert "Net benefit</dt>" in section_of(html["full"], "glossary")
    assert "Net benefit</dt>" not in section_of(html["nothing"], "glossary")


@pytest.mark.parametrize("name", ["full", "noted", "from_elsewhere"])
def test_every_table_of_the_page_is_beside_it_as_csv(request, read, name):
    content = request.getfixturevalue(name)
    files = Report(content).tables()
    page = Reader(render(content))
    assert set(page.tables) <= set(files)
    for text in files.values():
        rows = list(csv.reader(StringIO(text)))
        assert len({len(row) for row in rows}) == 1


def test_curves_of_figures_are_in_the_csv_at_every_point(full):
    files = Report(full).tables()
    rows = list(csv.DictReader(StringIO(files["decision-curves"])))
    assert len(rows) == 46 * 6
    assert {"threshold", "net_benefit", "gain_lower"} <= set(rows[0])
    assert len(list(csv.DictReader(StringIO(files["effects-over-time"])))) == 80
    assert len(list(csv.DictReader(StringIO(files["shapes-of-effects"])))) == 40


def test_the_same_content_gives_the_same_bytes(full, html):
    assert render(full) == html["full"]


def test_hostile_words_in_an_analysis_stay_words(full):
    hostile = "<script>alert(1)</script>"
    [evidence] = full.validation
    analyses = evidence.analyses
    probe = analyses.probes[0].model_copy(update={"what": hostile, "note": hostile})
    changed = analyses.model_copy(update={"probes": (probe,)})
    content = replace(
        full, validation=(evidence.model_copy(update={"analyses": changed}),), development=None
    )
    page = render(content)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


SVG = "{http://www.w3.org/2000/svg}"
PALETTE = {
    *(
        colour.lower()
        for colour in (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, INK, MUTED, RULE, PALE)
    ),
    *(colour.lower() for colour in DARKER.values()),
    *("#ffffff", "#000000"),
}


@pytest.mark.parametrize("name", ["full", "noted"])
def test_every_figure_is_vector_with_words_for_who_cannot_see_it(html, name):
    figures = re.findall(r"<svg .*?</svg>", html[name], re.DOTALL)
    assert figures
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.get("role") == "img"
        assert (root.find(f"{SVG}title").text or "").strip()
        assert (root.find(f"{SVG}desc").text or "").strip()
        assert "<image" not in figure


def test_figures_use_only_colours_that_all_can_tell_apart(html):
    for figure in re.findall(r"<svg .*?</svg>", html["full"], re.DOTALL):
        assert {colour.lower() for colour in re.findall(r"#[0-9A-Fa-f]{6}\b", figure)} <= PALETTE


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        ("utility", ("Net benefit", "Threshold of risk", "treat all", "treat none")),
        ("adjusted", ("Hazard ratio (logarithmic)", "multiple imputation (20 times)")),
        ("time-effects", ("Months", "Log hazard ratio")),
        ("shapes", ("age, years", "Log hazard ratio")),
        ("subgroups", ("C-index of fusion", "Patients", "Events", "p = 0.60 (Holm)")),
        ("sites", ("Pooled", "Expected in a new site")),
        ("internal", ("Patients (events beneath) of training", "C-index")),
        ("case-mix", ("Standardised difference: evaluated less development",)),
        ("calibration", ("Observed", "Predicted risk", "fusion", "clinical")),
    ],
)
def test_axes_and_lines_are_named(html, key, labels):
    figures = re.findall(r"<svg .*?</svg>", section_of(html["full"], key), re.DOTALL)
    words = {word.strip() for figure in figures for word in ET.fromstring(figure).itertext()}
    assert set(labels) <= words
