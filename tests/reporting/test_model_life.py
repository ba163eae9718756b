"""The page says where a model stands, who moved it there, and why it was or was not promoted."""

from __future__ import annotations

from dataclasses import replace

from storm_clinic.registry.decide import Decision, Reason
from storm_clinic.reporting.content import RecordedMove
from storm_clinic.reporting.model_life import decision_table, life_sentence, moves_table
from storm_clinic.reporting.page import render


def moved(content, *moves):
    later = tuple(
        RecordedMove(at, kind, "d.chen", "2026-11-25 10:00", "c3" * 32, detail)
        for at, (kind, detail) in enumerate(moves, start=len(content.moves) + 1)
    )
    return replace(content, moves=(*content.moves, *later))


def test_a_locked_model_is_said_to_be_approved_for_nothing(validated):
    assert life_sentence(validated) == (
        "This version is locked since 2026-11-20 09:00 by a.weber. It is not approved for any use."
    )


def test_a_retired_model_is_said_to_be_so_on_the_first_screen(validated):
    retired = moved(validated, ("approved", ""), ("retired", "Superseded by version 2"))
    first_screen = render(retired).split("<main>")[0]
    assert "retired since 2026-11-25 10:00 by d.chen. Reason: Superseded by version 2." in (
        first_screen
    )


def test_a_refused_promotion_stands_with_every_reason_the_worst_first(validated):
    reasons = (
        Reason(about="claim", standing="for", text="C-index holds"),
        Reason(about="check", standing="open", text="SC106 fails <b>"),
    )
    decision = Decision(verdict="refused", reasons=reasons, evidence={})
    refused = replace(moved(validated, ("promotion_refused", "")), decision=decision)
    table = decision_table(refused)
    assert [record["standing"] for record in table.records] == ["open", "for"]
    page = render(refused)
    assert "SC106 fails &lt;b&gt;" in page
    assert "A promotion was refused on 2026-11-25 10:00." in page


def test_predictions_of_another_program_have_no_life_here(binary):
    assert life_sentence(binary) == ""
    assert moves_table(binary) is None
    assert 'id="life"' not in render(binary)
