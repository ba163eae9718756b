"""Reading attributes and layouts by HDF5's own calls gives what h5py's objects give."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from storm_clinic.errors import FeatureError
from storm_clinic.features.guarded_file import attributes_of, check_links, dataset_of

VALUES = {
    "text": np.bytes_("renal"),
    "text of one letter in eight": np.array(b"a", "S8"),
    "utf-8": np.array("µm".encode(), h5py.string_dtype("utf-8", 3)),
    "empty text": np.bytes_(""),
    "whole": np.int64(-3),
    "small": np.uint8(255),
    "big-endian": np.array(258, ">i2"),
    "real": np.float64(0.1),
    "half": np.float16(0.1),
    "truth": np.bool_(True),
    "many": np.arange(6.0).reshape(2, 3),
    "one in a row": np.array([7]),
    "texts": np.array([b"a", b"bc"]),
    "none": h5py.Empty("f4"),
    "pair": np.array((1, 2.0), [("a", "i4"), ("b", "f8")]),
    "complex": np.complex128(1 + 2j),
    "µ": np.int64(1),
}


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("n", [3, len(VALUES)])  # beyond eight, HDF5 keeps attributes in a heap
def test_attributes_are_those_that_h5py_reads(tmp_path, libver, ordered, n):
    with h5py.File(tmp_path / "a.h5", "w", libver=libver, track_order=ordered) as file:
        dataset = file.create_dataset("x", (3,), "f4", track_order=ordered)
        for node in (file, dataset):
            for name, value in list(VALUES.items())[:n]:
                node.attrs[name] = value
            node.attrs.create("two a place", np.ones((2, 3)), (2, 3), np.dtype("(3,)i4"))
    with h5py.File(tmp_path / "a.h5") as file:
        for node in (file, file["x"]):
            found, expected = attributes_of(node, "here"), dict(node.attrs)
            assert sorted(found) == sorted(expected)
            for name, value in expected.items():
                assert type(found[name]) is type(value), name
                if isinstance(value, h5py.Empty):
                    assert found[name] == value
                else:
                    assert found[name].dtype == value.dtype
                    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("value", ["text", np.array(["a", "b"], h5py.string_dtype())])
def test_text_of_variable_length_is_refused_before_it_is_read(tmp_path, value):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["a"] = 1
        file.attrs["name"] = value
        with pytest.raises(FeatureError, match="here: attribute name must be text of fixed length"):
            attributes_of(file, "here")


def test_links_are_told_apart_in_any_group(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        inner = file.create_group("inner")
        for at in range(20):
            inner[f"d{at}"] = np.zeros(2)
        inner["again"] = inner["d0"]  # a second hard link
        check_links(file, path)
        check_links(inner, path)
        inner["µ"] = h5py.SoftLink("/nowhere")
        with pytest.raises(FeatureError, match=r"a\.h5: µ: is a link to somewhere else"):
            check_links(inner, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": np.zeros((4, 2), "f2"), "chunks": (2, 2)}, "must be stored contiguously"),
        ({"data": np.zeros((4, 2), "f4")}, "must not be of type float32"),
        ({"data": np.zeros(4, "f2")}, r"must not be of shape \(4,\)"),
        ({"data": h5py.Empty("f2")}, "must not be of shape None"),
        ({"shape": (4, 2), "dtype": "f2"}, "its values are not all there"),  # never written
    ],
)
def test_a_dataset_of_another_layout_is_refused(tmp_path, options, message):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", **options)
    with h5py.File(path) as file, pytest.raises(FeatureError, match=message):
        dataset_of(file, path, "features", ("<f2", 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": np.zeros((4, 2), "f2")}, "must be stored in chunks"),
        ({"data": np.zeros((4, 2), "f2"), "chunks": (2, 2), "compression": "gzip"}, "filters"),
        ({"shape": (40, 2), "dtype": "f2", "chunks": (2, 2)}, "its values are not all there"),
    ],
)
def test_a_dataset_in_chunks_of_another_form_is_refused(tmp_path, options, message):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("values", **options)
    with h5py.File(path) as file, pytest.raises(FeatureError, match=message):
        dataset_of(file, path, "values", ("<f2", 2), chunked=True)
