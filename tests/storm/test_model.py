"""Laws of the network: what may reach what, and what must not matter."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from storm_clinic.errors import CheckpointError, SectionError
from storm_clinic.storm import experts
from storm_clinic.storm.attention import SharedAttention, attention_bias, head_slopes
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.contexts import Contexts
from storm_clinic.storm.model import StormModel, pool_slide
from storm_clinic.storm.neighbourhood import neighbourhoods

N_GENES, IMAGE_WIDTH, PITCH_UM, MIDDLE = 30, 12, 100.0, 12
SMALL = StormConfig(
    width=32,
    n_layers=3,
    n_heads=4,
    image_width=IMAGE_WIDTH,
    n_genes=N_GENES,
    pitch_um=PITCH_UM,
    readout=0.7,
)
CLOSE = {"rtol": 1e-5, "atol": 2e-6}  # float32 sums in another order


def network(config: StormConfig = SMALL) -> StormModel:
    torch.manual_seed(0)
    model = StormModel(config).eval()
    model.gene_scale.set(torch.rand(config.n_genes), 0.5 + torch.rand(config.n_genes))
    for token in (*model.mask_token.values(), *model.modality.values()):
        token.data.normal_()
    return model


def batch(n: int = 3, seed: int = 1, **changed) -> Contexts:
    """Both modalities on 5 x 5 grids with gaps at the edge."""
    generator = torch.Generator().manual_seed(seed)
    reach = torch.arange(-2.0, 3.0) * PITCH_UM
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    valid = torch.rand((n, 25), generator=generator) > 0.2
    valid[:, MIDDLE] = True
    parts = {
        "valid": valid,
        "xy_um": torch.stack([x, y], dim=-1).reshape(1, 25, 2).repeat(n, 1, 1) + 5000,
        "image": torch.randn((n, 25, IMAGE_WIDTH), generator=generator),
        "expression": torch.rand((n, 25, N_GENES), generator=generator) * 3,
        "panel": torch.rand((n, N_GENES), generator=generator) > 0.3,
    }
    return Contexts(**{**parts, **changed})


def outputs(model: StormModel, contexts: Contexts) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = model(contexts)
        expression = model.virtual_expression(found.spot)
    return {
        "spot": found.spot,
        "context": found.context,
        "joint": found.joint,
        "expression": expression,
    }


def assert_same(found, expected, **tolerance):
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], **(tolerance or {"rtol": 0, "atol": 0})
        )


def assert_differ(found, expected):
    for name in expected:
        assert (found[name] - expected[name]).abs().max() > 1e-3, name


def some_masked(n: int = 3, seed: int = 5) -> torch.Tensor:
    return torch.rand((n, 25), generator=torch.Generator().manual_seed(seed)) > 0.5


@pytest.mark.parametrize("other", ["image", "expression"])
def test_an_absent_modality_is_as_if_never_given_even_where_it_is_masked(other):
    model, full = network(), batch()
    here = torch.zeros_like(full.valid)
    absent = {f"{other}_present": here, f"{other}_masked": some_masked()}
    without = {other: None, **({"panel": None} if other == "expression" else {})}
    expected = outputs(model, replace(full, **without))
    assert_same(outputs(model, replace(full, **absent)), expected, **CLOSE)
    assert_differ(outputs(model, full), expected)  # it does count when it is there


def test_from_h_and_e_alone_joint_is_spot():
    found = outputs(network(), replace(batch(), expression=None, panel=None))
    torch.testing.assert_close(found["joint"], found["spot"])


def test_whatever_lies_in_invalid_slots_changes_nothing():
    model, clean = network(), batch()
    hole = ~clean.valid
    dirty = {
        name: torch.where(hole[..., None], torch.nan, getattr(clean, name))
        for name in ("image", "expression", "xy_um")
    }
    assert_same(outputs(model, replace(clean, **dirty)), outputs(model, clean))


def test_an_invalid_neighbour_is_as_if_the_context_were_smaller():
    model, full = network(), batch()
    inner = [6, 7, 8, 11, 12, 13, 16, 17, 18]
    ring = torch.ones(25, dtype=torch.bool)
    ring[inner] = False
    cut = replace(full, valid=full.valid & ~ring)
    small = Contexts(
        full.valid[:, inner],
        full.xy_um[:, inner],
        full.image[:, inner],
        full.expression[:, inner],
        full.panel,
    )
    assert_same(outputs(model, cut), outputs(model, small), **CLOSE)


def test_shuffling_spots_permutes_outputs():
    model, contexts = network(), batch(n=6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = {
        name: getattr(contexts, name)[order]
        for name in ("valid", "xy_um", "image", "expression", "panel")
    }
    expected = {name: value[order] for name, value in outputs(model, contexts).items()}
    assert_same(outputs(model, Contexts(**shuffled)), expected, **CLOSE)


def test_shuffling_the_spots_of_a_section_permutes_what_is_said_of_them():
    generator = torch.Generator().manual_seed(8)
    row, column = np.divmod(np.arange(56), 8)
    xy = torch.tensor(np.stack([column, row], axis=1) * PITCH_UM, dtype=torch.float32)
    xy = (xy + 10 * torch.randn((56, 2), generator=generator))[:50]
    section = {
        "xy_um": xy,
        "image": torch.randn((50, IMAGE_WIDTH), generator=generator),
        "expression": torch.rand((50, N_GENES), generator=generator),
    }
    panel, order = torch.arange(N_GENES) % 3 > 0, torch.randperm(50, generator=generator)
    said = []
    for rows in (torch.arange(50), order):
        parts = {name: value[rows] for name, value in section.items()}
        around = neighbourhoods(parts["xy_um"].numpy(), pitch_um=PITCH_UM)
        contexts = Contexts.gather(around, torch.arange(50), panel=panel, **parts)
        assert 0.5 < contexts.valid.float().mean() < 0.9
        said.append(outputs(network(), contexts))
    expected = {name: value[order] for name, value in said[0].items()}
    assert_same(said[1], expected, **CLOSE)


def test_embedding_spots_before_they_are_gathered_changes_nothing():
    model, panel = network(), torch.arange(N_GENES) % 3 > 0
    xy = torch.cartesian_prod(torch.arange(6.0), torch.arange(5.0)) * PITCH_UM
    around = neighbourhoods(xy.numpy(), pitch_um=PITCH_UM)
    image, expression = torch.randn(30, IMAGE_WIDTH), torch.rand(30, N_GENES)
    middle = torch.arange(10, 20)
    late = Contexts.gather(
        around, middle, xy_um=xy, image=image, expression=expression, panel=panel
    )
    early = Contexts.gather(
        around,
        middle,
        xy_um=xy,
        image=model.embed_image(image),
        expression=model.embed_expression(expression, panel),
    )
    masks = {"image_masked": some_masked(10), "expression_masked": some_masked(10, seed=6)}
    with torch.no_grad():
        found = model(replace(early, **masks), embedded=True)
        expected = model(replace(late, **masks))
    for name in ("spot", "context", "joint"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **CLOSE)


def test_the_order_of_neighbours_does_not_matter_only_their_places_do():
    model, contexts = network(), batch()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    order = torch.cat([order[:MIDDLE], torch.tensor([24]), order[MIDDLE:]])
    slots = torch.tensor([slot for slot in range(25) if slot != MIDDLE] + [MIDDLE])[order]
    moved = {
        name: getattr(contexts, name)[:, slots]
        for name in ("valid", "xy_um", "image", "expression")
    }
    assert_same(outputs(model, replace(contexts, **moved)), outputs(model, contexts), **CLOSE)


@pytest.mark.parametrize("modality", ["image", "expression"])
@pytest.mark.parametrize("slot", [MIDDLE, 0, 24])
def test_no_gradient_leads_from_a_masked_value_to_any_prediction(modality, slot):
    model, contexts = network().train(), batch(valid=torch.ones(3, 25, dtype=torch.bool))
    values = getattr(contexts, modality).clone().requires_grad_()
    masked = some_masked()
    masked[:, slot] = True
    found = model(replace(contexts, **{modality: values, f"{modality}_masked": masked}))
    # The token's own last state is all that its decoder sees; the others stand for every head.
    everything = (found.tokens[modality][:, slot], found.spot, found.joint, found.context)
    total = sum((part * torch.randn_like(part)).sum() for part in everything)
    (gradient,) = torch.autograd.grad(total, values)
    assert (gradient[masked] == 0).all()
    assert (gradient[~masked].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("modality", ["image", "expression"])
def test_a_masked_value_may_be_anything(modality):
    model, contexts, masked = network(), batch(), some_masked()
    hidden = torch.where(masked[..., None], torch.nan, getattr(contexts, modality))
    mask = {f"{modality}_masked": masked}
    expected = outputs(model, replace(contexts, **mask))
    assert_same(outputs(model, replace(contexts, **mask, **{modality: hidden})), expected)
    assert_differ(expected, outputs(model, contexts))
    # Nor may it spoil what the weights learn from the spots that are seen.
    model(replace(contexts, **mask, **{modality: hidden})).context.square().sum().backward()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters() if w.grad is not None)


def test_moving_or_turning_the_slide_changes_nothing():
    model, contexts = network(), batch()
    expected = outputs(model, contexts)
    moved = replace(contexts, xy_um=contexts.xy_um + torch.tensor([4096.0, -512.0]))
    assert_same(outputs(model, moved), expected)  # whole numbers: exact
    cos, sin = np.cos(0.7), np.sin(0.7)
    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float32)
    assert_same(
        outputs(model, replace(contexts, xy_um=contexts.xy_um @ turn)),
        expected,
        rtol=1e-3,
        atol=1e-3,
    )


def test_distance_counts_in_pitches():
    contexts = batch()
    doubled = replace(contexts, xy_um=contexts.xy_um * 2)
    expected = outputs(network(), contexts)
    assert_same(outputs(network(replace(SMALL, pitch_um=2 * PITCH_UM)), doubled), expected)
    assert_differ(outputs(network(), doubled), expected)
    flat = network(replace(SMALL, alibi=False, readout=0.0))
    assert_same(outputs(flat, doubled), outputs(flat, contexts))


def test_a_spot_is_read_out_of_its_neighbours_by_their_distance():
    contexts = replace(batch(), expression=None, panel=None)
    with torch.no_grad():
        found = network()(contexts)
        alone = network(replace(SMALL, readout=0.0))(contexts)
    for one in range(len(contexts.valid)):
        slots = [slot for slot in range(25) if contexts.valid[one, slot]]
        tokens = found.tokens["image"][one, slots].double().numpy()
        steps = [np.hypot(slot % 5 - 2, slot // 5 - 2) for slot in slots]
        expected = np.average(tokens, axis=0, weights=np.exp(-np.array(steps) / 0.7))
        np.testing.assert_allclose(found.spot[one].numpy(), expected, rtol=0, atol=1e-5)
    assert torch.equal(alone.spot, alone.tokens["image"][:, MIDDLE])


def test_a_raw_vector_of_genes_is_counted_in_spreads_and_unknown_genes_at_their_mean():
    model, contexts = network(replace(SMALL, gene_encoder="linear")), batch()
    expression, panel = contexts.expression[0], contexts.panel[0]
    away = (expression - model.gene_scale.mean) / model.gene_scale.spread * panel
    scaled = away * (N_GENES / panel.sum()).sqrt()
    expected = scaled @ model.expression_in.weight.T + model.expression_in.bias
    torch.testing.assert_close(model.embed_expression(expression, panel), expected, **CLOSE)


def test_the_bias_of_a_known_pair_is_minus_slope_times_steps():
    xy = torch.tensor([[[0.0, 0.0], [300.0, 400.0], [0.0, 0.0]]])
    present = torch.tensor([[True, True, False]])
    bias = attention_bias(xy, present, head_slopes(4), pitch_um=100.0)
    assert head_slopes(4).tolist() == [2**-2, 2**-4, 2**-6, 2**-8]
    assert bias[0, :, 0, 1].tolist() == [-5 * 2**-2, -5 * 2**-4, -5 * 2**-6, -5 * 2**-8]
    assert torch.isinf(bias[0, :, :2, 2]).all()
    assert (bias[0, :, 2, 2] == 0).all()


def test_whatever_stands_for_unknown_genes_changes_nothing():
    model, contexts = network(), batch()
    unknown = ~contexts.panel[:, None].expand_as(contexts.expression)
    filled = replace(contexts, expression=torch.where(unknown, torch.nan, contexts.expression))
    assert_same(outputs(model, filled), outputs(model, contexts))


def test_an_unknown_gene_is_not_a_gene_at_zero():
    model, contexts = network(), batch()
    unknown = ~contexts.panel[:, None].expand_as(contexts.expression)
    zeros = torch.where(unknown, 0.0, contexts.expression)
    counted = replace(contexts, expression=zeros, panel=torch.ones_like(contexts.panel))
    assert_differ(outputs(model, counted), outputs(model, contexts))


def test_experts_of_equal_weights_are_one_expert():
    many, one = network(), network(replace(SMALL, experts="one"))
    shared = {
        name.replace(".of.image.", ".of.one."): value
        for name, value in many.state_dict().items()
        if ".of.expression." not in name
    }
    one.load_state_dict(shared)
    apart = outputs(many, batch())
    for block in many.blocks:
        block.experts.of["expression"].load_state_dict(block.experts.of["image"].state_dict())
    assert_same(outputs(many, batch()), outputs(one, batch()), **CLOSE)
    assert_differ(apart, outputs(one, batch()))


@pytest.mark.parametrize("experts_of", ["modality", "one"])
def test_sparing_absent_tokens_their_feed_forward_changes_no_output_and_no_gradient(
    experts_of, monkeypatch
):
    """Every token through the network, as it is done on a GPU, is the slow way to the same."""
    here = torch.zeros((3, 25), dtype=torch.bool)
    here[0, ::2] = True  # one context has some expression, the others none
    shown = batch(expression_present=here)

    def found() -> list[torch.Tensor]:
        model = network(replace(SMALL, experts=experts_of))
        said = model(shown)
        (said.joint.sum() + said.context.square().sum()).backward()
        used = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return [said.joint, said.context, *used]

    spared = found()
    monkeypatch.setattr(experts, "_of_present", lambda each, tokens, present: each(tokens))
    dense = found()
    assert len(spared) == len(dense) > 30
    for one, other in zip(spared, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_attention_is_what_its_definition_says():
    torch.manual_seed(3)
    attention, contexts = SharedAttention(32, 4).double(), batch()
    xy, present = contexts.xy_um.double(), contexts.valid
    tokens = torch.randn(3, 25, 32, dtype=torch.float64)
    slopes = head_slopes(4).double()
    found = attention(tokens, attention_bias(xy, present, slopes, pitch_um=PITCH_UM))
    projected = attention.query_key_value(tokens).detach().numpy().reshape(3, 25, 3, 4, 8)
    read = np.zeros((3, 25, 4, 8))
    for b, h, i in np.ndindex(3, 4, 25):
        others = [j for j in range(25) if present[b, j] or j == i]
        place = xy[b].numpy()
        logits = np.array(
            [
                projected[b, i, 0, h] @ projected[b, j, 1, h] / np.sqrt(8)
                - 2.0 ** (-2 * (h + 1)) * np.linalg.norm(place[i] - place[j]) / PITCH_UM
                for j in others
            ]
        )
        weights = np.exp(logits - logits.max())
        read[b, i, h] = weights @ projected[b, others, 2, h] / weights.sum()
    expected = attention.out(torch.from_numpy(read.reshape(3, 25, 32)))
    torch.testing.assert_close(found[present], expected[present], rtol=0, atol=1e-6)


def test_recomputing_activations_gives_the_same_gradients():
    plain = network().train()
    thrifty = StormModel(SMALL, checkpoint_activations=True).train()
    thrifty.load_state_dict(plain.state_dict())
    gradients = []
    for model in (plain, thrifty):
        model(batch()).context.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert_same(gradients[1], gradients[0], **CLOSE)


def test_every_weight_learns():
    model = network().train()
    contexts = batch(image_masked=some_masked(), expression_masked=some_masked(seed=6))
    found = model(contexts)
    loss = sum(tokens.square().sum() for tokens in found.tokens.values())
    (loss + model.virtual_expression(found.joint).square().sum()).backward()
    still = [name for name, value in model.named_parameters() if value.grad is None]
    assert still == []


def test_some_genes_are_the_same_genes_of_all_and_pooling_first_is_pooling_last():
    model = network()
    spots = torch.randn(7, SMALL.width)
    every = model.virtual_expression(spots)
    wanted = torch.tensor([4, 29, 0])
    torch.testing.assert_close(model.virtual_expression(spots, wanted), every[:, wanted])
    hidden = model.head.hidden(spots).mean(dim=0)
    pooled = model.head.read_out(hidden, model.gene_scale)
    torch.testing.assert_close(pooled, every.mean(dim=0), rtol=1e-5, atol=1e-5)


def test_a_network_that_learned_nothing_foretells_near_the_mean():
    model = network()
    model.head.genes.weight.data.zero_()
    model.head.genes.bias.data.zero_()
    found = model.virtual_expression(torch.randn(2, SMALL.width))
    torch.testing.assert_close(found, model.gene_scale.mean.expand(2, -1))


def test_the_slide_s_embedding_is_the_mean_of_its_spots():
    spots = np.random.default_rng(0).normal(size=(9001, 5)).astype(np.float16)
    np.testing.assert_allclose(pool_slide(spots), spots.astype(float).mean(axis=0), atol=1e-7)
    with pytest.raises(SectionError, match="at least one spot"):
        pool_slide(spots[:0])


@pytest.mark.parametrize(
    ("size", "stated"),
    # With 1280 numbers an image and 1000 genes; a change of these changes every checkpoint.
    [("tiny", 1_447_592), ("small", 13_015_208), ("base", 73_398_824)],
)
def test_sizes_have_the_parameters_that_arithmetic_gives(size, stated):
    config = StormConfig.of_size(size, image_width=1280, n_genes=1000, pitch_um=100.0)
    with torch.device("meta"):
        n_parameters = sum(value.numel() for value in StormModel(config).parameters())
    d, g, i, genes, hidden = config.width, config.gene_width, 1280, 1000, config.gene_hidden
    expert = 4 * d * d + 4 * d + 4 * d * d + d
    block = 2 * 2 * d + 4 * d * d + 4 * d + 2 * expert
    into = 2 * i + i * d + d + genes * hidden + 2 * hidden + hidden * g + g + g * d + d + 4 * d
    assert n_parameters == into + config.n_layers * block + 2 * d + d * d + d + genes * d + genes
    assert n_parameters == stated


def test_a_network_in_bf16_stays_near_itself():
    model, contexts = network(), batch()
    expected = outputs(model, contexts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = outputs(model, contexts)
    for name in ("spot", "context", "joint"):
        near = torch.nn.functional.cosine_similarity(found[name].float(), expected[name])
        assert (near > 0.999).all()


def test_what_does_not_fit_the_network_is_refused():
    with pytest.raises(SectionError, match="11 numbers an image do not fit a network for 12"):
        network()(batch(image=torch.zeros(3, 25, 11)))
    with pytest.raises(SectionError, match="needs a panel"):
        network()(batch(panel=None))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"panel": torch.ones(3, 29, dtype=torch.bool)}, "panel must be bool"),
        ({"image": None, "expression": None}, "neither image nor expression"),
        ({"xy_um": torch.zeros(3, 24, 2)}, "xy_um must be"),
        ({"image_masked": torch.zeros(3, 25)}, "image_masked must be bool"),
        ({"valid": torch.ones(3, 24, dtype=torch.bool)}, "middle slot"),
    ],
)
def test_contexts_that_contradict_themselves_are_refused(changed, message):
    with pytest.raises(SectionError, match=message):
        batch(**changed)


def test_a_configuration_survives_json_and_refuses_what_cannot_be():
    assert StormConfig.from_json(copy.deepcopy(SMALL.to_json())) == SMALL
    for changed, message in (
        ({"n_heads": 5}, "multiple of n_heads"),
        ({"experts": "two"}, "experts must be"),
        ({"alibi": 1}, "alibi must be"),
        ({"pitch_um": 0}, "pitch_um must be"),
        ({"n_layers": 0}, "n_layers must be"),
        ({"depth": 3}, "unknown fields"),
    ):
        with pytest.raises(CheckpointError, match=message):
            StormConfig.from_json({**SMALL.to_json(), **changed})
    with pytest.raises(CheckpointError, match="no size 'huge'"):
        StormConfig.of_size("huge", image_width=1, n_genes=1, pitch_um=1.0)
