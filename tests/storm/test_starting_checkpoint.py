"""Fine-tuning that starts from a checkpoint: what it takes over, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_sections import IMAGE_WIDTH, network, planted_section

from storm_clinic.errors import CheckpointError, LeakageError
from storm_clinic.files import Workspace
from storm_clinic.storm.checkpoint import Checkpoint, Inputs, load_checkpoint, save_checkpoint
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.shipped import SHIPPED
from storm_clinic.storm.starting_checkpoint import (
    load_start,
    refuse_leak,
    starting_folder,
    take_over,
)
from storm_clinic.storm.trained_on import TrainedSection, from_card, seen_before, to_card

GENES = tuple(f"G{k}" for k in range(6))
INPUTS = Inputs(encoder="planted", encoder_digest="0" * 64, tile_um=112.0, side=3)


def drawn(config: StormConfig, seed: int) -> StormModel:
    torch.manual_seed(seed)
    model = StormModel(config)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    model.gene_scale.set(torch.randn(config.n_genes), torch.rand(config.n_genes) + 0.5)
    if config.image_axes:
        model.set_image_axes(torch.randn(config.image_axes, config.image_width))
    return model.eval()


@pytest.fixture(params=["mlp", "linear"])
def start(request, tmp_path) -> Checkpoint:
    model = drawn(network(gene_encoder=request.param, image_axes=4), 1)
    save_checkpoint(tmp_path, model, inputs=INPUTS, vocabulary=GeneVocabulary(GENES))
    return load_checkpoint(tmp_path)


def started(start: Checkpoint, vocabulary: GeneVocabulary) -> tuple[StormModel, StormModel]:
    """A network with other weights, before and after."""
    config = replace(start.model.config, n_genes=len(vocabulary))
    before, after = drawn(config, 2), drawn(config, 2)
    take_over(start, after, vocabulary)
    return before, after


def shown(n_genes: int, *, expression: bool) -> Contexts:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, 9, IMAGE_WIDTH, generator=generator)
    measured = torch.randn(2, 9, len(GENES), generator=generator)
    padded = torch.cat([measured, torch.full((2, 9, n_genes - len(GENES)), 7.0)], dim=2)
    panel = (torch.arange(n_genes) < len(GENES)).expand(2, -1)
    places = torch.randn(2, 9, 2, generator=generator) * 200
    valid = torch.ones(2, 9, dtype=torch.bool)
    if not expression:
        return Contexts(valid=valid, xy_um=places, image=image)
    return Contexts(valid=valid, xy_um=places, image=image, expression=padded, panel=panel)


def test_genes_in_another_order_are_foretold_the_same_by_name(start):
    turned = GeneVocabulary(GENES[::-1])
    _, model = started(start, turned)
    contexts = shown(6, expression=False)
    with torch.inference_mode():
        own = model.virtual_expression(model(contexts).spot)
        given = start.model.virtual_expression(start.model(contexts).spot)
    torch.testing.assert_close(own, given.flip(-1))


def test_a_new_gene_starts_new_and_leaves_the_others_as_they_were(start):
    more = GeneVocabulary((*GENES, "NEW"))
    before, model = started(start, more)
    with torch.inference_mode():
        own = model.virtual_expression(model(shown(7, expression=False)).spot)
        given = start.model.virtual_expression(start.model(shown(6, expression=False)).spot)
    torch.testing.assert_close(own[:, :6], given)
    assert torch.equal(model.head.genes.weight[6], before.head.genes.weight[6])
    assert not torch.equal(model.head.genes.weight[0], before.head.genes.weight[0])


@pytest.mark.parametrize("start", ["mlp"], indirect=True)
def test_expression_of_shared_genes_is_read_the_same_beside_a_gene_that_is_unknown(start):
    """Both networks see six measured genes; one of them could hear of a seventh.

    The sum over genes is stretched by the root of all genes over those known (`RawGenes`), which
    the norm behind it takes out again.
    """
    _, model = started(start, GeneVocabulary((*GENES, "NEW")))
    with torch.inference_mode():
        own = model(shown(7, expression=True)).joint
        given = start.model(shown(6, expression=True)).joint
    torch.testing.assert_close(own, given, atol=1e-3, rtol=1e-3)


def test_a_gene_is_found_under_its_other_names(start):
    older = replace(start, vocabulary=GeneVocabulary(GENES, {"ALSO0": "G0"}))
    renamed = GeneVocabulary(("ALSO0", "TODAY1"), {"G1": "TODAY1"})
    _, model = started(older, renamed)
    assert torch.equal(model.head.genes.bias, start.model.head.genes.bias[:2])


def test_a_checkpoint_without_any_of_the_genes_is_refused(start):
    with pytest.raises(CheckpointError, match=r"none of the 1 genes.*ENSG0.*G0"):
        started(start, GeneVocabulary(("ENSG0",)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 24),
        ("n_layers", 3),
        ("n_heads", 4),
        ("experts", "one"),
        ("image_width", 9),
        ("image_axes", 5),
        ("alibi", False),
        ("gene_hidden", 7),
        ("encoder_digest", "1" * 64),
        ("tile_um", 55.0),
    ],
)
def test_what_does_not_fit_is_named_with_both_values(start, tmp_path, name, value):
    config = start.model.config
    inputs = {"encoder_digest": INPUTS.encoder_digest, "tile_um": INPUTS.tile_um}
    given = inputs[name] if name in inputs else getattr(config, name)
    if name in inputs:
        inputs[name] = value
    else:
        config = replace(config, **{name: value})
    with pytest.raises(
        CheckpointError,
        match=f"mine cannot start from it: {name} is {value!r}, but {given!r} there",
    ):
        load_start(tmp_path, config, row="mine", **inputs)


def test_dropout_readout_pitch_and_genes_may_be_other_ones(start, tmp_path):
    config = replace(start.model.config, dropout=0.3, readout=0.7, pitch_um=55.0, n_genes=2)
    found = load_start(tmp_path, config, row="mine", encoder_digest="0" * 64, tile_um=112.0)
    assert found.digest == start.digest


def test_a_folder_of_the_workspace_comes_before_a_shipped_name(start, tmp_path):
    workspace = Workspace(tmp_path.parent)
    assert starting_folder(tmp_path.name, workspace) == tmp_path.resolve()
    assert starting_folder("storm-tiny-her2st", workspace) == SHIPPED / "storm-tiny-her2st"
    with pytest.raises(CheckpointError, match="neither the folder"):
        starting_folder("nowhere", workspace)


def section(folder: Path, name: str, patient: str, picture: bytes) -> PairedSection:
    image = folder / f"{name}-{patient}.png"
    image.write_bytes(picture)
    return replace(planted_section(1).section, name=name, patient=patient, image=image)


def test_a_section_is_recognised_by_image_or_name_and_a_patient_where_patients_are_left_out(
    tmp_path,
):
    seen = [section(tmp_path, "s1", "p1", b"one"), section(tmp_path, "s2", "p2", b"two")]
    card = {"trained_on": to_card(map(TrainedSection.of, seen))}
    record = from_card(card, where=tmp_path)
    asked = [
        section(tmp_path, "renamed", "q", b"two"),
        section(tmp_path, "s1", "q", b"scanned again"),
        section(tmp_path, "other", "p2", b"three"),
        section(tmp_path, "new", "q", b"four"),
    ]
    assert seen_before(record, asked, unit="section") == {"renamed": "image", "s1": "section"}
    by_patient = seen_before(record, asked, unit="patient")
    assert by_patient == {"renamed": "image", "s1": "section", "other": "patient"}
    with pytest.raises(LeakageError, match=r"section other \(same patient\), section renamed"):
        refuse_leak(by_patient, tmp_path)
    refuse_leak({}, tmp_path)


def test_a_card_holds_no_name_and_each_section_once(tmp_path):
    one = section(tmp_path, "s1", "Mrs Miller", b"one")
    card = to_card([TrainedSection.of(one), TrainedSection.of(one)])
    assert len(card) == 1
    assert not any(name in str(card) for name in ("s1", "Miller"))


@pytest.mark.parametrize("record", [[], "text", [{"image": "i"}], [{"odd": "i"}], [1], None])
def test_a_damaged_record_is_refused(record):
    with pytest.raises(CheckpointError, match="record of training sections is damaged"):
        from_card({"trained_on": record}, where="folder")


def test_a_checkpoint_that_does_not_say_what_it_was_trained_on_is_refused():
    with pytest.raises(CheckpointError, match="does not say which sections"):
        from_card({"name": "old"}, where="folder")
