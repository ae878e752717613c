"""Semantic depth: which DeepStack layers a leaf keeps."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from arrcoc import ArrCocConfig, allocate
from arrcoc.allocation import uniform_allocation
from arrcoc.depth import DepthScorer, keep_layers, leaf_relevance, relevance_gates
from arrcoc.outputs import ArrCocImageFeatures
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import ARRCOC_CONFIGS, ARRCOC_MODELS, tiny_arrcoc_model, tiny_config_dict
from tests.learned.helpers import perturb


GRIDS, BUDGETS = torch.tensor([[4, 6], [3, 3]]), torch.tensor([7, 9])
ROWS, GIVEN = [[(8, 6), (3, 3)], [], [(5, 9)]], [15, 4, 12]
BLOCKS = {
    f"{depth}-{stage}": {"semantic_depth": depth, "stage": stage, "scout_dim": 32, "glance_level": 1}
    for depth in ("relevance", "learned")
    for stage in ("features", "pixels")
}
all_blocks = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)


def make_allocation(policy: str = "lod"):
    generator = torch.Generator().manual_seed(0)
    features, relevance = torch.randn(33, 4, generator=generator), torch.rand(33, generator=generator) + 0.01
    return allocate(features, relevance, GRIDS, BUDGETS, ArrCocConfig(policy=policy))


def depth_model(block: dict):
    return tiny_arrcoc_model("qwen3_vl", arrcoc_config=block, tie_word_embeddings=False)


def undecided_model(block: dict):
    """A model that gives some leaves all layers and others not; a scorer is moved away from its start."""
    model, scores = depth_model(block), []
    if block["semantic_depth"] == "learned":
        perturb(model, 0.5)
        score = model.model.arrcoc.depth.score
        handle = score.register_forward_hook(lambda _, __, output: scores.append(output))
        with torch.no_grad():
            model.encode_images(**random_inputs("qwen3_vl", ROWS, budgets=GIVEN))
            score.bias -= scores[0].median(0).values
        handle.remove()
    return model


@pytest.mark.parametrize("policy", ["lod", "foveated", "topk"])
def test_the_more_relevant_a_leaf_the_more_layers_it_keeps(policy: str) -> None:
    allocation = make_allocation(policy)
    relevance, gates = leaf_relevance(allocation), relevance_gates(allocation, 3)
    for leaf in range(len(allocation.boxes)):
        mean = float(allocation.relevance[allocation.cell_to_leaf == leaf].mean())
        assert float(relevance[leaf]) == pytest.approx(mean, rel=1e-5)
    # Of 7 leaves 3, 2 and 2 in turn, of 9 three each.
    for leaves, depths in ((slice(0, 7), [3, 3, 3, 2, 2, 1, 1]), (slice(7, 16), [3, 3, 3, 2, 2, 2, 1, 1, 1])):
        ranked = relevance[leaves].argsort(descending=True)
        assert gates[leaves].sum(1)[ranked].tolist() == depths
    assert (gates.diff(dim=1) >= 0).all() and (gates[:, 2] == 1).all()


def test_a_single_leaf_keeps_all() -> None:
    assert relevance_gates(uniform_allocation(GRIDS, torch.tensor([1, 1])), 3).tolist() == [[1, 1, 1]] * 2


def make_scorer() -> DepthScorer:
    torch.manual_seed(0)
    scorer = DepthScorer(16, token_dim=8, layers=3)
    with torch.no_grad():
        scorer.score.weight.normal_()
    return scorer


def test_an_untrained_scorer_keeps_all() -> None:
    gates = DepthScorer(16, token_dim=8, layers=3)(torch.randn(16, 8), make_allocation())
    assert torch.equal(gates, torch.ones(16, 3))


def test_learned_gates_are_choices_with_the_gradient_of_their_probability() -> None:
    scorer, allocation, tokens = make_scorer(), make_allocation(), torch.randn(16, 8, requires_grad=True)
    scores = []
    scorer.score.register_forward_hook(lambda _, __, output: scores.append(output))
    gates = scorer(tokens, allocation)
    assert set(gates.unique().tolist()) == {0, 1}
    assert (gates.diff(dim=1) >= 0).all()  # a layer is kept only if all deeper ones are
    assert (gates[:, 2] == 1).all()
    assert set(gates.sum(1).tolist()) == {1, 2, 3}
    weights = torch.randn(16, 3)
    (found,) = torch.autograd.grad((gates * weights).sum(), scores, retain_graph=True)
    likely = scores[0].sigmoid()
    soft = torch.stack([likely[:, 0] * likely[:, 1], likely[:, 0]], 1)
    (expected,) = torch.autograd.grad((soft * weights[:, :2]).sum(), scores)
    torch.testing.assert_close(found, expected)
    gates.sum().backward()
    assert tokens.grad is None
    assert all(parameter.grad.abs().max() > 0 for parameter in scorer.parameters())


def test_rows_that_are_not_kept_are_zero() -> None:
    allocation, scorer = make_allocation(), make_scorer()
    layers = [list(torch.randn(16, 8).split([7, 9])) for _ in range(3)]
    images = ArrCocImageFeatures(
        pooler_output=list(torch.randn(16, 8).split([7, 9])), deepstack_features=layers, allocation=allocation
    )
    gates = scorer(torch.cat(images.pooler_output), allocation).detach()
    gates[7:] = 1  # the second image is at native budget
    found = keep_layers(images, allocation, scorer)
    assert torch.equal(found.allocation.depths, gates.sum(1))
    assert torch.equal(found.allocation.image(1).depths, gates[7:].sum(1))
    assert torch.equal(torch.cat(found.pooler_output), torch.cat(images.pooler_output))
    half = keep_layers(images, allocation, scorer, strength=0.5)
    none = keep_layers(images, allocation, scorer, strength=0.0)
    for layer in range(3):
        rows, gate = torch.cat(layers[layer]), gates[:, layer, None]
        assert torch.equal(torch.cat(found.deepstack_features[layer]), rows * gate)
        torch.testing.assert_close(torch.cat(half.deepstack_features[layer]), rows * (1 + gate) / 2)
        assert torch.equal(torch.cat(none.deepstack_features[layer]), rows)
    assert torch.equal(half.allocation.depths, found.allocation.depths)


@all_blocks
def test_in_a_host(block: dict) -> None:
    """All else is as without depths; what is not kept reaches the language model as zeros, in generation too."""
    model = undecided_model(block)
    plain = depth_model({**block, "semantic_depth": "all"})
    inputs = random_inputs("qwen3_vl", ROWS, budgets=GIVEN)
    with torch.no_grad():
        ours, theirs = model.encode_images(**inputs), plain.encode_images(**inputs)
        outputs = model(**inputs)
    assert theirs.allocation.depths is None
    depths = ours.allocation.depths
    assert torch.equal(outputs.allocation.depths, depths)
    assert depths.shape == (31,) and set(depths.tolist()) == {1, 2}
    assert torch.equal(torch.cat(ours.pooler_output), torch.cat(theirs.pooler_output))
    shallow, deep = (torch.cat(layer) for layer in ours.deepstack_features)
    assert torch.equal(deep, torch.cat(theirs.deepstack_features[1]))
    assert torch.equal(shallow, torch.cat(theirs.deepstack_features[0]) * (depths == 2)[:, None])
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    generated = model.generate(**inputs, **options)
    torch.testing.assert_close(generated.logits[0], outputs.logits[:, -1], rtol=1e-4, atol=1e-4)
    plain_generated = plain.generate(**inputs, **options)
    assert not torch.allclose(generated.logits[0], plain_generated.logits[0], atol=1e-2)


@all_blocks
def test_an_image_at_native_budget_keeps_all(block: dict) -> None:
    model, rows = undecided_model(block), [[(4, 6)], [(3, 5)]]
    plain = depth_model({**block, "semantic_depth": "all"})
    inputs = random_inputs("qwen3_vl", rows, budgets=native_budgets(rows))
    with torch.no_grad():
        found = model(**inputs)
        assert torch.equal(found.logits, plain(**inputs).logits)
    assert (found.allocation.depths == 2).all()


@all_blocks
def test_an_image_has_the_depths_it_has_alone(block: dict) -> None:
    model = undecided_model(block)
    together = [random_inputs("qwen3_vl", [[(8, 6)]], budgets=[15], seed=seed) for seed in range(2)]
    batch = {name: torch.cat([single[name] for single in together]) for name in together[0]}
    with torch.no_grad():
        depths = model(**batch).allocation.depths
        alone = [model(**single).allocation.depths for single in together]
    assert torch.equal(depths, torch.cat(alone))


@pytest.mark.parametrize("stage", ["features", "pixels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_answer_trains_the_scorer(stage: str, dtype: torch.dtype) -> None:
    model = undecided_model(BLOCKS[f"learned-{stage}"]).to(dtype).train()
    inputs = random_inputs("qwen3_vl", ROWS, budgets=GIVEN)
    labels = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)
    outputs = model(**{**inputs, "pixel_values": inputs["pixel_values"].to(dtype)}, labels=labels)
    outputs.loss.backward()
    assert outputs.allocation.depths.requires_grad
    for name, parameter in model.model.arrcoc.depth.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_depth_may_be_brought_in_slowly() -> None:
    model = undecided_model(BLOCKS["learned-features"])
    inputs, plain = random_inputs("qwen3_vl", ROWS, budgets=GIVEN), depth_model({})
    with torch.no_grad():
        full = model(**inputs).logits
        model.model.depth_strength = 0.0
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
        model.model.depth_strength = 1.0
        assert torch.equal(model(**inputs).logits, full)


def test_save_and_load(tmp_path) -> None:
    model = undecided_model(BLOCKS["learned-features"])
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report.values()), report
    assert {parameter.dtype for parameter in loaded.model.arrcoc.parameters()} == {torch.float32}
    inputs = random_inputs("qwen3_vl", ROWS, budgets=GIVEN)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("depth", ["relevance", "learned"])
def test_a_host_without_deepstack_is_refused(depth: str) -> None:
    config = ARRCOC_CONFIGS["qwen2_5_vl"](**tiny_config_dict("qwen2_5_vl"), arrcoc_config={"semantic_depth": depth})
    with pytest.raises(ValueError, match=f"'{depth}', but the host's vision tower has 0 DeepStack layers"):
        ARRCOC_MODELS["qwen2_5_vl"](config)


def test_all_is_the_default() -> None:
    assert ArrCocConfig().semantic_depth == "all"
    whole = uniform_allocation(GRIDS, BUDGETS)
    assert whole.depths is None
