"""Rules that cells must obey, checked all at once where a table enters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd

from storm_clinic.cohort.text_table import TextTable, say_rows
from storm_clinic.cohort.values import is_among, is_number
from storm_clinic.errors import CohortError, UnsafeName
from storm_clinic.files import safe_name

_MOST_VALUES = 5
_CHECKSUM = r"[0-9a-fA-F]{32}|[0-9a-fA-F]{64}"


@dataclass(frozen=True)
class Rule:
    """What the cells of one column must be.

    Attributes
    ----------
    column : str
        Column of the table.
    declared_by : str
        Field of cohort.yaml that asks for it.
    passes : callable
        From the cells to True where one is right.
    problem : str
        What the column does otherwise, in words: "holds what is no number".
    fix : str
        What to do about it.
    error : type of CohortError
    quoted : bool
        Whether a message may quote cells; ids stay out of messages, their rows find them.
    """

    column: str
    declared_by: str
    passes: Callable[[pd.Series[str]], pd.Series[bool]]
    problem: str
    fix: str
    error: type[CohortError] = CohortError
    quoted: bool = True


def check_cells(table: TextTable, rules: Sequence[Rule]) -> None:
    """Check every rule on every row and report all that fail together.

    Raises
    ------
    CohortError
        (or `OutcomeError` where only outcomes are wrong) naming file, columns, values and rows.
    """
    # pandera takes a third of a second to import; only those who read a cohort pay.
    import pandera.pandas as pa
    from pandera.errors import SchemaErrors

    for rule in rules:
        table.column(rule.column, asked_by=rule.declared_by)
    checks: dict[str, list[pa.Check]] = {}
    for number, rule in enumerate(rules):
        check = pa.Check(rule.passes, error=str(number))
        checks.setdefault(rule.column, []).append(check)
    schema = pa.DataFrameSchema({name: pa.Column(str, made) for name, made in checks.items()})
    try:
        schema.validate(table.frame, lazy=True)
    except SchemaErrors as problem:
        cases = problem.failure_cases
        known = {str(number) for number in range(len(rules))}
        if not set(cases["check"]) <= known:
            raise  # a rule itself broke: not the data's fault
        failed = [(rules[int(number)], part) for number, part in cases.groupby("check", sort=False)]
        raise _explain(failed, table) from None  # pandera's own text would quote ids


def numeric(column: str, declared_by: str, missing: Collection[str]) -> Rule:
    """Cells are numbers or missing."""
    return Rule(
        column,
        declared_by,
        lambda cells: is_number(cells) | is_among(cells, missing),
        "holds what is no number",
        "Correct them (decimal point, no unit in the cell), or declare them under missing.",
    )


def declared(column: str, declared_by: str, values: Collection[str], missing: set[str]) -> Rule:
    """Cells are one of the declared values or missing."""
    allowed = {*values, *missing}
    return Rule(
        column,
        declared_by,
        lambda cells: is_among(cells, allowed),
        f"holds what is not declared (declared: {', '.join(map(repr, values))})",
        f"Declare them under {declared_by}, or under missing.",
    )


def identifier(column: str, declared_by: str) -> Rule:
    """Cells can become file names, and so cannot be empty."""
    return Rule(
        column,
        declared_by,
        lambda cells: cells.map(_is_safe).astype(bool),
        "holds an unsafe id",
        "Ids are letters, digits, '.', '_', '-', '@', '+' and inner spaces, at most 180, "
        "starting with a letter or digit.",
        quoted=False,
    )


def checksum(column: str, declared_by: str, missing: Collection[str]) -> Rule:
    """Cells are 32 or 64 hexadecimal digits, or missing."""
    return Rule(
        column,
        declared_by,
        lambda cells: is_among(cells, missing) | cells.str.fullmatch(_CHECKSUM),
        "is neither an MD5 (32 hexadecimal digits) nor a SHA-256 (64)",
        "Write the digits alone, as md5sum and sha256sum print them.",
    )


def inside(column: str, declared_by: str, missing: Collection[str]) -> Rule:
    """Cells are absolute paths, paths that stay inside data_root, or missing."""
    return Rule(
        column,
        declared_by,
        lambda cells: cells.map(_stays_inside).astype(bool) | is_among(cells, missing),
        "leaves data_root",
        "Write paths relative to data_root without '..', or absolute.",
    )


def _is_safe(text: str) -> bool:
    try:
        safe_name(text)
    except UnsafeName:
        return False
    return True


def _stays_inside(text: str) -> bool:
    path = PurePosixPath(text)
    return bool(text) and (path.is_absolute() or ".." not in path.parts)


def _explain(failed: list[tuple[Rule, pd.DataFrame]], table: TextTable) -> CohortError:
    lines = [f"{_finding(rule, cases)}. {rule.fix}" for rule, cases in failed]
    kinds = {rule.error for rule, _ in failed}
    kind = kinds.pop() if len(kinds) == 1 else CohortError
    text = lines[0] if len(lines) == 1 else "\n  - ".join(["several problems", *lines])
    return kind(text, where=table.path)


def _finding(rule: Rule, cases: pd.DataFrame) -> str:
    count = f" ({len(cases)} cells)" if len(cases) > 1 else ""
    shown = _values(cases) if rule.quoted else say_rows(sorted(cases["index"]))
    return f"column {rule.column!r} ({rule.declared_by}) {rule.problem}{count}: {shown}"


def _values(cases: pd.DataFrame) -> str:
    by_value = cases.groupby("failure_case", sort=False)["index"].apply(sorted)
    shown = [
        f"{str(value)!r} in {say_rows(rows)}"
        for value, rows in list(by_value.items())[:_MOST_VALUES]
    ]
    if len(by_value) > _MOST_VALUES:
        shown.append(f"{len(by_value) - _MOST_VALUES} more values")
    return "; ".join(shown)
