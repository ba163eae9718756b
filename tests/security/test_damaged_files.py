"""Damaged and crafted files are refused in our own words: none is computed with, none hangs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from storm_clinic.errors import FeatureError, InputError, StormClinicError, UnsafeName
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_store import StormStore

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mutations.py"


@pytest.fixture(scope="module")
def mutations():
    """The campaign that ``make chaos`` runs in full."""
    spec = importlib.util.spec_from_file_location("mutations", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "mutations", module)
        spec.loader.exec_module(module)
        yield module


OURS = [
    "feature file",
    "STORM file",
    "predictions (parquet)",
    "bundle: manifest",
    "trees of a model",
]


@pytest.mark.parametrize("name", [*OURS, "slide, JPEG tiles", "slide, deflate tiles"])
def test_damage_is_an_error_of_ours_or_changes_nothing(mutations, name, tmp_path):
    kind = next(kind for kind in mutations.KINDS if kind.name == name)
    path = kind.write(tmp_path)
    whole, before = path.read_bytes(), kind.read(path)
    found = set()
    for seed in range(500, 520):
        path.write_bytes(mutations.damaged(whole, seed))
        outcome, detail = mutations._outcome(kind, path, before)
        assert outcome in mutations.LEGAL, (seed, detail)
        found.add(outcome)
    assert "error" in found
    if not name.startswith("slide"):
        assert found <= {"error", "same"}


FOREIGN = ["TRIDENT's HDF5", "CLAM's HDF5", "CLAM's tensors", "STAMP's HDF5", "AnnData"]


@pytest.mark.parametrize("name", FOREIGN)
def test_damage_to_another_programs_file_is_an_error_of_ours_or_changes_its_values(
    mutations, name, tmp_path
):
    kind = next(kind for kind in mutations.KINDS if kind.name == name)
    path = kind.write(tmp_path)
    whole, before = path.read_bytes(), kind.read(path)
    found = set()
    for seed in range(500, 516):
        path.write_bytes(mutations.damaged(whole, seed))
        outcome, detail = mutations._outcome(kind, path, before)
        assert outcome in mutations.LEGAL, (seed, detail)
        found.add(outcome)
    assert {"error", "same"} <= found


def test_the_campaign_counts_files_over_which_a_reader_hangs(mutations, tmp_path, monkeypatch):
    monkeypatch.setattr(mutations, "IMPORT_S", 1.0)
    kind = next(kind for kind in mutations.KINDS if kind.name == FOREIGN[0])
    path = kind.write(tmp_path)
    before = kind.read(path)
    path.unlink()
    os.mkfifo(path)  # waits for somebody to write into it
    outcome, detail = mutations._outcome(kind, path, before)
    assert outcome == "hung"
    assert f"{path}: a reader process hung on it for 1 s" in detail


def test_the_campaign_names_a_change_in_silence(mutations, tmp_path):
    """A reader that trusts its file must be caught, or the table of outcomes proves nothing."""
    kind = mutations.Kind("raw", None, lambda path: mutations.Seen(path.read_bytes()))
    path = tmp_path / "raw"
    path.write_bytes(b"abc")
    before = kind.read(path)
    path.write_bytes(b"abd")
    assert mutations._outcome(kind, path, before)[0] == "silent"


@pytest.fixture
def storm_file(mutations, tmp_path):
    return mutations._write_storm(tmp_path)


def test_a_flipped_bit_in_a_gene_that_was_not_asked_for_is_found_too(storm_file):
    with h5py.File(storm_file, "r+") as file:
        values = file["expression/values"]
        values[30, 0] = np.nextafter(values[30, 0], np.float16(9))
    with pytest.raises(FeatureError, match=r"expression/values: .*SHA-256 differs"):
        StormStore.open(storm_file.parent).gene_maps("S1", ["VHL"])


def test_text_of_variable_length_is_refused_before_it_is_followed(storm_file):
    with h5py.File(storm_file, "r+") as file:
        del file.attrs["provenance"]
        file.attrs["provenance"] = "extracted"  # h5py writes it into HDF5's heap
    with pytest.raises(FeatureError, match="attribute provenance must be text of fixed length"):
        StormStore.open(storm_file.parent)


@pytest.mark.parametrize("form", ["external link", "soft link", "virtual", "external storage"])
@pytest.mark.parametrize("name", ["spots", "expression/values", "expression/slide"])
def test_a_storm_file_cannot_make_us_read_another(storm_file, form, name):
    secret = storm_file.with_name("secret.bin")
    with h5py.File(storm_file, "r+") as file:
        values, sha256 = file[name][()], file[name].attrs["sha256"]
        secret.write_bytes(values.tobytes())
        with h5py.File(storm_file.with_name("other.hdf5"), "w") as other:
            other["values"] = values
        del file[name]
        if form == "external link":
            file[name] = h5py.ExternalLink("other.hdf5", "/values")
        elif form == "soft link":
            file["elsewhere"] = values
            file[name] = h5py.SoftLink("/elsewhere")
        elif form == "virtual":
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[...] = h5py.VirtualSource("other.hdf5", "values", values.shape)
            file.create_virtual_dataset(name, layout).attrs["sha256"] = sha256
        else:
            made = file.create_dataset(
                name, values.shape, values.dtype, external=[("secret.bin", 0, h5py.h5f.UNLIMITED)]
            )
            made.attrs["sha256"] = sha256
    with pytest.raises(FeatureError, match=r"link to somewhere else|must be stored"):
        store = StormStore.open(storm_file.parent)
        store.genes("S1")
        store.gene_maps("S1", ["VHL"])


BOMBS = {"schema.json": b"[" + b" " * (70 << 20) + b"]"}


def archive(members: dict[str, bytes]) -> np.ndarray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def members_of(packed: np.ndarray) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed.tobytes())) as made:
        return {name: made.read(name) for name in made.namelist()}


@pytest.fixture(scope="module")
def forest():
    from sklearn.ensemble import RandomForestClassifier

    from storm_clinic.heads.estimator_archive import pack

    places = np.random.default_rng(6).normal(size=(60, 4))
    return pack(RandomForestClassifier(2, random_state=0).fit(places, places[:, 0] > 0))


def test_an_archive_of_trees_that_would_fill_the_memory_is_refused_unopened():
    from storm_clinic.heads.estimator_archive import unpack

    with pytest.raises(InputError, match=r"would unpack to \d+; nothing of it was loaded"):
        unpack(archive(BOMBS), where="model")


@pytest.mark.parametrize(
    ("field", "value"),
    [("left_child", 10_000), ("right_child", -7), ("left_child", 0), ("feature", 4_000)],
)
def test_a_tree_whose_nodes_lead_out_of_it_or_in_a_circle_is_refused(forest, field, value):
    from storm_clinic.heads.estimator_archive import unpack

    members = members_of(forest)
    for name, data in members.items():
        if name.endswith(".npy"):
            nodes = np.load(io.BytesIO(data))
            if nodes.dtype.names and field in nodes.dtype.names:
                nodes[field][0] = value
                buffer = io.BytesIO()
                np.save(buffer, nodes)
                members[name] = buffer.getvalue()
                break
    with pytest.raises(InputError, match="a node leads out of its tree"):
        unpack(archive(members), where="model")


def test_a_schema_nested_without_end_is_an_error_of_ours(forest):
    from storm_clinic.heads.estimator_archive import unpack

    members = members_of(forest) | {"schema.json": b"[" * 100_000}
    with pytest.raises(InputError, match="nested too deeply"):
        unpack(archive(members), where="model")


IDS = ["../S1", "/etc/passwd", "a/b", "..", ".h5", "S1\0", "S1\n", "S1/", "~", "", "é", "a" * 181]


@pytest.mark.parametrize("slide_id", IDS)
def test_no_slide_id_leads_out_of_its_store(mutations, tmp_path, slide_id):
    store = FeatureStore.open(mutations._write_features(tmp_path).parent)
    storm = StormStore(store.folder, store.contract, {})
    for read in (store.path, store.has, store.read, store.memmap, storm.read, storm.genes):
        with pytest.raises(UnsafeName):
            read(slide_id)


def test_a_link_in_a_stores_place_is_replaced_and_what_it_led_to_is_kept(mutations, tmp_path):
    path = mutations._write_features(tmp_path)
    store = FeatureStore.open(path.parent)
    slide = store.read("S1")
    precious = tmp_path / "precious"
    precious.write_text("do not write here")
    path.unlink()
    path.symlink_to(precious)
    store.write(slide)
    assert not path.is_symlink()
    assert precious.read_text() == "do not write here"


def test_a_path_of_a_slides_table_that_climbs_out_is_refused(tmp_path):
    from storm_clinic.cohort.table import Cohort
    from storm_clinic.files import Workspace

    folder = tmp_path / "cohorts" / "hospital"
    folder.mkdir(parents=True)
    (folder / "clinical.csv").write_text("id\nP1\n")
    (folder / "slides.csv").write_text("case,slide,path\nP1,S1,scans/../../../secret.svs\n")
    facts = {
        "format": 1,
        "cohort": "hospital",
        "tables": {
            "clinical": {"path": "clinical.csv", "patient_id": "id"},
            "slides": {"path": "slides.csv", "patient_id": "case", "slide_id": "slide"},
        },
        "origin": {"source": "invented", "licence": "none"},
    }
    (folder / "cohort.yaml").write_text(json.dumps(facts))  # JSON is YAML
    with pytest.raises(StormClinicError, match="leaves data_root"):
        Cohort.read("hospital", Workspace(tmp_path))
