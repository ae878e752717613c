"""Inputs that do not fit together are refused with what was found and what was expected."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError

from arrcoc import ArrCocConfig
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import ARRCOC_CONFIGS, tiny_arrcoc_model, tiny_config_dict
from tests.modeling.naive import without


ROWS, BUDGETS = [[(4, 6)], [(3, 5), (1, 7)]], [9, 4, 3]


def run(model, how: str, inputs):
    with torch.no_grad():
        return model(**inputs) if how == "forward" else model.generate(**inputs, max_new_tokens=2)


@pytest.mark.parametrize("how", ["forward", "generate"])
@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([9, 0, 3], r"budgets \[9, 0, 3\].*between 1 and the native counts \[24, 15, 7\]"),
        ([9, -4, 3], r"budgets \[9, -4, 3\]"),
        ([9, 4, 8], r"budgets \[9, 4, 8\].*\[24, 15, 7\]"),
        ([9, 4], "2 token budgets for 3 images"),
        ([9, 4, 3, 3], "4 token budgets for 3 images"),
    ],
    ids=["zero", "negative", "above native", "too few", "too many"],
)
def test_budgets(host, model, how, budgets, message):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with pytest.raises(ValueError, match=message):
        run(model, how, inputs | {"image_token_budgets": torch.tensor(budgets)})


@pytest.mark.parametrize("how", ["forward", "generate"])
def test_placeholders_and_visual_tokens_disagree(host, model, how):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    other = inputs | {"image_token_budgets": torch.tensor([9, 5, 3])}
    with pytest.raises(ValueError, match="16 image placeholders in the prompt for 17 visual tokens"):
        run(model, how, other)
    text = random_inputs(host, [[], []])
    images = without(inputs, "input_ids", "attention_mask", "mm_token_type_ids")
    if how == "forward":
        with pytest.raises(ValueError, match="0 image placeholders in the prompt for 16 visual tokens"):
            run(model, how, text | images)


@pytest.mark.parametrize("how", ["forward", "generate"])
@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("image_information", 45, "`image_information` of 45 cells for images of 46"),
        ("image_query_ids", 2, "2 rows of `image_query_ids` for 3 images"),
    ],
)
def test_maps_of_another_size(host, model, how, name, cut, message):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with pytest.raises(ValueError, match=message):
        run(model, how, inputs | {name: inputs[name][:cut]})


@pytest.mark.parametrize("how", ["forward", "generate"])
def test_what_the_processor_returns_is_needed(host, model, how):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    for missing in ("mm_token_type_ids", "image_grid_thw"):
        with pytest.raises(ValueError, match=missing):
            run(model, how, without(inputs, missing))


def test_images_come_once(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        encoded = model.encode_images(**inputs)
        with pytest.raises(ValueError, match="`pixel_values` and `mm_encoder_outputs`"):
            model(**inputs, mm_encoder_outputs={"image": encoded})


def test_positions_that_cannot_be_known(host, model):
    """A prompt whose start is in a cache needs positions, an embedded one to be told where images are."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with torch.no_grad():
        with pytest.raises(ValueError, match="`mm_token_type_ids`"):
            model(**without(inputs, "input_ids", "mm_token_type_ids"), inputs_embeds=embeds)
        embedded = model(**without(inputs, "input_ids"), inputs_embeds=embeds)
        assert torch.equal(embedded.logits, model(**inputs).logits)
        cache = model(**random_inputs(host, [[], []]), use_cache=True).past_key_values
        inputs["attention_mask"] = torch.nn.functional.pad(
            inputs["attention_mask"], (cache.get_seq_length(), 0), value=1
        )
        with pytest.raises(ValueError, match="`position_ids`"):
            model(**inputs, past_key_values=cache)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"policy": "best"},
            "`policy` is 'best'; allowed are 'lod', 'foveated', 'tiers', 'uniform', 'random'",
        ),
        ({"polcy": "lod"}, r"unknown ARR-COC options \['polcy'\]; there are .*'policy'"),
        ({"stage": "text"}, "`stage` is 'text'; allowed are 'features'"),
        ({"query_scorer": "clip"}, "`query_scorer` is 'clip'; allowed are 'attention', 'cosine', 'none'"),
        ({"tiers": [64, 32]}, r"`tiers` is \[64, 32\]; allowed are positive token counts in ascending order"),
        ({"tiers": []}, r"`tiers` is \[\]"),
        ({"relevance_floor": 0}, r"`relevance_floor` is 0; allowed are numbers in \(0, 1\]"),
        ({"relevance_floor": float("nan")}, "`relevance_floor` is nan"),
        ({"query_weight": -1.0}, "`query_weight` is -1.0; allowed are finite numbers of at least 0"),
        ({"information_weight": float("nan")}, "`information_weight` is nan"),
        ({"max_level": -1}, "`max_level` is -1"),
        ({"region_size": 0}, "`region_size` is 0"),
        ({"seed": -1}, "`seed` is -1"),
    ],
    ids=str,
)
def test_options(block, message):
    with pytest.raises(ValueError, match=message):
        ArrCocConfig(**block)
    for host, config in ARRCOC_CONFIGS.items():
        with pytest.raises(ValueError, match=message):
            config(**tiny_config_dict(host), arrcoc_config=block)


@pytest.mark.parametrize("block", [{"policy": 3}, {"max_level": 1.5}, {"seed": "7"}, {"tiers": "64"}], ids=str)
def test_types_of_options(block):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(block))):
        ArrCocConfig(**block)


def test_a_failed_call_leaves_the_model_as_it_was(host):
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        expected = model(**inputs).logits
        with pytest.raises(ValueError, match="budgets"):
            model(**inputs | {"image_token_budgets": torch.tensor([9, 0, 3])})
        assert torch.equal(model(**inputs).logits, expected)
