"""Tree models as arrays of bytes without pickle: skops archives of a fixed list of types.

What skops trusts by itself is more than these models need; anything outside our list is refused
in writing, because such a model could not be locked, and in reading, before anything is built.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import InputError, RegistryError
from storm_clinic.files import parse_json

TRUSTED: frozenset[str] = frozenset(
    {
        "builtins.dict",
        "builtins.list",
        "builtins.str",
        "builtins.tuple",
        "numpy.int64",
        "numpy.ndarray",
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.tree._classes.DecisionTreeClassifier",
        "sklearn.tree._classes.DecisionTreeRegressor",
        "sklearn.tree._tree.Tree",
        "sksurv.ensemble.forest.RandomSurvivalForest",
        "sksurv.tree.tree.SurvivalTree",
    }
)
# How skops may build them: none of these calls anything that an archive could choose.
_LOADERS = frozenset(
    {
        "DictNode",
        "JsonNode",
        "ListNode",
        "NdArrayNode",
        "ObjectNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
    }
)
_PLAIN = frozenset({"JsonNode", "TypeNode"})  # values without an identity
_SCHEMA = "schema.json"
# Trees shrink to a tenth or so; what claims to unpack to more is no archive of ours.
_FREE_BYTES, _MOST_RATIO = 64 << 20, 64
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(estimator: Any) -> NDArray[np.uint8]:
    """An estimator as the bytes of its archive; the same estimator gives the same bytes.

    skops names members by addresses in memory and stamps them with the time, and records of nodes
    have gaps that hold whatever was in memory before; all of that is replaced.

    Raises
    ------
    RegistryError
        If it holds a type that is not in our list, so that it cannot be locked.
    """
    from skops.io import dumps

    try:
        with zipfile.ZipFile(io.BytesIO(dumps(estimator))) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except TypeError as error:
        raise RegistryError(
            f"cannot be stored without pickle, and so cannot be locked: {error}",
            where=f"estimator {type(estimator).__name__}",
        ) from error
    schema = json.loads(members[_SCHEMA])
    stranger = _stranger(schema)
    if stranger is not None:
        raise RegistryError(
            f"holds the type {stranger}, which is not among those that locked models may hold; "
            "it cannot be locked",
            where=f"estimator {type(estimator).__name__}",
            fix="Use an estimator of scikit-learn's or scikit-survival's trees.",
        )
    names = _renumber(schema)
    return _zipped(schema, {new: _without_padding(members[old]) for old, new in names.items()})


def unpack(array: NDArray[np.uint8], *, where: str) -> Any:
    """The estimator whose bytes these are.

    Raises
    ------
    InputError
        If the archive is damaged, or holds a type that is not in our list.
    """
    from skops.io import loads

    data = np.asarray(array, dtype=np.uint8).tobytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            n_unpacked = sum(info.file_size for info in archive.infolist())
            if n_unpacked > _FREE_BYTES + _MOST_RATIO * len(data):
                raise InputError(
                    f"the archive of its trees has {len(data)} bytes and would unpack to "
                    f"{n_unpacked}; nothing of it was loaded",
                    where=where,
                )
            damaged = archive.testzip()
            schema = parse_json(archive.read(_SCHEMA))
            stranger = _stranger(schema)
    except InputError:
        raise
    except Exception as error:  # zipfile documents no list of what it raises on damage
        raise InputError(f"the archive of its trees is damaged: {error}", where=where) from error
    if damaged is not None:
        raise InputError(f"the archive of its trees is damaged: {damaged}", where=where)
    if stranger is not None:
        raise InputError(
            f"the archive holds the type {stranger}, which locked models may not hold; nothing of "
            "it was loaded",
            where=where,
            fix="Restore the model from where it was locked; this file was made by something else.",
        )
    try:
        found = loads(data, trusted=sorted(TRUSTED))
        trees = list(_trees(found, None))
        widths = {tree.n_features for tree, _ in trees} | {width for _, width in trees} - {None}
        is_sound = len(widths) == 1 and all(_is_sound(tree) for tree, _ in trees)
    except Exception as error:  # nor does skops
        raise InputError(f"the archive of its trees is damaged: {error}", where=where) from error
    if not is_sound:
        raise InputError(
            "the archive of its trees is damaged: a node leads out of its tree", where=where
        )
    return found


def _trees(part: Any, width: int | None) -> Iterator[tuple[Any, int | None]]:
    """Every tree of an estimator or a list of them, and how many columns its owner takes."""
    if isinstance(part, list | tuple):
        for member in part:
            yield from _trees(member, width)
        return
    width = getattr(part, "n_features_in_", width)
    if hasattr(part, "estimators_"):
        yield from _trees(part.estimators_, width)
    else:
        yield part.tree_, width


def _is_sound(tree: Any) -> bool:
    """Whether every path ends at a leaf of the tree, by columns that there are.

    scikit-learn follows the nodes of a tree unchecked, beyond its memory if they say so.
    """
    left, right = tree.children_left, tree.children_right
    inner = left != -1
    here = np.flatnonzero(inner)
    children_follow = all(
        bool(((child[inner] > here) & (child[inner] < tree.node_count)).all())
        for child in (left, right)
    )
    column = tree.feature[inner]
    return bool(
        children_follow
        and (right[~inner] == -1).all()
        and tree.node_count > 0
        and ((column >= 0) & (column < tree.n_features)).all()
    )


def _stranger(schema: dict[str, Any]) -> str | None:
    """The first type that is not in our list, or that is built in another way than ours are."""
    for node in _nodes(schema):
        name = f"{node.get('__module__')}.{node.get('__class__')}"
        if name not in TRUSTED:
            return name
        if node.get("__loader__") not in _LOADERS:
            return f"{name} by {node.get('__loader__')}"
    return None


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every described object, in order; a dict with any of these marks counts as one."""
    if isinstance(part, dict):
        if part.keys() & {"__class__", "__module__", "__loader__"}:
            yield part
        for value in part.values():
            yield from _nodes(value)
    elif isinstance(part, list):
        for value in part:
            yield from _nodes(value)


def _renumber(schema: dict[str, Any]) -> dict[str, str]:
    """Number objects by their order instead of their address; new name of each member."""
    numbers: dict[Any, int] = {}
    names: dict[str, str] = {}
    for node in _nodes(schema):
        if "__id__" in node:
            # Whether two equal plain values are one object is chance, and means nothing.
            own = (node["__class__"], node.get("content")) if node["__loader__"] in _PLAIN else None
            node["__id__"] = numbers.setdefault(own or node["__id__"], len(numbers))
        if "file" in node:
            node["file"] = names.setdefault(node["file"], f"{len(names)}.npy")
    return names


def _without_padding(data: bytes) -> bytes:
    """An array file whose records have zeros between their fields."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.names is None:
        return data
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def _zipped(schema: dict[str, Any], members: dict[str, bytes]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        text = json.dumps(schema, separators=(",", ":")).encode()
        for name, data in {_SCHEMA: text, **members}.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
            info.create_system = 3  # as on Unix, wherever it is written
            archive.writestr(info, data, compresslevel=6)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8).copy()
