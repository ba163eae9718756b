"""Licences have a meaning, and a use that they forbid is refused by name."""

from __future__ import annotations

import pytest

from storm_clinic.encoders.catalogue import (
    encoder_names,
    find_card,
    find_slide_card,
    slide_encoder_names,
)
from storm_clinic.encoders.readiness import encoder_readiness
from storm_clinic.licence_terms import LICENCES, RIGHTS, UNKNOWN, joined, terms_of
from storm_clinic.licences import NEEDS, USES, conflicts


def test_every_encoder_of_the_catalogue_has_terms_on_record_or_says_that_it_states_none():
    cards = [find_card(name) for name in encoder_names()]
    cards += [find_slide_card(name) for name in slide_encoder_names()]
    unknown = {card.name for card in cards if not terms_of(card.licence).is_known}
    assert unknown == {card.name for card in cards if card.licence.startswith("not stated")}
    assert len(cards) > 30


def test_what_is_gated_and_forbids_derivatives_may_not_be_deployed_or_sold():
    # The encoders that docs/encoders.md names as extending to models trained on their outputs.
    tiles = ["conch", "conch-v1.5", "uni", "uni2-h", "virchow2", "h0-mini", "h-optimus-1"]
    cards = [*map(find_card, tiles), find_slide_card("titan"), find_slide_card("prism")]
    for card in cards:
        terms = terms_of(card.licence)
        assert (terms.commercial, terms.deployment, terms.redistribution) == ("no", "no", "no")
        assert terms.derivatives == "ask"


def test_deployed_use_of_gigapath_is_forbidden_though_its_file_is_apache():
    [conflict] = conflicts("internal", [("encoder", find_card("prov-gigapath").licence)])
    assert conflict.severity == "refuse"
    assert conflict.rights == ("deployment",)
    assert "out of scope" in conflict.reason
    assert conflicts("research", [("encoder", find_card("prov-gigapath").licence)]) == ()


@pytest.mark.parametrize(
    "written", ["CC-BY-NC-ND-4.0", "CC BY-NC-ND 4.0", "cc-by-nc-nd-4.0", " CC BY NC ND 4.0 "]
)
def test_a_licence_is_known_however_it_is_written(written):
    assert terms_of(written).identifier == "CC-BY-NC-ND-4.0"


@pytest.mark.parametrize("text", [None, "", "research use", "CC-BY-NC-ND-9.0", "Apache"])
def test_what_is_not_on_record_is_not_guessed(text):
    assert terms_of(text) == UNKNOWN
    assert all(UNKNOWN.allows(right) == "ask" for right in RIGHTS)


def test_no_two_licences_share_a_name():
    names = [name for terms in LICENCES for name in (terms.identifier, *terms.names)]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(terms_of(terms.identifier) == terms for terms in LICENCES)
    assert all(terms.source for terms in LICENCES)


@pytest.mark.parametrize(
    ("use", "licence", "expected"),
    [
        ("research", "MIT", []),
        ("commercial", "MIT", []),
        ("commercial", "Apache-2.0", []),
        ("research", "CC-BY-NC-ND-4.0", [("say", ("derivatives",))]),
        (
            "clinical_investigation",
            "CC-BY-NC-ND-4.0",
            [("refuse", ("deployment",)), ("say", ("derivatives",))],
        ),
        (
            "commercial",
            "CC-BY-NC-ND-4.0",
            [
                ("refuse", ("commercial", "deployment", "redistribution")),
                ("say", ("derivatives",)),
            ],
        ),
        ("internal", "Owkin non-commercial", [("say", ("derivatives", "deployment"))]),
        (
            "commercial",
            "Owkin non-commercial",
            [("refuse", ("commercial",)), ("say", ("derivatives", "deployment", "redistribution"))],
        ),
        ("commercial", "AGPL-3.0", [("say", ("deployment", "redistribution"))]),
        ("research", "AGPL-3.0", []),
        ("research", "research use", [("say", ("derivatives",))]),
        ("commercial", None, [("say", RIGHTS)]),
    ],
)
def test_a_use_is_refused_where_it_is_forbidden_and_said_where_one_must_ask(use, licence, expected):
    found = conflicts(use, [("encoder x", licence)])
    assert [(conflict.severity, conflict.rights) for conflict in found] == expected
    assert all(conflict.what == "encoder x" for conflict in found)


def test_refusals_come_first_and_name_what_they_are_about():
    found = conflicts(
        "commercial",
        [("data of a", None), ("encoder uni", "CC-BY-NC-ND-4.0"), ("data of b", "MIT")],
    )
    assert [c.what for c in found] == ["encoder uni", "data of a", "encoder uni"]
    assert [c.severity for c in found] == ["refuse", "say", "say"]
    assert str(found[0]).startswith(
        "encoder uni (CC-BY-NC-ND-4.0): for commercial use the licence does not allow commercial "
        "use, deployed or clinical use, passing on models made with it (cards of Mahmood Lab"
    )
    assert str(found[1]) == ("data of a (not stated): ask whether commercial use is allowed")


def test_of_licences_that_apply_together_the_strictest_answer_counts():
    both = joined("AGPL-3.0", "CC-BY-NC-ND-4.0", "AGPL-3.0")
    assert both == "AGPL-3.0 AND CC-BY-NC-ND-4.0"
    terms = terms_of(both)
    assert [terms.allows(right) for right in RIGHTS] == ["ask", "no", "no", "no"]
    assert joined(both, "MIT") == f"{both} AND MIT"
    assert joined(None, None) is None
    # What is not stated stays visible, and lets nothing through that the other forbids.
    half = joined("Apache-2.0", None)
    assert half == "Apache-2.0 AND not stated"
    assert all(terms_of(half).allows(right) == "ask" for right in RIGHTS)
    assert conflicts("commercial", [("x", joined(None, "Owkin non-commercial"))])[0].severity == (
        "refuse"
    )


def test_every_use_that_a_study_may_declare_has_needs_and_words():
    from storm_clinic.study import Study

    declared = Study.model_json_schema()["properties"]["intended_use"]
    assert set(declared["enum"]) == set(NEEDS) == set(USES)
    assert declared["default"] == "research"


def test_the_list_of_encoders_says_what_each_licence_allows():
    rows = {row.name: row for row in encoder_readiness()}
    assert rows["uni"].allows == "train ask, sell no, deploy no, pass on no"
    assert rows["efficientnet-lite0"].allows == "train yes, sell yes, deploy yes, pass on yes"
