"""The page: self-contained, honest about what is absent, and safe with hostile text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from storm_clinic.errors import InputError
from storm_clinic.reporting.content import CohortSummary, ReportContent, TilePicture, VariableRow
from storm_clinic.reporting.page import Report, render

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes, ids and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if attrs.get("id")]


@pytest.fixture(scope="module")
def pages(validated, no_gain, development_only, binary) -> dict[str, Reader]:
    contents = {
        "validated": validated,
        "no_gain": no_gain,
        "development": development_only,
        "binary": binary,
        "empty": ReportContent(question="Is there anything?", candidate="none"),
    }
    return {name: Reader(render(content)) for name, content in contents.items()}


ALL = ["validated", "no_gain", "development", "binary", "empty"]


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_fetched_and_nothing_runs(pages, name):
    for tag, attrs in pages[name].tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base"}
        for attribute in ("src", "href", "xlink:href"):
            value = attrs.get(attribute)
            assert value is None or value.startswith(("#", "data:image/"))
        assert not any(attribute.startswith("on") for attribute in attrs)
        assert "url(http" not in (attrs.get("style") or "")


@pytest.mark.parametrize("name", ALL)
def test_the_pages_own_policy_forbids_scripts_and_network(pages, name):
    [policy] = [
        attrs["content"]
        for tag, attrs in pages[name].tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@pytest.mark.parametrize("name", ALL)
def test_ids_are_unique_and_every_link_arrives(pages, name):
    ids = pages[name].ids
    assert len(ids) == len(set(ids))
    for _, attrs in pages[name].tags:
        for attribute in ("href", "aria-labelledby"):
            for target in (attrs.get(attribute) or "").split():
                if attribute == "aria-labelledby" or target.startswith("#"):
                    assert target.lstrip("#") in ids


@pytest.mark.parametrize("name", ALL)
def test_tables_have_captions_and_scopes_and_pictures_have_words(pages, name):
    tags = pages[name].tags
    tables = sum(tag == "table" for tag, _ in tags)
    assert sum(tag == "caption" for tag, _ in tags) == tables
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")


def test_a_validation_shows_every_section(pages):
    text = pages["validated"].text
    for words in (
        "Does histology predict progression",
        "May not be used for",
        "with outcome pfi",
        "no features of any of its slides (4)",
        "Median follow-up, months",
        "hospital_b: validation",
        "hospital_a: cross-validation on development patients",
        "support no claim",
        "Patients at risk",
        "Most attended",
        "SC104",
        "C-index: lower bound at least 0.6",
        "5-fold cross-validation, repeated 2 times",
        "TRIPOD+AI",
        "SHA-256",
    ):
        assert words in text, words
    assert "SIMULATED" not in text


def test_development_says_that_nothing_was_validated(pages):
    text = pages["development"].text
    assert "Development report, not validated" in text
    assert "No validation cohort has been evaluated yet." in text
    assert "There is no external validation" in text
    assert "not shown" in text  # the claims
    assert "Pilot data." in text
    assert "No tiles are shown" in text


def test_an_empty_report_says_so_everywhere(pages):
    text = pages["empty"].text
    for words in (
        "has no answer",
        "No flow of patients was recorded.",
        "Nothing has been evaluated.",
        "No calibration curve could be drawn.",
        "No risk groups were formed.",
        "No checks were run.",
        "Whether claims were made beforehand is not known",
    ):
        assert words in text


def test_predictions_from_elsewhere_are_shown_without_a_study(pages):
    text = pages["binary"].text
    assert "made by another program" in text
    assert "AUROC" in text
    assert "Precision" in text


def test_no_gain_is_called_no_gain(pages):
    text = pages["no_gain"].text
    assert "no gain of the model ‘fusion’" in text
    assert "ranked patients by risk better than age" not in text


def test_the_same_content_gives_the_same_bytes(development_only):
    assert render(development_only) == render(development_only)


@pytest.mark.parametrize("which", [(0,), (0, 1)])
def test_simulated_patients_carry_a_banner(validated, development_only, which):
    cohorts = tuple(replace(c, simulated=i in which) for i, c in enumerate(validated.cohorts))
    page = render(replace(development_only, cohorts=cohorts))
    text = Reader(page).text
    assert "SIMULATED DATA." in text
    assert ("Some of these patients" if which == (0,) else "All of these patients") in text
    assert '@top-center { content: "SIMULATED DATA"' in page


def test_text_of_a_cohort_cannot_become_markup(development_only):
    hostile = replace(
        development_only.cohorts[0],
        name=HOSTILE,
        origin=(("source", HOSTILE),),
        variables=(VariableRow(HOSTILE, HOSTILE, HOSTILE, 0),),
    )
    content = replace(
        development_only,
        question=HOSTILE,
        cohorts=(hostile,),
        not_for=(HOSTILE,),
        limits=(HOSTILE,),
        endpoint=HOSTILE,
    )
    page = render(content)
    reader = Reader(page)
    assert "<script" not in page
    assert "onerror" not in {name for _, attrs in reader.tags for name in attrs}
    assert not any(attrs.get("src") == "x" for _, attrs in reader.tags)
    assert reader.text.count("<script>alert(1)</script>") >= 6


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/tile.png",
        "data:text/html;base64,AAAA",
        'data:image/png;base64,AA"onload="x',
        "data:image/svg+xml;base64,AAAA",
    ],
)
def test_a_tile_must_be_a_picture_that_travels_with_the_page(uri):
    with pytest.raises(InputError, match="data URI"):
        TilePicture(uri, "caption")


def test_saving_writes_the_page_and_every_table_beside_it(development_only, tmp_path):
    path = Report(development_only).save(tmp_path / "report.html")
    assert path.read_text() == render(development_only)
    names = {file.stem for file in (tmp_path / "report_tables").iterdir()}
    shown = {attrs["id"] for tag, attrs in Reader(path.read_text()).tags if tag == "table"}
    assert shown <= names
    assert {"all-estimates", "calibration-curves", "risk-group-curves"} <= names


def test_no_old_table_lies_beside_a_new_page(development_only, binary, tmp_path):
    Report(development_only).save(tmp_path / "report.html")
    Report(binary).save(tmp_path / "report.html")
    names = {file.stem for file in (tmp_path / "report_tables").iterdir()}
    assert "flow-1" not in names
    assert "class-curves" in names


def test_a_formula_in_a_cohorts_text_is_harmless_in_every_csv(validated):
    rows = (VariableRow("=cmd|' /C calc'!A0", "@x", "+1", 0),)
    cohort = CohortSummary("-2+3", "development", 3, 1, variables=rows)
    for text in Report(replace(validated, cohorts=(cohort,))).tables().values():
        assert not re.search(r"(^|,)\"?[=@+]", text, re.MULTILINE)
        assert not re.search(r"(^|,)\"?-(?![0-9.]+([,\n]|e-))", text, re.MULTILINE)


def test_a_report_is_saved_as_html_only(validated, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.html"):
        Report(validated).save(tmp_path / "report.pdf")
