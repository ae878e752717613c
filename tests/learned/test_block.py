"""The block in a host: what is loaded, saved, kept in float32 and handed out."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from arrcoc import ArrCocConfig
from arrcoc.layers import SLOPES
from arrcoc.scorers import BALANCES
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import (
    ARRCOC_CONFIGS,
    ARRCOC_MODELS,
    STOCK_MODELS,
    tiny_arrcoc_model,
    tiny_config_dict,
    tiny_stock_model,
)
from tests.helpers.tiny_processors import HOSTS
from tests.learned.helpers import LEARNED, perturb
from tests.modeling.naive import stock_inputs, without


ROWS, BUDGETS = [[(8, 6), (3, 3)], [(5, 9)]], [15, 4, 12]
both_hosts = pytest.mark.parametrize("host", HOSTS)
all_blocks = pytest.mark.parametrize("block", LEARNED, ids=str)


def outputs(model, inputs):
    with torch.no_grad():
        return model(**inputs)


@both_hosts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@all_blocks
def test_a_stock_checkpoint_misses_the_block_alone(host, block, dtype, tmp_path):
    tiny_stock_model(host).save_pretrained(tmp_path)
    config = ARRCOC_CONFIGS[host].from_pretrained(tmp_path, arrcoc_config=LEARNED[block])
    model, report = ARRCOC_MODELS[host].from_pretrained(tmp_path, config=config, dtype=dtype, output_loading_info=True)
    own = {f"model.arrcoc.{name}" for name in model.model.arrcoc.state_dict()}
    assert set(report.pop("missing_keys")) == own
    assert not any(report.values()), report
    assert model.dtype == dtype
    relevance = model.model.arrcoc.relevance
    assert {parameter.dtype for parameter in model.model.arrcoc.parameters()} == {torch.float32}
    assert relevance.query.score.weight.abs().max() == relevance.balance.balance.weight.abs().max() == 0
    assert float(relevance.query.fuse.weight.detach().std()) == pytest.approx(96**-0.5, rel=0.1)
    assert relevance.query.fuse.bias.abs().max() == 0
    assert (relevance.query.norm.weight == 1).all()
    assert 0.5 < relevance.query.nothing.std() < 1.5
    for layer in relevance.query.axial or ():
        assert layer.join.weight.abs().max() == 0
        assert torch.equal(layer.slopes, torch.tensor([SLOPES, SLOPES]))
    inputs = random_inputs(host, ROWS, native_budgets(ROWS))
    stock = STOCK_MODELS[host].from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(outputs(model, inputs).logits, outputs(stock, stock_inputs(inputs)).logits)


@both_hosts
@all_blocks
def test_an_untrained_block_allocates_as_without_training(host, block):
    free = {**LEARNED[block], "relevance": "free"}
    if block == "scout":  # which knows nothing of the question before it has learned
        free["cell_encoder"] = "none"
    inputs = random_inputs(host, ROWS, BUDGETS)
    ours = outputs(tiny_arrcoc_model(host, arrcoc_config=LEARNED[block]), inputs)
    theirs = outputs(tiny_arrcoc_model(host, arrcoc_config=free), inputs)
    torch.testing.assert_close(ours.allocation.relevance, theirs.allocation.relevance, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.allocation.boxes, theirs.allocation.boxes)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-3, atol=1e-3)


@both_hosts
@all_blocks
def test_save_and_load(host, block, tmp_path):
    model = perturb(tiny_arrcoc_model(host, arrcoc_config=LEARNED[block]))
    model.save_pretrained(tmp_path)
    inputs = random_inputs(host, ROWS, BUDGETS)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    found, expected = outputs(loaded, inputs), outputs(model, inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.allocation.relevance, expected.allocation.relevance)
    low = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    for name, parameter in low.model.arrcoc.named_parameters():
        assert torch.equal(parameter, model.model.arrcoc.get_parameter(name)), name


@both_hosts
def test_nothing_is_learned_by_default(host):
    assert tiny_arrcoc_model(host).model.arrcoc is None
    assert tiny_arrcoc_model(host, arrcoc_config={"stage": "pixels"}).model.arrcoc is None


@both_hosts
@all_blocks
def test_maps_and_balances_are_handed_out(host, block):
    model = perturb(tiny_arrcoc_model(host, arrcoc_config=LEARNED[block]))
    allocation = outputs(model, random_inputs(host, ROWS, BUDGETS)).allocation
    assert set(allocation.maps) == {"information", "salience", "query"}
    assert set(allocation.balance) == set(BALANCES)
    for index in range(3):
        one = allocation.image(index)
        for name in BALANCES:
            assert torch.equal(one.balance[name], allocation.balance[name][index : index + 1])
        assert one.map("query").shape == tuple(allocation.grids[index].tolist())
    assert allocation.to("cpu").balance.keys() == allocation.balance.keys()
    for value in allocation.balance.values():
        assert value.shape == (3,)
        assert value.unique().numel() == 3  # each image and question has its own


@both_hosts
@all_blocks
def test_the_question_has_its_say_and_only_the_question(host, block):
    model = perturb(tiny_arrcoc_model(host, arrcoc_config=LEARNED[block]))
    inputs = random_inputs(host, ROWS, BUDGETS)
    expected = outputs(model, inputs).allocation
    text = inputs["mm_token_type_ids"] == 0
    answered = {**inputs, "input_ids": torch.where(text, inputs["input_ids"] // 2, inputs["input_ids"])}
    assert torch.equal(outputs(model, answered).allocation.relevance, expected.relevance)
    asked = {**inputs, "image_query_ids": inputs["image_query_ids"] // 2}
    assert not torch.allclose(outputs(model, asked).allocation.maps["query"], expected.maps["query"])
    bare = without(inputs, "image_query_ids", "image_query_mask", "image_information")
    silent = outputs(model, bare).allocation
    assert silent.relevance.isfinite().all()
    assert silent.budgets.tolist() == BUDGETS


@both_hosts
@all_blocks
def test_generation(host, block):
    model = perturb(tiny_arrcoc_model(host, arrcoc_config=LEARNED[block], tie_word_embeddings=False))
    inputs = random_inputs(host, ROWS, BUDGETS)
    options = {"max_new_tokens": 5, "do_sample": False}
    cached = model.generate(**inputs, **options)
    assert torch.equal(cached, model.generate(**inputs, **options, use_cache=False))


@both_hosts
def test_relevance_does_not_train_the_host(host):
    """Embeddings and tower get the answer's gradient, none from the choice of leaves; the same leaves are shown."""
    for block in LEARNED.values():
        model = perturb(tiny_arrcoc_model(host, arrcoc_config={**block, "relaxation_fade": 0.0})).train()
        model.model.arrcoc.requires_grad_(False)
        inputs = random_inputs(host, ROWS, BUDGETS)

        def gradients(model=model, inputs=inputs):
            model.zero_grad()
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
            return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

        frozen = gradients()
        model.model.arrcoc.requires_grad_(True)
        trained = gradients()
        for name, value in frozen.items():
            torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-6)


def photo(cells: tuple[int, int], patch: int, seed: int) -> torch.Tensor:
    """Patches of a picture of smooth shades and a few sharp shapes."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = (2 * patch * side for side in cells)
    picture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 5, 7, generator=generator), (rows, cols), mode="bilinear"
    )[0]
    for _ in range(12):
        y, x = (
            int(torch.randint(rows - 20, (), generator=generator)),
            int(torch.randint(cols - 20, (), generator=generator)),
        )
        picture[:, y : y + 18, x : x + 14] = torch.rand(3, 18, 14, generator=generator)
    tiles = (picture * 2 - 1).view(3, cells[0], 2, patch, cells[1], 2, patch).permute(1, 4, 2, 5, 0, 3, 6)
    return tiles.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 6 * patch**2)


@both_hosts
@all_blocks
@pytest.mark.parametrize("how", ["bfloat16 weights", "autocast"])
def test_allocations_agree_in_bfloat16(host, block, how):
    """The level of detail of at least 99 % of the cells is the same, at default size."""
    config = {**LEARNED[block], "scout_dim": 192, "scout_depth": 4}
    model = perturb(tiny_arrcoc_model(host, arrcoc_config=config), scale=0.02)
    grid, patch = (24, 20), model.config.vision_config.patch_size
    rows = [[grid]] * 4
    inputs = random_inputs(host, rows, [96] * 4)
    inputs["pixel_values"] = torch.cat([photo(grid, patch, seed) for seed in range(4)])
    inputs["image_information"] = inputs["image_information"] * 0.2 + 0.8

    def levels(allocation):
        return allocation.sizes.prod(1)[allocation.cell_to_leaf]

    expected = levels(outputs(model, inputs).allocation)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = levels(outputs(model, inputs).allocation)
    else:
        found = levels(outputs(model.to(torch.bfloat16), inputs).allocation)
    assert expected.unique().numel() > 2
    assert (found == expected).float().mean() >= 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relevance": "guessed"}, "`relevance` is 'guessed'; allowed are 'free', 'learned'"),
        ({"relaxation": "hard"}, "allowed are 'straight_through', 'gumbel', 'soft'"),
        ({"relaxation_temperature": 0}, "`relaxation_temperature` is 0"),
        ({"relaxation_temperature": float("nan")}, "`relaxation_temperature` is nan"),
        ({"relaxation_fade": 1.5}, "`relaxation_fade` is 1.5"),
        ({"scout_dim": 20}, "`scout_dim` is 20; allowed are positive multiples of 8"),
        ({"scout_dim": 0}, "`scout_dim` is 0"),
        ({"scout_depth": 0}, "`scout_depth` is 0"),
        ({"salience_weight": -1.0}, "`salience_weight` is -1.0"),
        ({"stage": "pixels", "cell_encoder": "scout"}, "'scout' with free relevance"),
        ({"stage": "pixels", "cell_encoder": "none", "relevance": "learned"}, "'none' with learned relevance"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ArrCocConfig(**options)


def test_salience_has_a_say_where_it_can_be_learned():
    assert ArrCocConfig().map_weights["salience"] == 0
    assert ArrCocConfig(relevance="learned").map_weights["salience"] == 1
    assert ArrCocConfig(relevance="learned", salience_weight=0).map_weights["salience"] == 0
    config = ARRCOC_CONFIGS["qwen3_vl"](**tiny_config_dict("qwen3_vl"), arrcoc_config={"relevance": "learned"})
    assert config.arrcoc_config.to_dict()["salience_weight"] is None
