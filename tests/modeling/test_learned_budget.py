"""Learned budgets in a host: a choice of K tokens gives what the processor's prompt of K placeholders does."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, DynamicCache

from arrcoc.router import BudgetChoice
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.learned.helpers import perturb
from tests.modeling.naive import stock_inputs


TIERS = [3, 6, 12, 24]
ROWS, MOST = [[(4, 6)], [], [(3, 5), (1, 7)], [(8, 8)]], [20, 15, 7, 30]
# Tiers of the images, by their index, and what they come to: all native, one and the same, and a bit of everything.
CHOICES = {
    "mixed": ([0, 3, 1, 2], [3, 15, 6, 12]),
    "lowest": ([0] * 4, [3] * 4),
    "highest": ([3] * 4, [20, 15, 7, 24]),
}
STAGES = {"features": {"stage": "features"}, "pixels": {"stage": "pixels", "glance_level": 1}}
SIDES = ("left", "right")
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}

all_stages = pytest.mark.parametrize("stage", STAGES)
all_choices = pytest.mark.parametrize("choice", CHOICES)


def router_model(host: str, stage: str = "features", **options):
    block = {**STAGES[stage], "budget": "learned", "tiers": TIERS, "scout_dim": 32, **options}
    return tiny_arrcoc_model(host, arrcoc_config=block, tie_word_embeddings=False)


def steer(model, tiers: list[int]):
    """Make the router choose these tiers, whatever it thinks; gradients still reach all of it."""
    wanted = 50.0 * torch.nn.functional.one_hot(torch.tensor(tiers), len(TIERS))
    model.model.arrcoc.router.register_forward_hook(lambda _, __, logits: logits + wanted)
    return model


def learned_inputs(host: str, side: str = "left", **options) -> dict[str, torch.Tensor]:
    inputs = random_inputs(host, ROWS, budgets=MOST, padding_side=side, **options)
    return {**inputs, "image_budget_is_learned": torch.ones(len(MOST), dtype=torch.bool)}


def text(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return (inputs["mm_token_type_ids"] == 0) & inputs["attention_mask"].bool()


def text_labels(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return inputs["input_ids"].masked_fill(~text(inputs), -100)


@all_stages
def test_in_bfloat16(host, stage):
    tiers, budgets = CHOICES["mixed"]
    model, inputs = steer(router_model(host, stage), tiers).to(torch.bfloat16), learned_inputs(host)
    given = random_inputs(host, ROWS, budgets=budgets)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits[text(inputs)], model(**given).logits[text(given)])


@all_choices
@all_stages
@pytest.mark.parametrize("side", SIDES)
def test_a_chosen_budget_is_the_given_one(host, stage, side, choice):
    tiers, budgets = CHOICES[choice]
    model = steer(router_model(host, stage), tiers)
    inputs, given = learned_inputs(host, side), random_inputs(host, ROWS, budgets=budgets, padding_side=side)
    with torch.no_grad():
        ours = model(**inputs, labels=text_labels(inputs), output_hidden_states=True)
        theirs = model(**given, labels=text_labels(given), output_hidden_states=True)
    assert ours.logits.shape[:2] == inputs["input_ids"].shape
    assert torch.equal(ours.logits[text(inputs)], theirs.logits[text(given)])
    torch.testing.assert_close(ours.loss, theirs.loss)
    assert torch.equal(ours.image_hidden_states, theirs.image_hidden_states)
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert a.shape[:2] == inputs["input_ids"].shape
        assert torch.equal(a[text(inputs)], b[text(given)])
    allocation = ours.allocation
    assert allocation.budgets.tolist() == theirs.allocation.budgets.tolist() == budgets
    assert torch.equal(allocation.boxes, theirs.allocation.boxes)
    assert allocation.placeholders.tolist() == MOST
    torch.testing.assert_close(allocation.expected_tokens, torch.tensor(budgets).float())
    assert allocation.tier_probabilities.shape == (4, len(TIERS))
    assert theirs.allocation.placeholders is theirs.allocation.expected_tokens is None


@all_stages
def test_a_choice_of_all_cells_is_the_stock_path(host, stage, stock):
    rows, native = [[(4, 6)], [(3, 5)]], [24, 15]
    model = steer(router_model(host, stage), [3, 3])
    inputs = random_inputs(host, rows, budgets=native)
    with torch.no_grad():
        found = model(**inputs, image_budget_is_learned=torch.tensor([True, True]))
        assert torch.equal(found.logits, stock(**stock_inputs(inputs)).logits)
    assert found.allocation.expected_tokens.round().tolist() == native


def test_outputs_are_zero_at_unused_placeholders(host):
    model, inputs = steer(router_model(host), CHOICES["mixed"][0]), learned_inputs(host)
    with torch.no_grad():
        outputs, base = model(**inputs), model.model(**inputs)
    image = inputs["mm_token_type_ids"] == 1
    used = (base.last_hidden_state != 0).any(-1)
    assert int(used[image].sum()) == sum(CHOICES["mixed"][1])
    assert used[text(inputs)].all()
    assert (outputs.logits[~used] == 0).all()
    assert base.past_key_values is None


@all_stages
@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"num_beams": 3, "num_return_sequences": 2}],
    ids=["greedy", "uncached", "beams"],
)
def test_generation(host, stage, options):
    """The new tokens are those of the given budgets, behind the prompt as it was passed."""
    tiers, budgets = CHOICES["mixed"]
    model, inputs = steer(router_model(host, stage), tiers), learned_inputs(host)
    given = random_inputs(host, ROWS, budgets=budgets)
    ours = model.generate(**inputs, **GREEDY, **options)
    theirs = model.generate(**given, **GREEDY, **options)
    length = inputs["input_ids"].shape[1]
    copies = options.get("num_return_sequences", 1)
    assert torch.equal(ours[:, :length], inputs["input_ids"].repeat_interleave(copies, 0))
    assert torch.equal(ours[:, length:], theirs[:, given["input_ids"].shape[1] :])
    assert ours[:, length:].unique().numel() > 4  # or errors could go unnoticed


def test_generation_of_one_prompt_is_that_of_the_batch(host):
    tiers, _ = CHOICES["mixed"]
    model, inputs = steer(router_model(host), tiers), learned_inputs(host)
    together = model.generate(**inputs, **GREEDY)[:, -6:]
    alone = steer(router_model(host), tiers[3:])
    single = random_inputs(host, ROWS, budgets=MOST)
    one = {name: single[name][3:] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    one |= {name: single[name][3:] for name in ("image_grid_thw", "image_token_budgets", "image_query_ids")}
    one |= {
        "pixel_values": single["pixel_values"][-256:],  # the last image has 64 cells
        "image_information": single["image_information"][-64:],
    }
    found = alone.generate(**one, image_budget_is_learned=torch.tensor([True]), **GREEDY)
    assert torch.equal(found[0, -6:], together[3])


def test_generation_reports_and_limits_lengths(host):
    tiers, budgets = CHOICES["mixed"]
    model, inputs = steer(router_model(host), tiers), learned_inputs(host)
    length = inputs["input_ids"].shape[1]
    expected = model.generate(**inputs, **GREEDY)
    found = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(found.sequences, expected)
    assert len(found.logits) == 6
    to_length = model.generate(**inputs, max_length=length + 4, min_length=length + 4, do_sample=False)
    assert torch.equal(to_length, expected[:, : length + 4])
    assert torch.equal(model.generate(inputs.pop("input_ids"), **inputs, **GREEDY), expected)


def test_generation_without_an_attention_mask(host):
    model = steer(router_model(host), [0, 2])
    inputs = random_inputs(host, [[(4, 6)], [(4, 6)]], budgets=[12, 12], text_length=5)
    inputs["image_budget_is_learned"] = torch.tensor([True, True])
    inputs["input_ids"][0, 0] = 7  # in place of the padding of the shorter row
    inputs["attention_mask"][:] = 1
    expected = model.generate(**inputs, **GREEDY)
    del inputs["attention_mask"]
    assert torch.equal(model.generate(**inputs, **GREEDY), expected)


def test_images_encoded_once(host):
    """Two calls see the same choice, which is not made again."""
    model, inputs = steer(router_model(host), CHOICES["mixed"][0]), learned_inputs(host)
    with torch.no_grad():
        encoded = model.encode_images(**inputs)
    assert encoded.allocation.budgets.tolist() == CHOICES["mixed"][1]
    expected = model.generate(**inputs, **GREEDY)
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")}
    for _ in range(2):
        assert torch.equal(model.generate(**prompt, encoded_images=encoded, **GREEDY), expected)
    with torch.no_grad():
        logits = model(**prompt, mm_encoder_outputs={"image": encoded}).logits
        assert torch.equal(logits, model(**inputs).logits)


def test_embeddings_in_place_of_ids(host):
    model, inputs = steer(router_model(host), CHOICES["mixed"][0]), learned_inputs(host)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    expected = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, inputs_embeds=embeds, **GREEDY), expected)


def test_images_of_given_budgets_keep_them(host):
    model, inputs = steer(router_model(host), [0] * 4), learned_inputs(host)
    inputs["image_budget_is_learned"] = torch.tensor([True, False, True, False])
    budgets = [3, 15, 3, 30]
    given = random_inputs(host, ROWS, budgets=budgets)
    with torch.no_grad():
        ours, theirs = model(**inputs), model(**given)
        none = model(**{**inputs, "image_budget_is_learned": torch.zeros(4, dtype=torch.bool)})
        plain = model(**random_inputs(host, ROWS, budgets=MOST))
    assert ours.allocation.budgets.tolist() == budgets
    assert ours.allocation.expected_tokens.round().tolist() == budgets
    assert (ours.allocation.tier_probabilities.sum(1).round() == torch.tensor([1, 0, 1, 0])).all()
    assert torch.equal(ours.logits[text(inputs)], theirs.logits[text(given)])
    assert torch.equal(none.logits, plain.logits)
    assert none.allocation.placeholders is None


def test_an_untrained_router_spends_the_highest_tier(host):
    with torch.no_grad():
        allocation = router_model(host)(**learned_inputs(host)).allocation
    assert allocation.budgets.tolist() == CHOICES["highest"][1]
    one = allocation.image(3)
    assert one.placeholders.tolist() == [30]
    assert torch.equal(one.tier_probabilities, allocation.tier_probabilities[3:])
    assert torch.equal(allocation.to("cpu").expected_tokens, allocation.expected_tokens)


@pytest.mark.parametrize("fade", [0.0, 1.0])
@pytest.mark.parametrize("policy", ["lod", "uniform"])
@pytest.mark.parametrize("stage", ["features", "pixels"])
def test_the_answer_and_the_efficiency_loss_reach_the_router(host, stage, policy, fade):
    torch.manual_seed(0)
    model = perturb(router_model(host, stage, budget_fade=fade, policy=policy), 0.1).train()
    inputs = learned_inputs(host)
    for loss in ("answer", "efficiency"):
        model.zero_grad()
        outputs = model(**inputs, labels=text_labels(inputs))
        assert outputs.allocation.expected_tokens.requires_grad and outputs.allocation.tier_probabilities.requires_grad
        (outputs.loss if loss == "answer" else outputs.allocation.expected_tokens.mean()).backward()
        for name, parameter in model.model.arrcoc.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (loss, name)
            assert parameter.grad.abs().max() > 0, (loss, name)
        if loss == "efficiency":  # ends at the router
            assert all(parameter.grad is None for name, parameter in model.named_parameters() if "arrcoc" not in name)


@pytest.mark.parametrize(
    "encoder, relaxation",
    [
        ("features", "gumbel"),
        ("features", "soft"),
        ("glance", "gumbel"),
        ("scout", "straight_through"),
        ("scout", "soft"),
    ],
)
def test_learned_relevance_and_budget_are_trained_together(host, encoder, relaxation):
    torch.manual_seed(0)
    options = {"relevance": "learned", "scout_depth": 1, "relaxation": relaxation}
    if encoder != "features":
        options |= {"stage": "pixels", "cell_encoder": encoder}
    model = perturb(router_model(host, **options)).train()
    inputs = learned_inputs(host)
    model(**inputs, labels=text_labels(inputs)).loss.backward()
    for name, parameter in model.model.arrcoc.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@all_stages
def test_detail_that_helps_is_asked_for(host, stage):
    """The gradient along the way between tiers is the slope of the loss: measured by fading by hand."""
    model, inputs = router_model(host, stage), learned_inputs(host)
    tiers, slopes = torch.tensor([3, 2, 1, 2]), []

    def loss(shares):
        def chosen(logits, tiers_, placeholders, is_learned, explore, fade):
            counts = torch.minimum(torch.tensor(tiers_), placeholders[:, None])
            at = counts.gather(1, tiers[:, None])[:, 0]
            below = counts.gather(1, tiers[:, None] - 1)[:, 0]
            return BudgetChoice(at, placeholders, at.float(), logits.softmax(1), below, shares)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("arrcoc.encoding_arrcoc.choose_budgets", chosen)
            return model(**inputs, labels=text_labels(inputs)).loss

    shares = torch.full((4,), 0.5, requires_grad=True)
    loss(shares).backward()
    with torch.no_grad():
        for image in range(4):
            step = 0.02 * torch.nn.functional.one_hot(torch.tensor(image), 4)
            slopes.append(float((loss(shares + step) - loss(shares - step)) / 0.04))
    torch.testing.assert_close(shares.grad, torch.tensor(slopes), rtol=0.1, atol=2e-3)
    assert shares.grad.abs().max() > 1e-2


def test_save_and_load(host, tmp_path):
    model, inputs = perturb(router_model(host), 0.5), learned_inputs(host)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        ours, theirs = model(**inputs), loaded(**inputs)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.allocation.tier_probabilities, theirs.allocation.tier_probabilities)
    low = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in low.model.arrcoc.parameters()} == {torch.float32}
    with torch.no_grad():
        outputs = low(**inputs)
    assert outputs.logits.isfinite().all()
    assert outputs.allocation.tier_probabilities.dtype == torch.float32


def test_what_does_not_fit_together_is_refused(host, model):
    inputs = learned_inputs(host)
    for use in (model, model.generate):
        with pytest.raises(ValueError, match="no router"):
            use(**inputs)
    router = steer(router_model(host), CHOICES["mixed"][0])
    with pytest.raises(ValueError, match=r"shape \(2,\) for 4 images"):
        router(**{**inputs, "image_budget_is_learned": torch.tensor([True, False])})
    with pytest.raises(ValueError, match="needs `image_token_budgets`"):
        router(**{name: value for name, value in inputs.items() if name != "image_token_budgets"})
    with pytest.raises(ValueError, match="images of"):
        wrong = random_inputs(host, ROWS, budgets=[19, 15, 7, 30])
        router(**{**inputs, **{name: wrong[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}})
    with pytest.raises(ValueError, match="a cache cannot follow"):
        router(**inputs, past_key_values=DynamicCache())


def test_a_chat_cannot_go_on_from_a_cache(host):
    router, inputs = steer(router_model(host), [2]), random_inputs(host, [[(4, 6)]], budgets=[20])
    learned = {**inputs, "image_budget_is_learned": torch.tensor([True])}
    first = router.generate(**learned, **GREEDY, return_dict_in_generate=True)
    grown = {**learned, "input_ids": torch.cat([first.sequences, first.sequences[:, :3]], 1)}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        grown[name] = torch.nn.functional.pad(inputs[name], (0, 9), value=value)
    with pytest.raises(ValueError, match="found a cache"):
        router.generate(**grown, **GREEDY, past_key_values=first.past_key_values)
    with torch.no_grad():
        encoded = router.encode_images(**learned)
    prompt = {name: grown[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")}
    short = DynamicCache()
    short.update(torch.zeros(1, 2, 2, 16), torch.zeros(1, 2, 2, 16), 0)
    with pytest.raises(ValueError, match="found a cache"):
        router.generate(**prompt, encoded_images=encoded, past_key_values=short, **GREEDY)
