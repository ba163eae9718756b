"""An item is answered only where the report holds the answer; what it lacks is left to authors."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from storm_clinic.reporting.content import Provenance
from storm_clinic.reporting.tripod import TripodRow, tripod_rows
from storm_clinic.validation.analyses import (
    Adequacy,
    Analyses,
    Bounded,
    CaseMix,
    CovariateProfile,
    MetaAnalysis,
    Missingness,
    SubgroupAnalysis,
)

# The items of the statement, Collins et al. 2024: 27 with their parts.
ITEMS = tuple(
    item
    for part in (
        "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11",
        "12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 18a 18b 18c 18d 18e 18f 19",
        "20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c",
    )
    for item in part.split()
)


def rows(content) -> dict[str, TripodRow]:
    return {row.item: row for row in tripod_rows(content)}


def with_analyses(content, **analyses):
    """The same content, with these analyses of its evidence."""
    found = Analyses(**analyses)
    return replace(
        content,
        development=content.development.model_copy(update={"analyses": found}),
        validation=tuple(e.model_copy(update={"analyses": found}) for e in content.validation),
    )


def missingness(*cohorts: str) -> tuple[Missingness, ...]:
    return tuple(Missingness(cohort=c, variable="age", n_patients=10, n_missing=1) for c in cohorts)


def adequacy(*cohorts: str) -> tuple[Adequacy, ...]:
    return tuple(
        Adequacy(cohort=c, stage="validation", requirements=(), sentence=f"With {c} ...", method="")
        for c in cohorts
    )


def test_every_item_of_the_statement_is_there_once_and_in_order(validated):
    assert tuple(row.item for row in tripod_rows(validated)) == ITEMS
    assert len({re.match(r"\d+", item)[0] for item in ITEMS}) == 27


def test_what_is_not_answered_in_full_says_what_authors_must_write(validated):
    for row in tripod_rows(validated):
        assert row.what
        assert row.asks
        if row.answered in ("authors", "in part"):
            assert "authors must write: " in row.what
        assert bool(row.anchors) == (row.answered in ("answered", "in part"))


@pytest.mark.parametrize("item", ["1", "2", "3a", "3c", "6c", "8b", "17", "18a", "18d", "27b"])
def test_no_data_can_answer_for_the_authors(validated, item):
    assert rows(validated)[item].answered == "authors"


def test_missing_data_are_answered_only_by_the_table_of_every_cohort(validated):
    # Counts in the cohort table say how many are missing, but not among whom.
    assert rows(validated)["11"].answered == "in part"
    assert rows(validated)["11"].anchors == ("patients",)
    one = with_analyses(validated, missingness=missingness("hospital_a"))
    assert rows(one)["11"].answered == "in part"
    both = with_analyses(validated, missingness=missingness("hospital_a", "hospital_b"))
    assert rows(both)["11"].answered == "answered"
    bare = replace(validated, cohorts=())
    assert rows(bare)["11"].answered == "authors"


def test_sample_size_is_answered_by_what_precision_can_be_reached(validated):
    assert rows(validated)["10"].answered == "authors"
    assert rows(with_analyses(validated, adequacy=adequacy("hospital_b")))["10"].answered == (
        "in part"
    )
    both = with_analyses(validated, adequacy=adequacy("hospital_a", "hospital_b"))
    assert rows(both)["10"].answered == "answered"
    assert "With hospital_a" in rows(both)["10"].what


def test_performance_needs_intervals_curves_and_subgroups(validated):
    found = rows(validated)["23a"]
    assert found.answered == "in part"
    assert "key subgroups" in found.what.split("authors must write")[1]
    groups = SubgroupAnalysis(
        cohort="hospital_b", variable="sex", metric="c_index", model="fusion", strata=(), method=""
    )
    full = with_analyses(validated, subgroups=(groups,))
    assert rows(full)["23a"].answered == "answered"
    assert rows(full)["14"].answered == "in part"
    without = replace(
        full, validation=tuple(e.model_copy(update={"estimates": ()}) for e in full.validation)
    )
    assert rows(without)["23a"].answered != "answered"


def test_measures_name_what_is_not_shown(validated):
    found = rows(validated)["12e"]
    assert found.answered == "in part"
    assert "no clinical utility" in found.what


def test_sites_answer_for_clusters(validated):
    assert rows(validated)["23b"].answered == "authors"
    assert rows(validated)["12d"].answered == "in part"  # no site is split between folds
    pooled = MetaAnalysis(
        cohort="hospital_b", metric="c_index", model="fusion", sites=(), method="",
        pooled=Bounded(value=0.7, lower=0.6, upper=0.8),
    )  # fmt: skip
    found = rows(with_analyses(validated, sites=(pooled,)))
    assert found["23b"].answered == found["12d"].answered == "answered"


def test_case_mix_answers_for_differences(validated):
    assert rows(validated)["20c"].answered == "in part"
    profile = CovariateProfile(
        cohort="hospital_b", variable="age", kind="continuous", n_known=9, n_missing=0
    )
    mix = CaseMix(cohort="hospital_b", variable="age", development=profile, evaluated=profile)
    found = rows(with_analyses(validated, case_mix=(mix,)))
    assert found["20c"].answered == "answered"
    assert found["16"].answered == "in part"  # nobody here knows the setting
    assert found["16"].anchors == ("case-mix",)


def test_flow_is_answered_only_if_every_cohort_tells_it(validated):
    assert rows(validated)["20a"].answered == "answered"
    first, *others = validated.cohorts
    untold = replace(validated, cohorts=(replace(first, flow=()), *others))
    assert rows(untold)["20a"].answered == "in part"
    assert "hospital_a" in rows(untold)["20a"].what
    unfollowed = replace(validated, cohorts=(replace(first, median_follow_up_months=None), *others))
    assert "follow-up" in rows(unfollowed)["20a"].what.split("authors must write")[1]


def test_a_model_is_said_to_be_locked_only_where_its_digest_stands(validated):
    assert rows(validated)["12g"].answered == "answered"
    unknown = replace(validated, provenance=Provenance())
    for item in ("12f", "12g", "24", "22"):
        assert rows(unknown)[item].answered == "authors"
    assert rows(unknown)["18f"].answered == "authors"


def test_items_of_evaluation_do_not_apply_before_a_validation(development_only):
    found = rows(development_only)
    for item in ("12f", "12g", "16", "20c", "24"):
        assert found[item].answered == "not applicable"
        assert found[item].anchors == ()
    assert found["12c"].answered == "answered"


def test_items_of_development_do_not_apply_to_another_programs_predictions(binary):
    found = rows(binary)
    for item in ("9a", "12b", "12c", "15", "22"):
        assert found[item].answered == "not applicable"
    assert found["12a"].answered == "in part"
    assert found["8a"].answered == "authors"  # no endpoint is named
    assert found["18c"].answered == "authors"
    assert found["12e"].anchors == ("performance", "calibration")


def test_a_row_is_a_line_of_a_csv(validated):
    record = rows(validated)["4"].record()
    assert list(record) == [
        "item", "section", "asks", "applies_to", "answered", "where", "what",
    ]  # fmt: skip
    assert record["where"] == "answer"
    assert "development and evaluation" in record["what"]
