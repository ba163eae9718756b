"""What became of a model version: every move on record, and the decision with its reasons."""

from __future__ import annotations

from storm_clinic.reporting.content import RecordedMove, ReportContent
from storm_clinic.reporting.tables import Cell, Row, Table

_STANDINGS = {"for": "pass", "against": "fail", "open": "warn"}
_MOVED = {
    "candidate": "trained and registered",
    "locked": "locked",
    "cohort_added": "cohort named after the lock",
    "predictions_sealed": "predictions sealed",
    "validated": "outcomes joined",
    "promotion_refused": "promotion refused",
    "approved": "approved",
    "rejected": "rejected",
    "retired": "retired",
}


def life_sentence(content: ReportContent) -> str:
    """Where the version stands now, by whom and since when; empty where no move is known."""
    if not content.moves:
        return ""
    states = ("candidate", "locked", "approved", "rejected", "retired")
    last = [move for move in content.moves if move.kind in states][-1]
    since = f"since {last.when} by {last.by}"
    text = f"This version is {last.kind} {since}."
    if last.kind == "retired":
        return f"{text} Reason: {last.detail}. It may not be used any more."
    refused = [move for move in content.moves if move.kind == "promotion_refused"]
    if refused and last.kind == "locked":
        text += f" A promotion was refused on {refused[-1].when}."
    if last.kind != "approved":
        text += " It is not approved for any use."
    return text


def moves_table(content: ReportContent, slug: str = "moves") -> Table | None:
    """Every move on record, oldest first; None where there are none."""
    if not content.moves:
        return None
    header = (Cell("When (UTC)"), Cell("What"), Cell("By"), Cell("Event"))
    rows = tuple(
        Row(
            (
                Cell(move.when),
                Cell(_MOVED.get(move.kind, move.kind), move.detail),
                Cell(move.by, "signed" if move.signed else "unsigned"),
                Cell(f"{move.seq}: {move.digest[:12]}"),
            )
        )
        for move in content.moves
    )
    records = tuple(_record(move) for move in content.moves)
    return Table(slug, "Moves of this version, as the trail has them", header, rows, records)


def decision_table(content: ReportContent, slug: str = "decision") -> Table | None:
    """The latest decision on a promotion with all its reasons; None where none was made."""
    decision = content.decision
    if decision is None:
        return None
    order = ("against", "open", "for")
    reasons = sorted(decision.reasons, key=lambda reason: order.index(reason.standing))
    rows = tuple(
        Row(
            (
                Cell(reason.about),
                Cell(reason.standing, tone=_STANDINGS[reason.standing]),
                Cell(reason.text),
            )
        )
        for reason in reasons
    )
    records = tuple({"verdict": decision.verdict, **reason.model_dump()} for reason in reasons)
    header = (Cell("About"), Cell("Speaks"), Cell("Reason"))
    caption = f"Decision on the promotion: {decision.verdict}"
    return Table(slug, caption, header, rows, records)


def _record(move: RecordedMove) -> dict[str, str | int | bool]:
    return {
        "seq": move.seq,
        "when": move.when,
        "event": move.kind,
        "by": move.by,
        "signed": move.signed,
        "detail": move.detail,
        "digest": move.digest,
    }
