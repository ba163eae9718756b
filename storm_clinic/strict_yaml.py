"""Declarations in YAML: frozen models that refuse unknown keys, and errors that name the line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)

from storm_clinic.errors import InputError

_DEEPEST = 32  # levels of keys and lists; ours have seven
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class StrictModel(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(path: Path, error: type[InputError]) -> CommentedMap:
    """Read one YAML 1.2 mapping of plain keys and values.

    Duplicate keys, anchors, aliases, merges, tags, directives and all that is no mapping are
    refused.
    """
    # "rt" keeps line numbers for messages and builds no Python objects from tags.
    yaml = YAML(typ="rt", pure=True)
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_indirection(yaml.parse(text), path, error)
        document = yaml.load(text)
    except FileNotFoundError:
        raise error("there is no such file", where=path) from None
    except UnicodeDecodeError as problem:
        raise error(f"not UTF-8 text: {problem}", where=path, fix="Save it as UTF-8.") from problem
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=path) from problem
    except YAMLError as problem:
        raise error(_yaml_problem(problem), where=path) from problem
    except RecursionError as problem:
        raise error("nested too deeply", where=path) from problem
    except ValueError as problem:  # what looks like a date or a number, and is none
        raise error(
            f"a value cannot be read: {problem}", where=path, fix="Put it in quotes if it is text."
        ) from problem
    if not isinstance(document, CommentedMap):
        raise error("must hold keys and values at its top", where=path)
    _check_keys(document, path, error)
    return document


def _refuse_indirection(events: Iterable[Event], path: Path, error: type[InputError]) -> None:
    """What stands in a declaration is what is meant: nothing refers, merges or changes its type.

    A few aliases of aliases would unfold to more than any memory holds; under ``%YAML 1.1`` a level
    called ``no`` would be false.
    """
    depth, found = 0, []
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:  # its reader takes the cube of the depth
            raise error(f"line {event.start_mark.line + 1}: nested too deeply", where=path)
        what = _indirection(event)
        if what is not None:
            found.append((event, what))
    for event, what in sorted(found, key=lambda item: not isinstance(item[0], AliasEvent))[:1]:
        raise error(
            f"line {event.start_mark.line + 1}: {what} are not read",
            where=path,
            fix="Write the value out.",
        )


def _indirection(event: Event) -> str | None:
    if isinstance(event, AliasEvent):
        return "aliases (*)"
    if isinstance(event, DocumentStartEvent):
        other = event.tags or event.version not in (None, (1, 2))
        return "directives (%) but '%YAML 1.2'" if other else None
    if isinstance(event, ScalarEvent) and event.value == "<<" and event.style is None:
        return "merges (<<)"
    if not isinstance(event, NodeEvent):
        return None
    if event.anchor is not None:
        return "anchors (&)"
    # Other events of nodes have no tag.
    return "tags (!)" if getattr(event, "tag", None) is not None else None


def _check_keys(node: Any, path: Path, error: type[InputError]) -> None:
    """1 and "1" are two keys for YAML and one for us: keys are text from here on."""
    if isinstance(node, CommentedMap):
        where = f"{path}, line {node.lc.line + 1}"
        if not all(isinstance(key, str | int | float) for key in node):
            raise error("a key must be a word or a number", where=where)
        if len({str(key) for key in node}) < len(node):
            raise error("two keys differ only in their quotes", where=where)
    if isinstance(node, CommentedMap | CommentedSeq):
        for item in node.values() if isinstance(node, CommentedMap) else node:
            _check_keys(item, path, error)


M = TypeVar("M", bound=StrictModel)


def parse(model: type[M], document: Mapping[str, Any], *, where: str, error: type[InputError]) -> M:
    """Validate a mapping, turning pydantic's findings into one readable error."""
    try:
        return model.model_validate(plain(document))
    except ValidationError as problem:
        lines = [_finding(item, document, model) for item in problem.errors()]
        text = lines[0] if len(lines) == 1 else "\n  - ".join(["several problems", *lines])
        raise error(text, where=where) from problem


def plain(value: Any) -> Any:
    """The same document in built-in types, without ruamel's line bookkeeping."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _finding(item: Any, document: Mapping[str, Any], model: type[BaseModel]) -> str:
    absent = item["type"] == "missing"
    location = _without_tags(document, item["loc"], last_is_absent=absent)
    if item["type"].startswith("union_tag"):
        location += (item["ctx"]["discriminator"].strip("'"),)
    field = ".".join(str(part) for part in location) or "the file"
    line = _line(document, location)
    at = f"line {line}, {field}" if line else field
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, item["loc"][:-1])
        return f"{at}: unknown key{did_you_mean(str(location[-1]), known)}"
    if item["type"] in ("missing", "union_tag_not_found"):
        return f"{at}: this key is missing"
    if item["type"] == "union_tag_invalid":
        known = [tag.strip("'") for tag in item["ctx"]["expected_tags"].split(", ")]
        return f"{at}: unknown {location[-1]} {item['ctx']['tag']!r}" + did_you_mean(
            item["ctx"]["tag"], known
        )
    message = item["msg"].removeprefix("Value error, ")
    return f"{at}: {message}" if location else message


def _without_tags(
    document: Any, location: tuple[Any, ...], *, last_is_absent: bool
) -> tuple[Any, ...]:
    """The location less what pydantic inserts where one of several types was chosen.

    Everything on the way to a finding stands in the document, but for a key that is missing there.
    """
    kept: list[Any] = []
    node = document
    for at, part in enumerate(location):
        key = _key_in(node, part)
        if key is not None:
            node = node[key]
        elif not (last_is_absent and at == len(location) - 1):
            continue
        kept.append(part)
    return tuple(kept)


def _key_in(node: Any, part: Any) -> Any:
    """The key or position under which a node holds a part of a location, or None."""
    if isinstance(node, Mapping):
        return next((key for key in node if key == part or str(key) == str(part)), None)
    inside = isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
    return part if inside else None


def _line(document: Any, location: tuple[Any, ...]) -> int | None:
    line = None
    node = document
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line


def _known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Keys allowed at a location, found by walking the models' annotations."""
    schema = model.model_json_schema(by_alias=True)
    node: Any = schema
    for part in location:
        node = _deref(schema, node)
        if part == "range" and "from" in node.get("properties", {}):
            continue  # no key, but the type that was chosen
        if "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"].get(part, "")}
        elif isinstance(part, int):
            node = node.get("items", {})
        else:
            values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
            node = node.get("properties", {}).get(part) or values[0]
    return list(_deref(schema, node).get("properties", {}))


def _deref(schema: dict[str, Any], node: Any) -> dict[str, Any]:
    if not isinstance(node, dict):
        return {}
    tagged = () if "discriminator" in node else node.get("oneOf", ())
    for option in (*node.get("anyOf", ()), *tagged):
        if "$ref" in option:
            node = option
    reference = node.get("$ref")
    if reference:
        node = schema["$defs"].get(reference.rsplit("/", 1)[-1], {})
    return dict(node)


def did_you_mean(word: str, known: list[str]) -> str:
    """The end of a message about an unknown word: its nearest known one, or all that are known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


def _yaml_problem(problem: YAMLError) -> str:
    mark = getattr(problem, "problem_mark", None)
    at = f"line {mark.line + 1}: " if mark else ""
    reason = getattr(problem, "problem", None) or str(problem)
    return f"{at}{' '.join(str(reason).split())}"
