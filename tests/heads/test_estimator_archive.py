"""Archives of trees: the same bytes for the same trees, and nothing but trees."""

from __future__ import annotations

import io
import json
import time
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeRegressor
from sksurv.ensemble import RandomSurvivalForest
from sksurv.util import Surv

from storm_clinic.errors import InputError, RegistryError
from storm_clinic.heads.estimator_archive import TRUSTED, pack, unpack


def training() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    design = rng.normal(size=(60, 4))
    return design, (design[:, 0] + rng.normal(size=60) > 0).astype(np.int64)


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(5, random_state=0).fit(*training())


def survival_forest() -> RandomSurvivalForest:
    design, label = training()
    times = np.arange(1.0, 61)
    return RandomSurvivalForest(5, random_state=0).fit(design, Surv.from_arrays(label == 1, times))


def tree() -> DecisionTreeRegressor:
    return DecisionTreeRegressor(max_depth=2, random_state=0).fit(*training())


def rebuilt(array: np.ndarray, **members: bytes) -> np.ndarray:
    """The archive with some members replaced."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(array.tobytes())) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name, old.read(name)))
    return np.frombuffer(buffer.getvalue(), np.uint8)


def schema_of(array: np.ndarray) -> dict:
    with zipfile.ZipFile(io.BytesIO(array.tobytes())) as archive:
        return json.loads(archive.read("schema.json"))


@pytest.mark.parametrize("make", [forest, survival_forest, tree])
def test_trees_come_back_and_predict_bit_equally(make):
    model, (design, _) = make(), training()
    array = pack(model)
    assert array.dtype == np.uint8
    again = unpack(array, where="test")
    assert type(again) is type(model)
    np.testing.assert_array_equal(again.predict(design), model.predict(design))


@pytest.mark.parametrize("make", [forest, survival_forest, tree])
def test_two_archives_of_one_model_are_the_same_bytes_at_any_time(make, monkeypatch):
    model = make()
    first = pack(model)
    later = time.time() + 86_400 * 400
    monkeypatch.setattr(time, "time", lambda: later)
    np.testing.assert_array_equal(pack(model), first)
    np.testing.assert_array_equal(pack(make()), first)
    np.testing.assert_array_equal(pack(unpack(first, where="test")), first)


def test_the_archive_bears_neither_addresses_nor_times():
    with zipfile.ZipFile(io.BytesIO(pack(forest()).tobytes())) as archive:
        names = sorted(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names == sorted(["schema.json", *(f"{i}.npy" for i in range(len(names) - 1))])


@pytest.mark.parametrize(
    ("estimator", "stranger"),
    [
        (LogisticRegression(), "sklearn.linear_model._logistic.LogisticRegression"),
        # skops trusts these by itself; we do not.
        ([np.random.RandomState(0)], "numpy.random.mtrand.RandomState"),
        (GradientBoostingClassifier(), "sklearn.ensemble._gb.GradientBoostingClassifier"),
        ({"rate": Fraction(1, 3)}, "fractions.Fraction"),
        ([len], "builtins.len"),
        (forest().set_params(class_weight={0: np.float32(1)}), "numpy.float32"),
    ],
)
def test_another_type_cannot_be_locked_and_is_named(estimator, stranger):
    with pytest.raises(RegistryError, match=f"type {stranger}.*cannot be locked"):
        pack(estimator)


def test_what_skops_cannot_store_cannot_be_locked():
    with pytest.raises(RegistryError, match="cannot be locked"):
        pack([iter([1])])


@pytest.mark.parametrize("foreign", [LogisticRegression(), [np.random.RandomState(0)], [len]])
def test_a_foreign_archive_is_refused_before_anything_is_built(foreign, monkeypatch):
    array = np.frombuffer(skops.io.dumps(foreign), np.uint8)

    def built(*_args, **_kwargs):
        raise AssertionError("something was built")

    monkeypatch.setattr(skops.io, "loads", built)
    with pytest.raises(InputError, match=r"model 'm': the archive holds the type .*nothing of it"):
        unpack(array, where="model 'm'")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}, "os.system"),
        ({"__class__": "Popen", "__module__": "subprocess", "__loader__": "ObjectNode"}, "Popen"),
        ({"__class__": "dict", "__module__": "builtins", "__loader__": "MethodNode"}, "MethodNode"),
        ({"__loader__": "PartialNode"}, "None.None"),
    ],
)
def test_a_tampered_archive_is_refused_wherever_the_stranger_hides(part, value):
    array = pack(tree())
    schema = schema_of(array)
    schema["content"]["content"]["criterion"] = part | {"content": {}, "__id__": 1}
    tampered = rebuilt(array, **{"schema.json": json.dumps(schema).encode()})
    with pytest.raises(InputError, match=f"holds the type .*{value}"):
        unpack(tampered, where="test")


def test_a_damaged_archive_is_refused():
    array = pack(tree())
    for broken in (array[: len(array) // 2], np.zeros(100, np.uint8), array[:0]):
        with pytest.raises(InputError, match="test: the archive of its trees is damaged"):
            unpack(broken, where="test")
    flipped = array.copy()
    flipped[60:80] ^= 255
    with pytest.raises(InputError, match="damaged"):
        unpack(flipped, where="test")
    with pytest.raises(InputError, match="damaged"):
        unpack(rebuilt(array, **{"0.npy": b"no array"}), where="test")


def test_the_list_of_types_is_as_long_as_is_needed():
    needed = set()
    for model in (forest(), survival_forest(), [[tree()]], {"one": 1}):
        for node in _nodes(schema_of(pack(model))):
            needed.add(f"{node['__module__']}.{node['__class__']}")
    assert needed == TRUSTED


def _nodes(part):
    if isinstance(part, dict):
        if "__class__" in part:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for value in part:
            yield from _nodes(value)
