"""Compressor and adapter in the hosts: nothing changes until they are trained, and then what is compressed does."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from arrcoc import ArrCocConfig
from arrcoc.block import ArrCocBlock
from arrcoc.configuration_arrcoc import ADAPTERS, COMPRESSORS, STAGES
from arrcoc.distribution import DISTRIBUTION_LOSSES, distribution_loss, level_losses
from arrcoc.host_statistics import HostStatistics
from tests.compression.learned import gradients_after, perturb
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import (
    ARRCOC_CONFIGS,
    ARRCOC_MODELS,
    tiny_arrcoc_model,
    tiny_config_dict,
    tiny_stock_model,
)
from tests.modeling.naive import stock_inputs


ROWS, BUDGETS = [[(4, 6), (3, 3)], [(7, 9)]], [9, 9, 20]  # the second image is native
UNTIED = {"tie_word_embeddings": False}
LEARNED = [
    {"compressor": "experts"},
    {"adapter": "quality", "adapter_blocks": 2},
    {"adapter": "prototype", "adapter_blocks": 1},
    {"compressor": "experts", "adapter": "quality"},
]
EVERYTHING = LEARNED[-1]


@pytest.fixture(params=STAGES)
def stage(request):
    return request.param


def build(host, trained: bool = False, **block):
    model = tiny_arrcoc_model(host, arrcoc_config=block, **UNTIED)
    if trained:
        perturb(model.model.arrcoc)
    return model


def run(model, inputs):
    with torch.no_grad():
        return model(**inputs)


def generated(model, inputs, **options):
    return model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)


@pytest.mark.parametrize("policy", ["lod", "foveated", "topk"])
@pytest.mark.parametrize("learned", LEARNED, ids=str)
def test_untrained_nothing_changes_bit_for_bit(host, stage, policy, learned):
    """Logits, hidden states and generated text are those of plain pooling."""
    inputs = random_inputs(host, ROWS, BUDGETS)
    plain, model = build(host, stage=stage, policy=policy), build(host, stage=stage, policy=policy, **learned)
    assert plain.model.arrcoc is None and model.model.arrcoc is not None
    ours, theirs = (
        run(model, inputs | {"output_hidden_states": True}),
        run(plain, inputs | {"output_hidden_states": True}),
    )
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(a, b) for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True))
    assert torch.equal(ours.allocation.boxes, theirs.allocation.boxes)
    for options in ({}, {"num_beams": 2}):
        assert torch.equal(generated(model, inputs, **options), generated(plain, inputs, **options))


def test_untrained_nothing_changes_in_bfloat16(host, stage):
    inputs = random_inputs(host, ROWS, BUDGETS)
    plain = build(host, stage=stage).to(torch.bfloat16)
    model = build(host, stage=stage, **EVERYTHING).to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.model.arrcoc.parameters()} == {torch.bfloat16}
    assert torch.equal(run(model, inputs).logits, run(plain, inputs).logits)
    assert torch.equal(generated(model, inputs), generated(plain, inputs))


@pytest.mark.parametrize("learned", LEARNED, ids=str)
def test_trained_or_not_native_budgets_are_the_stock_host(host, stage, learned):
    """The first limit holds for ever: what is learned has no say where nothing is compressed."""
    stock, model = tiny_stock_model(host, **UNTIED), build(host, trained=True, stage=stage, **learned)
    inputs = random_inputs(host, ROWS, native_budgets(ROWS))
    assert torch.equal(run(model, inputs).logits, run(stock, stock_inputs(inputs)).logits)
    placeholders = [stock.config.image_token_id, stock.config.video_token_id]
    theirs = generated(stock, stock_inputs(inputs), suppress_tokens=placeholders)
    assert torch.equal(generated(model, inputs), theirs)


@pytest.mark.parametrize("learned", LEARNED, ids=str)
def test_trained_only_compressed_tokens_change(host, stage, learned):
    inputs = random_inputs(host, ROWS, BUDGETS)
    plain, model = build(host, stage=stage), build(host, trained=True, stage=stage, **learned)
    with torch.no_grad():
        ours, theirs = model.encode_images(**inputs), plain.encode_images(**inputs)
    compressed = ours.allocation.sizes.prod(1) > 1
    changed = (torch.cat(ours.pooler_output) != torch.cat(theirs.pooler_output)).any(1)
    assert torch.equal(changed, compressed) and not compressed.all()
    assert [len(image) for image in ours.pooler_output] == BUDGETS
    if host == "qwen3_vl":  # DeepStack features are compressed alike, but not adapted
        expected = compressed if "compressor" in learned else torch.zeros_like(compressed)
        for layer, plain_layer in zip(ours.deepstack_features, theirs.deepstack_features, strict=True):
            assert [len(image) for image in layer] == BUDGETS
            assert torch.equal((torch.cat(layer) != torch.cat(plain_layer)).any(1), expected)
    assert not torch.equal(run(model, inputs).logits, run(plain, inputs).logits)


def test_each_layer_has_its_compressor(host, stage):
    model = build(host, stage=stage, **EVERYTHING)
    assert len(model.model.arrcoc.compressors) == {"qwen3_vl": 3, "qwen2_5_vl": 1}[host]


@pytest.mark.parametrize("learned", LEARNED, ids=str)
def test_every_parameter_learns_from_the_answer(host, stage, learned):
    """At the start the layers that are zero, after one step all of them."""
    model = build(host, stage=stage, **learned).train().requires_grad_(False)
    block = model.model.arrcoc.requires_grad_(True)
    inputs = random_inputs(host, ROWS, BUDGETS)
    text = (inputs["mm_token_type_ids"] == 0) & inputs["attention_mask"].bool()
    inputs["labels"] = inputs["input_ids"].masked_fill(~text, -100)

    def loss():
        return model(**inputs).loss

    first = {name for name, size in gradients_after(block, loss, 0).items() if size > 0}
    assert first and all(name.endswith(("film.weight", "score.weight", "residual.weight")) for name in first)
    last = gradients_after(block, loss, 1)
    assert all(0 < size < float("inf") for size in last.values()), last


def test_gradients_reach_the_tower_and_learned_relevance(host, stage):
    model = build(host, trained=False, stage=stage, relevance="learned", **EVERYTHING).train()
    perturb(model.model.arrcoc, scale=0.05)
    inputs = random_inputs(host, ROWS, BUDGETS)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for part in (model.model.visual.blocks[0], model.model.arrcoc.relevance, model.model.arrcoc.compressors):
        sizes = [float(parameter.grad.abs().max()) for parameter in part.parameters() if parameter.grad is not None]
        assert sizes and max(sizes) > 0 and all(size < float("inf") for size in sizes)


@pytest.mark.parametrize("relaxation", ["straight_through", "gumbel", "soft"])
def test_untrained_nothing_changes_under_relaxation(host, stage, relaxation):
    """Training steps of learned relevance are the same with and without a compressor that has learned nothing."""
    inputs = random_inputs(host, ROWS, BUDGETS)
    options = {"stage": stage, "relevance": "learned", "relaxation": relaxation}
    plain, model = build(host, **options), build(host, **options, **EVERYTHING)
    perturb(plain.model.arrcoc, scale=0.05)
    model.load_state_dict(plain.state_dict(), strict=False)
    logits = []
    for network in (plain, model):
        torch.manual_seed(0)  # of the noise
        logits.append(network.train()(**inputs).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("loss", DISTRIBUTION_LOSSES)
def test_matching_distributions_brings_unseen_images_closer(host, loss):
    """Host frozen, adapter trained on the distribution alone: no answer is needed."""
    model = build(host, adapter="quality", adapter_blocks=1).requires_grad_(False)
    adapter = model.model.arrcoc.adapter.requires_grad_(True)

    def images(seed):
        inputs = random_inputs(host, [[(16, 16), (16, 12)]], [40, 40], seed=seed)
        return {name: value for name, value in inputs.items() if name.startswith(("image_", "pixel"))}

    own = HostStatistics.measure(model, map(images, range(4)), samples=256).layers["tokens"]

    def tokens(seed):
        encoded = model.encode_images(**images(seed))
        return torch.cat(encoded.pooler_output), encoded.allocation.levels

    def divergences():
        with torch.no_grad():
            return level_losses("kl", *tokens(99), own)

    before = divergences()
    assert {1, 2} <= before.keys() and before[2] > before[1] > 0.1
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    for step in range(30):
        optimizer.zero_grad()
        distribution_loss(loss, *tokens(step % 4), own).backward()
        optimizer.step()
    after = divergences()
    assert after[1] < 0.8 * before[1] and after[2] < 0.8 * before[2], (before, after)


def test_batch_is_single_images(host, stage):
    model = build(host, trained=True, stage=stage, **EVERYTHING)
    inputs = random_inputs(host, ROWS, BUDGETS)
    with torch.no_grad():
        together = model.encode_images(**inputs).pooler_output
    patches, cells = 0, 0
    for index, grid in enumerate(inputs["image_grid_thw"]):
        count = int(grid.prod())
        with torch.no_grad():
            alone = model.encode_images(
                inputs["pixel_values"][patches : patches + count],
                grid[None],
                inputs["image_token_budgets"][index : index + 1],
                inputs["image_query_ids"][index : index + 1],
                inputs["image_query_mask"][index : index + 1],
                inputs["image_information"][cells : cells + count // 4],
            ).pooler_output[0]
        torch.testing.assert_close(together[index], alone, rtol=1e-4, atol=1e-4)
        patches, cells = patches + count, cells + count // 4


def test_cached_decoding_equals_uncached(host, stage):
    model = build(host, trained=True, stage=stage, **EVERYTHING)
    inputs = random_inputs(host, ROWS, BUDGETS)
    assert torch.equal(generated(model, inputs), generated(model, inputs, use_cache=False))


@pytest.mark.parametrize("learned", LEARNED[1:], ids=str)
def test_save_and_load(host, stage, learned, tmp_path):
    model = build(host, trained=True, stage=stage, **learned)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    inputs = random_inputs(host, ROWS, BUDGETS)
    assert torch.equal(run(loaded, inputs).logits, run(model, inputs).logits)
    low = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in low.model.arrcoc.parameters()} == {torch.bfloat16}
    assert run(low, inputs).logits.isfinite().all()


def test_stock_checkpoint_lacks_the_block_alone(host, stage, tmp_path):
    """What is missing is initialised: finite, identity, and not left as memory happened to be."""
    tiny_stock_model(host, **UNTIED).save_pretrained(tmp_path)
    config = ARRCOC_CONFIGS[host].from_pretrained(tmp_path, arrcoc_config={"stage": stage, **EVERYTHING})
    model, report = ARRCOC_MODELS[host].from_pretrained(tmp_path, config=config, output_loading_info=True)
    own = {f"model.arrcoc.{name}" for name, _ in model.model.arrcoc.named_parameters()}
    assert set(report["missing_keys"]) == own and not report["unexpected_keys"]
    inputs = random_inputs(host, ROWS, BUDGETS)
    assert torch.equal(run(model, inputs).logits, run(build(host, stage=stage), inputs).logits)
    for name, parameter in model.model.arrcoc.named_parameters():
        if name.endswith(("film.weight", "score.weight", "residual.weight")):
            assert not parameter.any(), name
        elif name.endswith("weight") and "norm" not in name:
            fan_in = parameter[0].numel()
            assert 0.7 < float(parameter.detach().std()) * fan_in**0.5 < 1.3, name


def test_initial_weights_are_the_same_built_and_loaded(host):
    """Prototypes and all: by the rules of the block, not those of the host's layers."""
    torch.manual_seed(0)
    config = ARRCOC_CONFIGS[host](**tiny_config_dict(host), arrcoc_config={"adapter": "prototype"})
    model = ARRCOC_MODELS[host](config)
    transform = model.model.arrcoc.adapter.blocks[0].transform
    for values in (transform.keys, transform.values):
        assert 0.95 < float(values.detach().std()) < 1.05
    assert not model.model.arrcoc.adapter.blocks[0].film.weight.any()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("saved", ["arrcoc", "arrcoc.adapter"])
def test_peft_saves_what_was_trained(host, saved, tmp_path):
    peft = pytest.importorskip("peft")
    build(host, **EVERYTHING).save_pretrained(tmp_path / "base")
    inputs = random_inputs(host, ROWS, BUDGETS)
    model = peft.get_peft_model(
        AutoModelForImageTextToText.from_pretrained(tmp_path / "base"),
        peft.LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", modules_to_save=[saved]),
    )
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora" not in name]
    assert trained and all(f".{saved}." in name for name in trained)
    before = run(model, inputs).logits
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = run(model, inputs).logits
    assert not torch.allclose(before, after, atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    assert torch.equal(run(peft.PeftModel.from_pretrained(base, tmp_path / "adapter"), inputs).logits, after)
    merged = model.merge_and_unload()
    torch.testing.assert_close(run(merged, inputs).logits, after, rtol=1e-4, atol=1e-4)
    assert type(merged.model.arrcoc) is ArrCocBlock


def test_options():
    assert COMPRESSORS == ("mean", "experts") and ADAPTERS == ("none", "quality", "prototype")
    for wrong, message in (
        ({"compressor": "median"}, "'median'; allowed are 'mean', 'experts'"),
        ({"adapter": "lora"}, "'lora'; allowed are 'none', 'quality', 'prototype'"),
        ({"adapter_blocks": 0}, "`adapter_blocks` is 0"),
        ({"adapter_dim": 0}, "`adapter_dim` is 0"),
        ({"compressor_dim": -4}, "`compressor_dim` is -4"),
        (
            {"adapter": "prototype", "adapter_dim": 20},
            "`adapter_dim` is 20; allowed for prototypes are multiples of 8",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            ArrCocConfig(**wrong)


@pytest.mark.parametrize("width", [24, 48])
def test_widths_are_those_of_the_configuration(host, width):
    block = build(
        host, compressor="experts", adapter="quality", compressor_dim=width, adapter_dim=2 * width
    ).model.arrcoc
    assert block.compressors[0].describe.out_features == width
    assert block.adapter.blocks[0].transform[0].out_features == 2 * width
