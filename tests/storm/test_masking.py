"""What is hidden, what is asked, and that no answer stands in the question."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from storm_clinic.errors import TrainingError
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.decoders import Decoders, LossWeights, Targets
from storm_clinic.storm.masking import Draws, MaskingMix, mask
from storm_clinic.storm.model import StormModel

N_GENES, WIDTH, N = 7, 6, 400
ONLY = {
    "both": MaskingMix(both=1, image_alone=0, expression_alone=0),
    "image_alone": MaskingMix(both=0, image_alone=1, expression_alone=0, whole_image=0.5),
    "expression_alone": MaskingMix(both=0, image_alone=0, expression_alone=1),
}


def contexts(n: int = N) -> Contexts:
    generator = torch.Generator().manual_seed(1)
    valid = torch.rand((n, 25), generator=generator) > torch.rand((n, 1), generator=generator) * 0.9
    valid[:, 12] = True
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    return Contexts(
        valid=valid,
        xy_um=torch.stack([x, y], dim=-1).reshape(1, 25, 2).expand(n, -1, -1) * 100,
        image=torch.randn((n, 25, WIDTH), generator=generator),
        expression=torch.rand((n, 25, N_GENES), generator=generator),
        panel=torch.ones((n, N_GENES), dtype=torch.bool),
        expression_present=torch.rand((n, 25), generator=generator) > 0.1,
    )


def draws(n: int = N, seed: int = 2) -> Draws:
    return Draws.draw(n, 25, torch.Generator().manual_seed(seed))


def visible(shown: Contexts, modality: str) -> torch.Tensor:
    return shown.present(modality) & ~shown.masked(modality)


def test_five_spots_a_modality_stay_visible_and_the_rest_is_asked():
    given = contexts()
    masked = mask(given, draws(), ONLY["both"])
    for modality, asked in (("image", masked.image), ("expression", masked.expression)):
        there = given.present(modality)
        left = visible(masked.contexts, modality)
        n_there = there.sum(dim=1)
        expected = torch.minimum((n_there + 1) // 2, torch.tensor(5))
        assert torch.equal(left.sum(dim=1), expected)
        assert torch.equal(asked, there & ~left)
    assert (visible(masked.contexts, "image") != visible(masked.contexts, "expression")).any()
    assert not masked.virtual.any()


def test_with_image_alone_expression_is_absent_and_foretold_where_the_image_shows():
    given = contexts()
    masked = mask(given, draws(), ONLY["image_alone"])
    assert not masked.contexts.present("expression").any()
    assert not masked.expression.any()
    shows = visible(masked.contexts, "image")
    assert torch.equal(masked.virtual, shows & given.present("expression"))
    whole = (shows == given.valid).all(dim=1)
    many = given.valid.sum(dim=1) > 1  # one alone is whole either way
    assert 0.4 < whole[many].float().mean() < 0.6
    assert not masked.image[whole].any()
    assert masked.image[~whole].any(dim=1).all()


def test_with_expression_alone_the_image_takes_no_part():
    masked = mask(contexts(), draws(), ONLY["expression_alone"])
    assert not masked.contexts.present("image").any()
    assert not masked.image.any()
    assert not masked.virtual.any()
    assert masked.expression.any()


def test_shares_of_the_kinds_are_those_of_the_mix():
    mix = MaskingMix(both=0.5, image_alone=0.3, expression_alone=0.2)
    shown = mask(contexts(4000), draws(4000), mix).contexts
    image = shown.present("image").any(dim=1)
    expression = shown.present("expression").any(dim=1)
    # A context whose spots all lack counts has no expression whatever its kind.
    counted = contexts(4000).present("expression").any(dim=1)
    assert (image & ~expression)[counted].float().mean() == pytest.approx(0.3, abs=0.03)
    assert (~image).float().mean() == pytest.approx(0.2, abs=0.03)


def test_a_part_of_a_batch_is_masked_as_it_is_within_the_whole():
    given, drawn, rows = contexts(), draws(), slice(100, 200)
    whole = mask(given, drawn, MaskingMix())
    given_parts = {name: getattr(given, name) for name in Contexts.__dataclass_fields__}
    own = {name: value[rows] for name, value in given_parts.items() if value is not None}
    part = mask(Contexts(**own), drawn.part(rows), MaskingMix())
    for name in ("image", "expression", "virtual"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[rows])


@pytest.mark.parametrize("kind", ONLY)
def test_nothing_that_is_asked_reaches_its_own_prediction(kind):
    """The gradient from each asked value to every prediction is exactly 0."""
    torch.manual_seed(0)
    model = StormModel(
        StormConfig(
            width=16, n_layers=2, n_heads=2, image_width=WIDTH, n_genes=N_GENES, pitch_um=100.0
        )
    )
    given = contexts(12)
    given = replace(
        given,
        image=given.image.clone().requires_grad_(),
        expression=given.expression.clone().requires_grad_(),
    )
    masked = mask(given, draws(12), ONLY[kind])
    tokens = model(masked.contexts).tokens
    said = tokens["image"][masked.image | masked.virtual].sum()
    said = (said + tokens["expression"][masked.expression].sum()) * 1.0
    image, expression = torch.autograd.grad(said, (given.image, given.expression))
    reached_image = (image != 0).any(dim=2)
    reached_expression = (expression != 0).any(dim=2)
    assert not reached_image[masked.image].any()
    assert not reached_expression[masked.expression | masked.virtual].any()
    assert (reached_image | reached_expression).any()  # what is visible does count


def test_each_context_weighs_the_same_and_genes_outside_the_panel_nothing():
    """The loss is recomputed slot by slot from its definition."""
    torch.manual_seed(0)
    config = StormConfig(
        width=16, n_layers=1, n_heads=2, image_width=WIDTH, n_genes=N_GENES, pitch_um=100.0
    )
    model, decoders, n = StormModel(config), Decoders(config), 6
    model.gene_scale.set(torch.rand(N_GENES), 0.5 + torch.rand(N_GENES))
    decoders.set_image_scale(torch.rand(WIDTH), 0.5 + torch.rand(WIDTH))
    given = contexts(n)
    mix = MaskingMix(both=0.5, image_alone=0.5, expression_alone=0)
    masked = mask(given, draws(n, seed=5), mix)
    encoded = model(masked.contexts)
    panel = torch.rand((n * 25, N_GENES)) > 0.4
    expression = given.expression.reshape(-1, N_GENES)
    garbage = torch.where(panel, expression, 1e6 * torch.ones(()))
    spots = torch.arange(n * 25).reshape(n, 25)
    targets = Targets(given.image.reshape(-1, WIDTH), garbage, panel, spots)
    weights = LossWeights(image=2.0, expression=3.0, virtual=5.0)
    found = decoders.losses(encoded, masked, targets, model, weights)

    def away(slot: tuple[int, int], kind: str) -> torch.Tensor:
        spot, scale = spots[slot], model.gene_scale
        if kind == "image":
            wanted = (targets.image[spot] - decoders.image_mean) / decoders.image_spread
            far = (decoders.image(encoded.tokens["image"][slot]) - wanted).abs()
            return torch.where(far < 1, far.square() / 2, far - 0.5).mean()
        wanted = (expression[spot] - scale.mean) / scale.spread
        if kind == "expression":
            said = decoders.expression(encoded.tokens["expression"][slot])
        else:
            said = model.virtual_expression(encoded.tokens["image"][slot])
            said = (said - scale.mean) / scale.spread
        return (said - wanted)[panel[spot]].square().mean()

    total = 0.0
    for place, (kind, weight) in enumerate((("image", 2.0), ("expression", 3.0), ("virtual", 5.0))):
        asked = getattr(masked, kind)
        means = [
            torch.stack([away((row, slot), kind) for slot in asked[row].nonzero()[:, 0]]).mean()
            for row in range(n)
            if asked[row].any()
        ]
        assert found.contexts[place] == len(means) > 0
        torch.testing.assert_close(found.sums[place], torch.stack(means).sum().detach())
        total = total + weight * torch.stack(means).sum() / n
    torch.testing.assert_close(found.total, total)


def test_shares_that_cannot_be_are_refused():
    with pytest.raises(TrainingError, match="add up to 1"):
        MaskingMix(both=0.9)
    with pytest.raises(TrainingError, match="needs image and expression"):
        mask(replace(contexts(), expression=None, panel=None), draws(), MaskingMix())
    with pytest.raises(TrainingError, match="not all 0"):
        LossWeights(image=0, expression=0, virtual=0)
