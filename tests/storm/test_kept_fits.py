"""Fits on disk: found by all that decides them, and never taken for another's."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from planted_sections import planted_section

from storm_clinic.errors import TrainingError
from storm_clinic.storm import kept_fits
from storm_clinic.storm.decoders import LossWeights
from storm_clinic.storm.evaluate import Recipe, Seen, hold_out
from storm_clinic.storm.held_out import HeldOut
from storm_clinic.storm.impute import FinetunePlan
from storm_clinic.storm.kept_fits import FITS_VERSION, KeptFits, network_key, of_genes, rival_key
from storm_clinic.storm.masking import MaskingMix
from storm_clinic.storm.rivals import RIVALS, RivalView, hold_out_rival
from storm_clinic.storm.section_digest import section_digest

KEY = "a" * 64
RECIPE = Recipe(name="STORM", image_axes=4, n_genes=6, side=3, finetune=FinetunePlan(epochs=2))


def found(seed: int = 0) -> HeldOut:
    rng = np.random.default_rng(seed)
    measured = rng.normal(size=(5, 3)).astype(np.float32)
    measured[:, 1] = np.nan  # not looked for
    # Columns that were picked out of a table often lie one after the other in memory.
    imputed = np.asfortranarray(rng.normal(size=(5, 3)).astype(np.float32))
    return HeldOut("STORM", f"s{seed}", "p", 3, ("A", "B", "C"), measured, imputed)


def test_what_was_kept_comes_back_to_the_bit(tmp_path):
    fits = KeptFits(tmp_path / "fits")
    assert fits.read(KEY) is None
    fits.keep(KEY, [found(0), found(1)])
    read = fits.read(KEY)
    assert read is not None
    assert [one.section for one in read] == ["s0", "s1"]
    for one, other in zip(read, (found(0), found(1)), strict=True):
        np.testing.assert_array_equal(one.measured, other.measured)
        np.testing.assert_array_equal(one.imputed, other.imputed)
        assert (one.genes, one.seed, one.patient) == (other.genes, 3, "p")


def test_genes_are_picked_by_name_in_the_order_asked_for():
    (picked,) = of_genes([found()], ("C", "A"))
    np.testing.assert_array_equal(picked.imputed, found().imputed[:, [2, 0]])
    assert picked.genes == ("C", "A")


@pytest.mark.parametrize("damage", ["cut", "number", "empty"])
def test_a_damaged_file_is_refused_by_name_and_says_what_to_do(tmp_path, damage):
    fits = KeptFits(tmp_path)
    fits.keep(KEY, [found()])
    path = fits.path(KEY)
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-2] ^= 1  # within the last number
    path.write_bytes({"cut": whole[:-9], "number": bytes(changed), "empty": b""}[damage])
    with pytest.raises(TrainingError, match=f"{path.name}.*Remove this file and run the same"):
        fits.read(KEY)


def test_a_file_under_another_fits_name_is_refused(tmp_path):
    fits = KeptFits(tmp_path)
    fits.keep(KEY, [found()])
    fits.path(KEY).rename(fits.path("b" * 64))
    with pytest.raises(TrainingError, match="another fit"):
        fits.read("b" * 64)


def key(recipe: Recipe = RECIPE, **changed: object) -> str:
    others: dict[str, object] = {"seed": 0, "pitch_um": 100.0, "start": None} | changed
    sections = others.pop("sections", ("one", "two", "three"))
    is_left_out = others.pop("is_left_out", (True, False, False))
    return network_key(sections, is_left_out, recipe, **others)  # type: ignore[arg-type]


def test_every_setting_of_a_recipe_leads_to_another_fit_but_its_name_does_not():
    other: dict[str, object] = {
        "size": "small",
        "experts": "one",
        "alibi": False,
        "gene_encoder": "linear",
        "encoder": "random",
        "masking": MaskingMix(visible=3),
        "losses": LossWeights(virtual=0.5),
    }
    changed = {
        one.name: replace(
            RECIPE, **{one.name: other.get(one.name) or getattr(RECIPE, one.name) + 2}
        )
        for one in fields(Recipe)
        if one.name not in ("name", "start", "finetune")
    }
    plan = RECIPE.finetune
    changed |= {
        f"finetune.{one.name}": replace(
            RECIPE, finetune=replace(plan, **{one.name: getattr(plan, one.name) / 2 or 0.5})
        )
        for one in fields(FinetunePlan)
        if one.name not in ("seed", "epochs", "batch")
    }
    changed["finetune.epochs"] = replace(RECIPE, finetune=replace(plan, epochs=9))
    changed["finetune.batch"] = replace(RECIPE, finetune=replace(plan, batch=9))
    keys = {name: key(recipe) for name, recipe in changed.items()}
    assert len({key(), *keys.values()}) == 1 + len(keys)
    # The evaluation's seed replaces the plan's; a start counts by the checkpoint's digest.
    assert key(replace(RECIPE, name="renamed", finetune=replace(plan, seed=5))) == key()
    assert key(replace(RECIPE, start="somewhere")) == key()


def test_seed_fold_pitch_sections_and_start_lead_to_another_fit(monkeypatch):
    keys = [
        key(),
        key(seed=1),
        key(pitch_um=200.0),
        key(start="digest"),
        key(is_left_out=(False, True, False)),
        key(sections=("one", "two", "other")),
        key(sections=("one", "three", "two")),  # spots are drawn in the order of sections
        rival_key(("one", "two"), (True, False), "ridge", n_genes=2),
        rival_key(("one", "two"), (True, False), "mean", n_genes=2),
        rival_key(("one", "two"), (True, False), "ridge", n_genes=3),
    ]
    monkeypatch.setattr(kept_fits, "FITS_VERSION", FITS_VERSION + 1)
    keys.append(key())
    monkeypatch.undo()
    monkeypatch.setattr(kept_fits, "package_versions", lambda names: {"torch": "0.0"})
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_a_section_is_known_by_all_that_is_read_of_it():
    one = planted_section(1)
    section, image = one.section, one.image
    counts = section.counts.copy()
    counts.data[0] += 1
    moved = section.centres_px.copy()
    moved[0, 0] += 1
    nudged = image.copy()
    nudged[-1, -1] = np.nextafter(nudged[-1, -1], np.float32(np.inf))
    others = [
        section_digest(replace(section, **changed), {"image": image})
        for changed in (
            {"counts": counts},
            {"centres_px": moved},
            {"name": "other"},
            {"patient": "other"},
            {"symbols": (*section.symbols[:-1], "OTHER")},
            {"pitch_um": 150.0},
        )
    ]
    others += [section_digest(section, {"image": nudged}), section_digest(section, {})]
    own = section_digest(section, {"image": image})
    assert len({own, *others}) == 1 + len(others)
    again = planted_section(1)
    assert section_digest(again.section, {"image": again.image}) == own


# By version: means of six genes, and what is imputed of the first spot. Kinds of fits and
# all rivals, so that all their code takes part.
NUMBERS = {
    1: {
        "plain": (
            7.237,
            7.121,
            7.161,
            7.156,
            7.123,
            7.120,
            5.773,
            6.242,
            6.799,
            7.390,
            7.968,
            8.545,
        ),
        "taught": (
            7.142,
            7.130,
            7.136,
            7.108,
            7.056,
            7.016,
            6.178,
            6.550,
            6.863,
            7.313,
            7.645,
            8.109,
        ),
        "pretrained": (
            7.206,
            7.170,
            7.175,
            7.128,
            7.052,
            7.007,
            5.373,
            6.046,
            6.707,
            7.280,
            7.833,
            8.212,
        ),
        "mean": (
            7.085,
            7.107,
            7.125,
            7.106,
            7.088,
            7.085,
            7.085,
            7.107,
            7.125,
            7.106,
            7.088,
            7.085,
        ),
        "library": (
            7.071,
            7.095,
            7.113,
            7.093,
            7.074,
            7.068,
            7.053,
            7.080,
            7.099,
            7.077,
            7.055,
            7.048,
        ),
        "hest-probe": (
            7.144,
            7.139,
            7.134,
            7.094,
            7.059,
            7.022,
            5.923,
            6.451,
            6.915,
            7.384,
            7.787,
            8.300,
        ),
        "ridge": (
            7.203,
            7.174,
            7.153,
            7.095,
            7.048,
            6.998,
            6.057,
            6.513,
            6.937,
            7.360,
            7.749,
            8.202,
        ),
        "ridge, scaled by slide": (
            7.112,
            7.121,
            7.130,
            7.100,
            7.073,
            7.062,
            6.063,
            6.517,
            6.938,
            7.354,
            7.730,
            8.186,
        ),
    }
}
KINDS = {
    "plain": replace(RECIPE, readout=0.7),
    "taught": replace(RECIPE, finetune=replace(RECIPE.finetune, teacher=1.0)),
    "pretrained": replace(RECIPE, image_axes=0, pretrain_steps=3),
}


SECTIONS = [planted_section(seed) for seed in (1, 2, 3, 4)]


def imputed(kind: str) -> HeldOut:
    if kind in KINDS:
        seen = [Seen(one.section, {"plain": one.image}) for one in SECTIONS]
        return hold_out(seen, ["planted1"], KINDS[kind], seed=0, n_genes=6, pitch_um=200.0)[0]
    views = [
        RivalView(one.section, one.section, one.image, one.image[:, :3], one.section.name)
        for one in SECTIONS
    ]
    return hold_out_rival(kind, views, ["planted1"], n_genes=6)[0]


@pytest.mark.parametrize("kind", [*KINDS, *RIVALS])
def test_code_that_gives_other_numbers_has_another_version(kind):
    """If this fails on purpose: raise FITS_VERSION, and write the new numbers under it."""
    found = imputed(kind).imputed
    numbers = [*found.mean(axis=0), *found[0]]
    np.testing.assert_allclose(numbers, NUMBERS[FITS_VERSION][kind], atol=2e-3)
