"""Bars are few, and a log has one line for each piece of work."""

from __future__ import annotations

from storm_clinic.cli.console import bars
from storm_clinic.progress import split_note, with_note


def test_a_note_changes_without_a_line_of_its_own_until_the_work_is_over(capsys):
    with bars() as progress:
        for stage in range(3):
            progress(with_note("abmil, repeat 1, fold 2", f"stage {stage}"), 0, 2)
        progress(with_note("abmil, repeat 1, fold 2", "fitted"), 1, 1)
        progress("cross-validate abmil", 1, 2)
        progress("cross-validate abmil", 2, 2)
    assert capsys.readouterr().err.splitlines() == [
        "abmil, repeat 1, fold 2: fitted",
        "cross-validate abmil: 2 of 2",
    ]


def test_a_note_comes_back_apart_from_what_is_done():
    assert split_note(with_note("fold 1", "held-out -3.2")) == ("fold 1", "held-out -3.2")
    assert split_note("extract north: tiles") == ("extract north: tiles", "")
