import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from arrcoc import ArrCocConfig
from tests.helpers.tiny_models import ARRCOC_CONFIGS, STOCK_CONFIGS, tiny_config_dict
from tests.helpers.tiny_processors import HOSTS


nan, inf = float("nan"), float("inf")

# For each option: values out of range, and what the message must say is allowed.
REFUSED: dict[str, tuple[list[Any], str]] = {
    "stage": (["tokens", ""], "'features'"),
    "policy": (["LOD", "quadtree"], "'lod', 'foveated', 'tiers', 'uniform', 'random', 'topk'"),
    "max_level": ([-1], "at least 0"),
    "context_share": ([-0.1, 1.1, nan], r"\[0, 1\]"),
    "fovea_threshold": ([-0.1, 1.1, nan], r"\[0, 1\]"),
    "pair_worth": ([0.5, 1.0, 0.0, nan], r"\(0.5, 1\)"),
    "pair_drawing": (["cut"], "'shrunk', 'window'"),
    "tiers": ([[], [100, 64], [64, 64, 100], [0, 64], [-4, 64]], "positive token counts in ascending order"),
    "region_size": ([0, -32], "at least 1"),
    "position_scale": (["resized"], "'native', 'matched'"),
    "cell_encoder": (["tower"], "'glance'"),
    "glance_level": ([-1], "at least 0"),
    "query_scorer": (["dot"], "'attention', 'cosine', 'none'"),
    "information_weight": ([-0.1, nan, inf], "at least 0"),
    "salience_weight": ([-1, nan, inf], "at least 0"),
    "query_weight": ([-1.0, nan, inf], "at least 0"),
    "relevance_floor": ([0, -0.05, 1.01, nan, inf], r"\(0, 1\]"),
    "relevance_spread": ([-0.1, nan, inf], "at least 0"),
    "relevance": (["trained"], "'free', 'learned'"),
    "budget": (["auto", "free"], "'given', 'learned'"),
    "budget_fade": ([-0.1, 1.1, nan], r"\[0, 1\]"),
    "semantic_depth": (["deep", "3"], "'all', 'relevance', 'learned'"),
    "scout_dim": ([0, -8, 100], "multiples of 8"),
    "scout_depth": ([0], "at least 1"),
    "scorer_context": (["global"], "'local', 'axial'"),
    "relaxation": (["hard"], "'straight_through'"),
    "relaxation_temperature": ([0, -1.0, nan, inf], "positive"),
    "relaxation_fade": ([-0.1, 1.1, nan], r"\[0, 1\]"),
    "compressor": (["max"], "'mean'"),
    "compressor_dim": ([0], "at least 1"),
    "adapter": (["lora"], "'none'"),
    "adapter_blocks": ([0], "at least 1"),
    "adapter_dim": ([0], "at least 1"),
    "seed": ([-1, 2**31], r"\[0, 2\*\*31\)"),
}

CHANGED: dict[str, Any] = {
    "stage": "pixels",
    "policy": "tiers",
    "max_level": 2,
    "context_share": 0.3,
    "fovea_threshold": 0.2,
    "pair_worth": 0.8,
    "pair_drawing": "window",
    "tiers": [4, 9, 16],
    "region_size": 16,
    "position_scale": "matched",
    "query_scorer": "cosine",
    "information_weight": 0.5,
    "salience_weight": 2.0,
    "query_weight": 0,
    "relevance_floor": 0.1,
    "relevance_spread": 1.5,
    "seed": 7,
}


def options() -> set[str]:
    return set(ArrCocConfig.__annotations__) - set(PreTrainedConfig.__annotations__)


def test_every_option_has_a_refused_value_below() -> None:
    assert set(REFUSED) == options()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (values, _) in REFUSED.items() for value in values]
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=REFUSED[name][1]) as error:
        ArrCocConfig(**{name: value})
    assert f"`{name}`" in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_value_of_another_type_is_refused(name: str) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=f"(?s)'{name}'.*expected"):
        ArrCocConfig(**{name: {"a": "dictionary"}})


@pytest.mark.parametrize("value", ["3", 2.5, None, True])
def test_a_level_is_an_integer(value: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match="'max_level' expected int"):
        ArrCocConfig(max_level=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_level", 0),
        ("max_level", 7),
        ("tiers", [1]),
        ("tiers", (2, 3)),
        ("region_size", 1),
        ("information_weight", 0),
        ("query_weight", 3),
        ("relevance_floor", 1),
        ("relevance_floor", 1e-6),
        ("seed", 2**31 - 1),
    ],
)
def test_values_at_the_limits_are_taken(name: str, value: Any) -> None:
    assert getattr(ArrCocConfig(**{name: value}), name) == (list(value) if name == "tiers" else value)


def test_defaults() -> None:
    config = ArrCocConfig()
    assert (config.stage, config.policy, config.max_level) == ("features", "lod", 3)
    assert config.tiers == [64, 100, 160, 256, 400]
    assert config.map_weights == {"information": 1.0, "salience": 0.0, "query": 1.0}
    assert config.relevance_floor == 0.05


def test_a_learned_budget_needs_tiers_to_choose_from() -> None:
    with pytest.raises(ValueError, match="two of them to choose from"):
        ArrCocConfig(budget="learned", tiers=[64])
    assert ArrCocConfig(budget="learned", tiers=[64, 400]).tiers == [64, 400]


def test_an_unknown_option_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ValueError, match=r"\['polcy', 'tokens'\].*'policy'"):
        ArrCocConfig(polcy="lod", tokens=3)
    for host in HOSTS:
        with pytest.raises(ValueError, match=r"\['polcy'\]"):
            ARRCOC_CONFIGS[host](**tiny_config_dict(host), arrcoc_config={"polcy": "lod"})


@pytest.mark.parametrize("config", [ArrCocConfig(), ArrCocConfig(**CHANGED)], ids=["defaults", "changed"])
def test_block_round_trips(config: ArrCocConfig, tmp_path: Path) -> None:
    dictionary = config.to_dict()
    assert options() <= set(dictionary)
    config.save_pretrained(tmp_path)
    for other in (
        ArrCocConfig.from_dict(dictionary),
        ArrCocConfig(**dictionary),
        ArrCocConfig.from_pretrained(tmp_path),
        ArrCocConfig(**json.loads(config.to_json_string(use_diff=False))),
    ):
        assert {name: getattr(other, name) for name in options()} == {
            name: getattr(config, name) for name in options()
        }


@pytest.mark.parametrize("host", HOSTS)
def test_host_configuration_round_trips(host: str, tmp_path: Path) -> None:
    cls = ARRCOC_CONFIGS[host]
    config = cls(**tiny_config_dict(host), arrcoc_config=CHANGED)
    assert isinstance(config.arrcoc_config, ArrCocConfig)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == cls.model_type and saved["arrcoc_config"]["policy"] == "tiers"
    for other in (
        cls.from_dict(config.to_dict()),
        cls.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
    ):
        assert type(other) is cls
        assert {name: getattr(other.arrcoc_config, name) for name in CHANGED} == CHANGED
        assert other.vision_config.to_dict() == config.vision_config.to_dict()
        assert other.text_config.to_dict() == config.text_config.to_dict()


@pytest.mark.parametrize("host", HOSTS)
def test_the_block_may_be_given_as_configuration_or_left_out(host: str) -> None:
    cls = ARRCOC_CONFIGS[host]
    block = ArrCocConfig(policy="uniform")
    assert cls(**tiny_config_dict(host), arrcoc_config=block).arrcoc_config.policy == "uniform"
    default = cls(**tiny_config_dict(host)).arrcoc_config
    assert isinstance(default, ArrCocConfig) and default.policy == "lod"
    # Two configurations share no block.
    assert cls(**tiny_config_dict(host)).arrcoc_config is not default


@pytest.mark.parametrize("host", HOSTS)
def test_a_stock_configuration_is_taken_with_the_default_block(host: str, tmp_path: Path) -> None:
    stock = STOCK_CONFIGS[host](**tiny_config_dict(host))
    stock.save_pretrained(tmp_path)
    config = ARRCOC_CONFIGS[host].from_pretrained(tmp_path)
    assert config.model_type == ARRCOC_CONFIGS[host].model_type
    assert config.arrcoc_config.to_dict() == ArrCocConfig().to_dict()
    assert config.vision_config.to_dict() == stock.vision_config.to_dict()
    assert config.text_config.to_dict() == stock.text_config.to_dict()
    assert config.image_token_id == stock.image_token_id
    changed = ARRCOC_CONFIGS[host].from_pretrained(tmp_path, arrcoc_config={"policy": "topk"})
    assert changed.arrcoc_config.policy == "topk"


@pytest.mark.parametrize("host", HOSTS)
def test_another_architecture_is_refused(host: str, tmp_path: Path) -> None:
    cls = ARRCOC_CONFIGS[host]
    (other,) = set(HOSTS) - {host}
    for name, wrong in (
        ("llama", LlamaConfig()),
        (other, STOCK_CONFIGS[other](**tiny_config_dict(other))),
        (f"arrcoc_{other}", ARRCOC_CONFIGS[other](**tiny_config_dict(other))),
        ("arrcoc", ArrCocConfig()),
    ):
        folder = tmp_path / name
        wrong.save_pretrained(folder)
        with pytest.raises(ValueError, match=f"(?s){cls.__name__}.*'{cls.model_type}' or '{host}'.*'{name}'"):
            cls.from_pretrained(folder)
