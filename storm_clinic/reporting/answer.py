"""The answer to the question, in one sentence with its uncertainty."""

from __future__ import annotations

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import count, in_words, interval_of, value_of
from storm_clinic.reporting.phrases import capital, composition, opponent, subject, verb_of
from storm_clinic.reporting.readings import Reading, readings
from storm_clinic.validation.measures import MEASURES


def answer(content: ReportContent) -> str:
    """The answer to the question, in one sentence with its uncertainty."""
    found = readings(content)
    if not found:
        return "Nothing has been estimated yet, so the question has no answer."
    start = "Simulated: " if content.simulated else ""
    if len(found) == 1:
        return capital(f"{start}{_one(content, found[0])}")
    return capital(f"{start}{_several(content, found)}")


def _one(content: ReportContent, reading: Reading) -> str:
    value = reading.value
    who = subject(content, content.candidate)
    if reading.verdict == "not estimated" or value is None:
        reason = value.note if value is not None and value.note else "it was not computed"
        return f"how well the {who} {verb_of(reading.outcome)} cannot be said, because {reason}."
    place = (
        f"in {count(value.n_patients)} patients of {reading.cohort} "
        f"({composition(reading.outcome, value.n_events)})"
    )
    if reading.kind == "external":
        # Who made predictions elsewhere may have trained on anybody.
        place += ", none of them used for training," if content.study is not None else ""
        tail = "."
    else:
        place += ", by cross-validation among the patients it was developed on,"
        tail = "; no independent cohort has tested it yet."
    return f"{place} {_statement(content, reading, who)}{tail}"


def _statement(content: ReportContent, reading: Reading, who: str) -> str:
    value, gain, against = reading.value, reading.gain, opponent(content)
    assert value is not None  # _one has dealt with that
    measured = f"{MEASURES[reading.metric].label} {in_words(value)}"
    change = in_words(gain) if gain is not None else "not computed"
    does, did = verb_of(reading.outcome), verb_of(reading.outcome, past=True)
    if reading.verdict == "reversed":
        return f"the {who} {did} worse than chance: {measured}"
    if reading.verdict == "chance":
        return f"it was not shown that the {who} {does} better than chance: {measured}"
    if reading.verdict == "alone":
        clause = "with no clinical comparator, so that nothing is known about added value"
        if content.comparator == content.candidate:
            clause = "being itself the clinical comparator"
        return f"the {who} {did} better than chance: {measured}, {clause}"
    if reading.verdict == "gain unknown":
        return (
            f"the {who} {did} better than chance: {measured}; its gain over {against} is {change}"
        )
    other = reading.comparator
    beside = f", against {value_of(other)}" if other and other.value is not None else ""
    numbers = f"{measured}{beside}, difference {change}"
    if reading.verdict == "no gain":
        return f"no gain of the {who} over {against} was shown: {numbers}"
    word = "better" if reading.verdict == "gain" else "worse"
    hedge = " on average" if reading.kind == "cross-validation" else ""
    return f"the {who} {did} {word} than {against}{hedge}: {numbers}"


def _several(content: ReportContent, found: list[Reading]) -> str:
    kind = "validation cohorts" if found[0].kind == "external" else "development cohorts"
    wins = sum(reading.verdict == "gain" for reading in found)
    losses = sum(reading.verdict == "loss" for reading in found)
    who, against = subject(content, content.candidate), opponent(content)
    if content.comparator in (None, content.candidate):
        shown = sum(reading.verdict == "alone" for reading in found)
        does = verb_of(found[0].outcome).split(" ", 1)
        ranked = f"was shown to {does[0].removesuffix('s')} {does[1]} better than chance"
        start = f"the {who} {ranked} in {_of(shown, found)}"
    else:
        start = f"a gain of the {who} over {against} was shown in {_of(wins, found)}"
    worse = f", and a loss in {losses}" if losses else ""
    return f"{start} {kind}{worse}: {'; '.join(_brief(reading) for reading in found)}."


def _of(n: int, found: list[Reading]) -> str:
    return f"none of {len(found)}" if n == 0 else f"{n} of {len(found)}"


def _brief(reading: Reading) -> str:
    if reading.value is None or reading.value.value is None:
        return f"{reading.cohort}, not estimable"
    text = f"{reading.cohort}, {MEASURES[reading.metric].label} {value_of(reading.value)}"
    text += f" ({interval_of(reading.value)})"
    if reading.gain is None or reading.gain.value is None:
        return text
    return f"{text}, difference {value_of(reading.gain)} ({interval_of(reading.gain)})"
