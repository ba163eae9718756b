"""Text and JSON that a parser does not expect, for hypothesis to draw from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

# Each breaks one assumption: a type, a size, an encoding, a rule of YAML.
SCALARS = [
    "",
    "~",
    "null",
    "true",
    "no",
    ".nan",
    "-.inf",
    "0",
    "-1",
    "1e400",
    "0x10",
    "0o7",
    "1_000",
    "9" * 5000,
    "2001-13-45",
    "2001-01-01T99:00:00Z",
    "12:30:45",
    "0b",
    "-0x",
    "''",
    '"\\ud800"',
    "'a\u0000b'",
    "[]",
    "{}",
    "[[]]",
    "[1, 2",
    "{a: 1}",
    "{? [a]: b}",
    "{1: a, '1': b}",
    "&a b",
    "*a",
    "<<",
    "!!int x",
    "!!float y",
    "!!timestamp z",
    "!!binary '%'",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!python/object/apply:os.system [true]",
    "!local {a: 1}",
    "!!bool maybe",
    "!!null x",
    "!!str",
    "../../etc/passwd",
    "a/b",
    "${HOME}",
    "=1+1",
    "<script>",
    "|\n  x",
    ">",
    "? a",
    "- a",
    "\t",
    "%",
    "@",
    "`",
    "[" * 300,
    "{a: " * 150,
    "---",
    "...",
    "%YAML 9.9",
    "\u2028",
    "\ufeff",
    "\u00e9",
    "#",
]
KEYS = ["<<: {format: 2}", "? [a, b]\n: c", "? {a: b}\n: c", "1: x", "~: x", ".nan: y", "format: 1"]

scalars = st.sampled_from(SCALARS) | st.text(max_size=8) | st.floats().map(str)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**6, 10**12, -1, 10**400])
    | st.floats()
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def edited_yaml(draw: Callable[..., Any], text: str) -> str:
    """A valid file with up to three values, keys or lines replaced, doubled, cut or inserted."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        how = draw(st.sampled_from(["value", "inner", "key", "double", "drop", "insert", "cut"]))
        key, colon, _ = line.partition(":")
        if how == "value" and colon:
            lines[at] = f"{key}: {draw(scalars)}"
        elif how == "inner" and ": " in line[len(key) + 1 :]:
            place = draw(st.integers(len(key) + 1, len(line)))
            start = line.find(": ", place)
            end = min((e for e in (line.find(m, start + 2) for m in ",}]") if e > 0), default=-1)
            if start > 0 and end > 0:
                lines[at] = line[: start + 2] + draw(scalars) + line[end:]
        elif how == "key":
            indent = line[: len(line) - len(line.lstrip())]
            lines.insert(at, indent + draw(st.sampled_from(KEYS)))
        elif how == "double":
            lines.insert(at, line)
        elif how == "drop" and len(lines) > 1:
            del lines[at]
        elif how == "insert":
            lines.insert(at, draw(scalars))
        elif how == "cut":
            lines[at] = line[: draw(st.integers(0, len(line)))]
    return "\n".join(lines) + "\n"


@st.composite
def edited_json(draw: Callable[..., Any], document: Any) -> Any:
    """A JSON document in which one or two nodes, at any depth, are replaced, renamed or removed."""
    found = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        node, parent, key = found, None, None
        for _ in range(draw(st.integers(1, 6))):
            if not isinstance(node, dict | list) or not node:
                break
            keys = sorted(node) if isinstance(node, dict) else range(len(node))
            key = draw(st.sampled_from(keys))
            parent, node = node, node[key]
        if parent is None:
            return draw(json_values)
        how = draw(st.sampled_from(["replace", "remove", "rename"]))
        if how == "replace":
            parent[key] = draw(json_values)
        else:
            value = parent.pop(key)
            if how == "rename" and isinstance(parent, dict):
                parent[draw(st.text(max_size=5))] = value
    return found
