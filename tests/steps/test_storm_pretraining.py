"""From a YAML and files of the her2st layout to a checkpoint, its run and its pictures."""

from __future__ import annotations

import pandas as pd
import pytest
from her2st_files import GENES, write_section
from PIL import Image

from storm_clinic.errors import SectionError
from storm_clinic.files import Workspace
from storm_clinic.steps.storm_pretraining import SHARDS, STATE, PretrainingResult, pretrain_storm
from storm_clinic.storm.checkpoint import load_checkpoint
from storm_clinic.storm.section_sources import Her2stSource, read_sources
from storm_clinic.tracking import Tracker

YAML = """\
format: 1
name: small
sections:
  - {layout: her2st, root: "${SECTIONS}"}
encoder: {name: tiny, tile_um: 60.0}
n_genes: 4
network: {size: tiny, pitch_um: 200.0, side: 3}
updates: {learning_rate: 0.001, n_steps: 4, warm_up: 1, ema: 0.5}
batch: 8
seed: 3
log_every: 2
keep_every: 2
card: {data: simulated for a test, licence: CC0, limits: says nothing}
"""


@pytest.fixture(scope="module")
def workspace(spatial_workspace, tiny_everywhere) -> Workspace:
    (spatial_workspace.root / "small.yaml").write_text(YAML, encoding="utf-8")
    return spatial_workspace


@pytest.fixture(scope="module")
def result(workspace) -> PretrainingResult:
    made = pretrain_storm("small.yaml", workspace=workspace, device="cpu")
    assert made is not None
    return made


def test_the_checkpoint_says_what_it_was_made_of_and_nothing_about_held_out_tissue(result):
    found = load_checkpoint(result.checkpoint)
    assert found.digest == result.digest
    assert (found.inputs.encoder, found.inputs.tile_um, found.inputs.side) == ("tiny", 60.0, 3)
    assert len(found.vocabulary) == 4
    assert set(found.vocabulary.symbols) < set(GENES)
    assert found.reliability is None
    assert found.domain is not None
    assert found.domain.n_sections == 3
    assert found.card["licence"] == "CC0"
    assert (found.card["n_sections"], found.card["n_patients"]) == (3, 2)
    assert len(found.card["trained_on"]) == 3
    assert (result.n_sections, result.n_patients, result.n_spots) == (3, 2, 75)


def test_the_run_holds_curve_and_pictures_but_no_name_of_a_section_or_patient(workspace, result):
    run = Tracker(workspace).read_run(result.run_id)
    assert run.status == "FINISHED"
    assert run.metrics["loss"] == pytest.approx(result.history[-1]["loss"])
    assert run.params["updates.n_steps"] == "4"
    curve = pd.read_csv(run.artifacts / "curve.csv")
    assert curve["step"].tolist() == [2, 4]
    for name in ("curve.png", "reconstruction.png"):
        with Image.open(run.artifacts / name) as picture:
            assert min(picture.size) > 200
    texts = [str(run.params), str(run.tags), (run.artifacts / "settings.json").read_text()]
    assert not any(name in text for name in ("A1", "B1", "sections") for text in texts)


def test_a_section_that_is_named_twice_is_refused(workspace):
    source = Her2stSource(layout="her2st", root="data", sections=("A1",))
    assert [section.name for section in read_sources([source], workspace)] == ["A1"]
    with pytest.raises(SectionError, match="section A1: occurs twice"):
        list(read_sources([source, source], workspace))


def test_a_training_that_was_killed_goes_on_in_its_run_to_the_same_weights(workspace, result):
    """Embeddings are kept, so the pixels are not needed again."""

    class Killed(Exception):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if (what, done) == ("pretrain", 3):
            raise Killed

    spots = workspace.root / "storm" / "spots" / "tiny"
    before = {path.name: path.stat().st_mtime_ns for path in spots.iterdir()}
    state = workspace.root / "storm" / "small" / STATE
    with pytest.raises(Killed):
        pretrain_storm("small.yaml", workspace=workspace, device="cpu", resume=False, progress=kill)
    assert state.exists()
    again = pretrain_storm("small.yaml", workspace=workspace, device="cpu")
    assert again is not None
    assert (again.digest, again.history) == (result.digest, result.history)
    assert {path.name: path.stat().st_mtime_ns for path in spots.iterdir()} == before
    # Asked once more, there is nothing left to do; it is the same run.
    once_more = pretrain_storm("small.yaml", workspace=workspace, device="cpu")
    assert once_more == again
    runs = Tracker(workspace).database.search("small", {})
    assert sorted(run.info.status for run in runs) == ["FINISHED", "FINISHED"]


def test_shards_are_written_again_only_where_something_they_are_made_of_has_changed(
    workspace, result
):
    shards = workspace.root / "storm" / "small" / SHARDS

    def written(text: str = YAML) -> tuple[dict[str, int], dict[str, bytes]]:
        path = workspace.root / "small.yaml"
        path.write_text(text, encoding="utf-8")
        pretrain_storm("small.yaml", workspace=workspace, device="cpu", resume=False)
        files = sorted(shards.iterdir())
        return (
            {path.name: path.stat().st_mtime_ns for path in files},
            {path.name: path.read_bytes() for path in files},
        )

    first_times, first_bytes = written()
    assert written()[0] == first_times
    # How it is taught does not stand in shards.
    assert written(YAML.replace("n_steps: 4", "n_steps: 3"))[0] == first_times
    for change in (("tile_um: 60.0", "tile_um: 55.0"), ("n_genes: 4", "n_genes: 3")):
        assert written(YAML.replace(*change))[1] != first_bytes
    assert written(YAML.replace("side: 3", "side: 5"))[1] != first_bytes
    again = written()[1]
    assert again == first_bytes
    # A shard that lost its end, or another's bytes, is made whole.
    damaged = shards / "shard-00000.safetensors"
    whole = damaged.read_bytes()
    for spoiled in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1])):
        damaged.write_bytes(spoiled)
        assert written()[1] == first_bytes
    # Counts of a section that is read from the same place.
    write_section(workspace.root / "data", "B1", seed=77)
    assert written()[1] != first_bytes
    write_section(workspace.root / "data", "B1", seed=3)
    assert written()[1] == first_bytes
