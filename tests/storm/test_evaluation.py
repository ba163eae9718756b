"""Fine-tuning and evaluation on simulated sections in which H&E decides expression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from storm_clinic.errors import SectionError
from storm_clinic.storm import rivals
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.evaluate import Recipe, Seen, folds, hold_out, taught_network
from storm_clinic.storm.evaluation_table import by_gene, reliability_of, summary
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.impute import FinetunePlan, TaughtSection, finetune, impute
from storm_clinic.storm.inference import embed_tiles
from storm_clinic.storm.model import StormModel
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.rivals import RIVALS, RivalView, hold_out_rival

SIDE, WIDTH, GENES = 7, 12, 6
RECIPE = Recipe(
    name="STORM",
    image_axes=WIDTH,
    n_genes=GENES,
    dropout=0.0,
    side=3,
    finetune=FinetunePlan(epochs=25, batch=32, learning_rate=3e-3),
)


def simulated(name: str, patient: str = "p") -> Seen:
    """Genes 0 and 1 follow the first number of the image, the rest is chance."""
    rng = np.random.default_rng(sum(map(ord, name)))
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    image = rng.normal(size=(SIDE**2, WIDTH)).astype(np.float32)
    rates = np.full((SIDE**2, GENES), 300.0)
    rates[:, 0] *= np.exp(image[:, 0])
    rates[:, 1] *= np.exp(-image[:, 0])
    section = PairedSection(
        name=name,
        patient=patient,
        technology="st",
        grid="square",
        spot_um=100.0,
        pitch_um=100.0,
        image=None,
        mpp=1.0,
        centres_px=np.stack([x, y], axis=-1).reshape(-1, 2) * 100.0,
        counts=rng.poisson(rates),
        symbols=tuple("ABCDEF"),
        spots=tuple(map(str, range(SIDE**2))),
    )
    # Each section is stained in its own way: a shift and a stretch.
    return Seen(section, {"plain": image * rng.uniform(0.5, 2) + rng.normal(size=WIDTH)})


@pytest.fixture(scope="module")
def sections() -> list[Seen]:
    return [simulated(name) for name in ("s1", "s2", "s3", "s4")]


@pytest.fixture(scope="module")
def found(sections) -> HeldOut:
    return hold_out(sections, ["s1"], RECIPE, seed=0, n_genes=2, pitch_um=100.0)[0]


def test_a_planted_dependence_is_imputed_on_a_section_stained_otherwise(found):
    assert set(found.genes) == {"A", "B"}
    table = by_gene([found], {"s1": simulated("s1").section})
    assert (table["r"] > 0.6).all()


def test_expression_of_the_left_out_section_changes_nothing_that_is_imputed(sections, found):
    one = sections[0]
    rng = np.random.default_rng(5)
    shuffled = replace(one.section, counts=rng.permutation(one.section.counts.toarray()))
    again = hold_out(
        [Seen(shuffled, one.images), *sections[1:]],
        ["s1"],
        RECIPE,
        seed=0,
        n_genes=2,
        pitch_um=100.0,
    )[0]
    np.testing.assert_array_equal(again.imputed, found.imputed)
    assert not np.array_equal(again.measured, found.measured)


def test_the_same_seed_teaches_the_same_network_and_another_another(sections):
    recipe = replace(RECIPE, finetune=FinetunePlan(epochs=1, batch=32))

    def weights(seed: int) -> torch.Tensor:
        return taught_network(sections[1:], recipe, seed=seed, pitch_um=100.0)[0].head.genes.weight

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_pretraining_comes_first_and_leaves_another_network(sections):
    recipe = replace(RECIPE, pretrain_steps=2, finetune=FinetunePlan(epochs=1, batch=64))
    plain = replace(recipe, pretrain_steps=0)
    one, other = (
        taught_network(sections[1:], each, seed=0, pitch_um=100.0)[0] for each in (recipe, plain)
    )
    assert torch.equal(one.image_axes, other.image_axes)
    assert not torch.equal(one.head.genes.weight, other.head.genes.weight)


def test_a_network_that_heeds_its_teacher_alone_learns_no_chance_by_heart(sections):
    """H&E says nothing of gene F: what is said of it on training spots was learned by heart."""
    r = {}
    for weight in (0.0, 1000.0):
        recipe = replace(RECIPE, finetune=replace(RECIPE.finetune, teacher=weight))
        model, vocabulary = taught_network(sections, recipe, seed=0, pitch_um=100.0)
        gene = vocabulary.symbols.index("F")
        pairs = []
        for one in sections:
            section = TaughtSection.of(
                one.section, one.images["plain"], vocabulary, side=3, scaled=True
            )
            pairs.append((impute(model, section)[:, gene], section.target[:, gene]))
        r[weight] = np.mean([np.corrcoef(imputed, measured)[0, 1] for imputed, measured in pairs])
    assert r[0.0] > 0.3
    assert r[1000.0] < 0.1


def test_a_teacher_says_nothing_of_a_gene_that_some_section_was_not_looked_through_for(sections):
    vocabulary = GeneVocabulary(("A", "B"))
    taught = [
        TaughtSection.of(one.section, one.images["plain"], vocabulary, side=3, scaled=True)
        for one in sections
    ]

    def weights(teacher: float, looked_for_b: bool) -> torch.Tensor:
        changed = replace(taught[0], panel=np.array([True, looked_for_b]))
        torch.manual_seed(0)
        config = StormConfig.of_size(
            "tiny", image_width=WIDTH, n_genes=2, pitch_um=100.0, image_axes=WIDTH
        )
        model = StormModel(config)
        only_b = [replace(one, panel=one.panel & [False, True]) for one in (changed, *taught[1:])]
        finetune(model, only_b, FinetunePlan(epochs=1, batch=64, teacher=teacher))
        return model.head.genes.weight

    assert torch.equal(weights(0.0, looked_for_b=False), weights(1.0, looked_for_b=False))
    assert not torch.equal(weights(0.0, looked_for_b=True), weights(1.0, looked_for_b=True))


def test_extraction_imputes_what_evaluation_measured(sections):
    """Contexts of a slide's tiles and of a section's spots must be the same thing."""
    recipe = replace(RECIPE, finetune=FinetunePlan(epochs=1, batch=32))
    model, vocabulary = taught_network(sections[1:], recipe, seed=0, pitch_um=100.0)
    one = sections[0]
    section = TaughtSection.of(
        one.section, one.images["plain"], vocabulary, side=RECIPE.side, scaled=True
    )
    spots = embed_tiles(
        model, one.images["plain"], one.section.centres_um, step_um=100.0, side=RECIPE.side
    )
    with torch.inference_mode():
        tiles = model.virtual_expression(torch.from_numpy(spots)).numpy()
    np.testing.assert_allclose(tiles, impute(model, section), atol=1e-4)


def test_targets_are_counts_per_10000_of_the_whole_assay_around_each_sections_mean(sections):
    one = sections[0]
    taught = TaughtSection.of(
        one.section, one.images["plain"], GeneVocabulary(("B",)), scaled=False
    )
    counts = one.section.counts.toarray()
    expected = np.log1p(1e4 * counts[:, 1] / counts.sum(axis=1))
    np.testing.assert_allclose(taught.target[:, 0], expected, rtol=1e-5)
    assert np.array_equal(taught.library, counts.sum(axis=1))


def test_a_gene_that_an_assay_did_not_look_for_teaches_nothing(sections):
    vocabulary = GeneVocabulary(("A", "UNSEEN"))
    taught = [
        TaughtSection.of(one.section, one.images["plain"], vocabulary, scaled=False)
        for one in sections
    ]
    config = StormConfig(
        width=8, n_layers=1, n_heads=2, image_width=WIDTH, n_genes=2, pitch_um=100.0
    )
    torch.manual_seed(0)
    model = StormModel(config)
    before = model.head.genes.bias[1].item()
    finetune(model, taught, FinetunePlan(epochs=1, batch=32))
    assert not taught[0].panel[1]
    assert model.head.genes.bias[1].item() == before
    assert model.gene_scale.spread[1] == 1


def test_patients_are_left_out_whole(sections):
    of_two = [simulated("a", "p"), simulated("b", "q"), simulated("c", "p")]
    assert folds([one.section for one in of_two], "patient") == [("a", "c"), ("b",)]
    with pytest.raises(SectionError, match="of one patient"):
        folds([one.section for one in sections], "patient")


def test_all_rivals_answer_and_the_ridge_finds_the_plant(sections):
    views = [
        RivalView(
            one.section, one.section, one.images["plain"], one.images["plain"], one.section.name
        )
        for one in sections
    ]
    found = [hold_out_rival(name, views, ["s1"], n_genes=2)[0] for name in RIVALS]
    genes = by_gene(found, {"s1": sections[0].section})
    r = genes.groupby("recipe")["r"].mean()
    assert np.isnan(r["mean"])
    assert r["ridge, scaled by slide"] > 0.6
    assert {one.genes for one in found} == {("A", "B")}


def test_a_ridges_penalty_is_chosen_without_tissue_of_the_patient_it_is_tried_on(
    sections, monkeypatch
):
    tried = []
    monkeypatch.setattr(
        rivals,
        "tuned_ridge",
        lambda features, targets, own: (
            tried.append([len(values) for values in targets]) or np.zeros((len(own[0]), 2))
        ),
    )

    def view(one: Seen, group: str) -> RivalView:
        image = one.images["plain"]
        return RivalView(one.section, one.section, image, image, group)

    of_two = [view(one, group) for one, group in zip(sections, "abcc", strict=True)]
    hold_out_rival("ridge", of_two, ["s1"], n_genes=2)
    of_one = [view(one, group) for one, group in zip(sections, "abbb", strict=True)]
    hold_out_rival("ridge", of_one, ["s1"], n_genes=2)
    spots = SIDE**2
    assert tried == [[spots, 2 * spots], [spots] * 3]  # the second has no other patient to try


def test_the_table_counts_genes_ahead_of_the_rival_and_gives_a_t_interval_over_seeds():
    rows = [
        ("STORM", seed, section, gene, r + 0.01 * seed)
        for seed in (0, 1, 2)
        for section in ("s1", "s2")
        for gene, r in (("A", 0.5), ("B", 0.1))
    ] + [("ridge", 0, "s1", gene, 0.3) for gene in "AB"]
    genes = pd.DataFrame(rows, columns=["recipe", "seed", "section", "gene", "r"]).assign(
        mse=1.0, ssim=0.5, moran_measured=0.1, moran_imputed=0.2
    )
    row = summary(genes, rival="ridge").set_index("recipe").loc["STORM"]
    assert row["r"] == pytest.approx(0.31)
    low, high = stats.t.interval(0.95, 2, loc=0.31, scale=0.01 / np.sqrt(3))
    assert (row["lower"], row["upper"]) == pytest.approx((low, high))
    assert (row["ahead"], row["of"]) == (1, 2)


def test_a_genes_evidence_is_fishers_interval_over_sections():
    values = (0.2, 0.4, 0.5)
    genes = pd.DataFrame(
        [("STORM", 0, f"s{place}", "A", r) for place, r in enumerate(values)]
        + [("STORM", 0, "s0", "B", 0.9)],
        columns=["recipe", "seed", "section", "gene", "r"],
    )
    found = reliability_of(genes, "STORM", GeneVocabulary(("A", "B", "C")), "left out")
    z = np.arctanh(values)
    low, high = stats.t.interval(0.95, 2, loc=z.mean(), scale=stats.sem(z))
    np.testing.assert_allclose(
        [found.lower[0], found.r[0], found.upper[0]], np.tanh([low, z.mean(), high]), rtol=1e-5
    )
    assert np.isnan(found.r[1:]).all()  # one section is no evidence, and C was never asked for
