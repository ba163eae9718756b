"""One pretraining on sections of every layout that a YAML can name."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from her2st_files import GENES
from section_layouts import SIDE, YAML, write_layouts

from storm_clinic.errors import InputError
from storm_clinic.files import Workspace
from storm_clinic.steps.storm_pretraining import pretrain_storm
from storm_clinic.storm.checkpoint import load_checkpoint
from storm_clinic.storm.pretraining_file import PretrainingFile, read_pretraining
from storm_clinic.storm.section_sources import read_sources

ASKED = (
    """\
format: 1
name: all
encoder: {name: tiny, tile_um: 128.0}
n_genes: 4
network: {size: tiny, pitch_um: 100.0, side: 3}
updates: {learning_rate: 0.001, n_steps: 2}
batch: 8
seed: 3
card: {data: simulated for a test, licence: CC0-1.0, limits: says nothing}
"""
    + YAML
)


@pytest.fixture
def workspace(tmp_path, monkeypatch, tiny_everywhere, empty_mlflow_database) -> Workspace:
    pytest.importorskip("anndata")
    write_layouts(tmp_path / "data")
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_mlflow_database, tmp_path / "mlruns")
    (tmp_path / "all.yaml").write_text(ASKED, encoding="utf-8")
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    return Workspace(tmp_path)


def asked(workspace: Workspace, text: str = ASKED) -> PretrainingFile:
    path = workspace.root / "asked.yaml"
    path.write_text(text, encoding="utf-8")
    return read_pretraining(path)


def test_each_layout_becomes_a_section_with_its_own_scale(workspace):
    found = {one.name: one for one in read_sources(asked(workspace).sections, workspace)}
    facts = {
        name: (one.technology, one.patient, one.grid, one.pitch_um, round(one.mpp, 3))
        for name, one in found.items()
    }
    assert facts == {
        "T1": ("st", "p", "square", 200.0, 2.0),
        "v1": ("visium", "q", "hexagonal", 100.0, 1.0),
        "h1": ("st", "r", "square", 200.0, 2.0),
        "x1": ("xenium", "s", "square", 55.0, 0.5),
        "c1": ("cosmx", "s", "square", 55.0, 0.5),
    }
    assert all(one.n_spots == SIDE * SIDE for one in found.values())
    # A gene of the stated panel that nobody saw was looked for; the registration swaps x and y.
    assert set(found["x1"].symbols) == {*GENES, "ESR1"}
    assert set(found["c1"].symbols) == set(GENES)
    xenium, cosmx = found["x1"], found["c1"]
    np.testing.assert_allclose(cosmx.centres_px[0], [55.0, 55.0])
    np.testing.assert_allclose(
        xenium.centres_px, cosmx.centres_px[:, ::-1] + [10.0, 20.0], atol=1e-6
    )
    assert (xenium.counts.sum(), cosmx.counts.sum()) == (2000, 2000)


def test_all_of_them_are_pretrained_on_together(workspace):
    made = pretrain_storm("all.yaml", workspace=workspace, device="cpu")
    assert made is not None
    assert (made.n_sections, made.n_patients, made.n_spots) == (5, 4, 5 * SIDE * SIDE)
    card = load_checkpoint(made.checkpoint).card
    assert card["technologies"] == ["cosmx", "st", "visium", "xenium"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("any.h5ad", "none.h5ad", r"none\.h5ad is no file on this machine"),
        ("visium/full.png", "visium/none.png", r"none\.png is no file on this machine"),
        ("    pitch_um: 200.0\n", "", r"pitch_um: this key is missing"),
        ("2.0, 10.0], [", "2.0], [", "to_image"),
        ("layout: cosmx", "layout: merfish", "merfish"),
    ],
)
def test_what_is_missing_or_wrong_is_named(workspace, old, new, message):
    assert old in ASKED
    text = ASKED.replace(old, new)
    with pytest.raises(InputError, match=message):
        list(read_sources(asked(workspace, text).sections, workspace))
