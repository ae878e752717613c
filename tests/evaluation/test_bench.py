"""Timing: what is counted, and that every policy is run as it should be."""

import json

import pytest
import torch

from arrcoc.cli.bench import bench as command
from arrcoc.evaluation.random_weights import WIDTHS, random_inputs, random_model
from arrcoc.evaluation.timing import bench, build_cases, count_operations, generate, measure, timed_policies


@pytest.fixture(scope="module")
def model():
    return random_model("tiny", "cpu", torch.float32)


def test_every_policy_is_timed_and_compared_with_native(model):
    policies = timed_policies(model)
    assert {"arrcoc-features", "arrcoc-pixels", "resize", "random", "pooling", "divprune"} <= set(policies)
    assert not {"fastv", "sparsevlm"} & set(policies)
    cases = build_cases(model, (6, 6), [0.25], ["arrcoc-features", "arrcoc-pixels", "resize", "pooling"])
    rows = bench(model, cases, rounds=1, new_tokens=3)
    assert [row["policy"] for row in rows] == ["native", "arrcoc-features", "arrcoc-pixels", "resize", "pooling"]
    assert [row["tokens"] for row in rows] == [36, 9, 9, 9, 9]
    assert rows[0]["speedup"] == rows[0]["operations_ratio"] == rows[0]["kv_ratio"] == 1
    native, features, pixels, resize, pooling = rows
    for row in rows:
        parts = row["tower"] + row["scout"] + row["llm"] + row["allocation"]
        assert parts == pytest.approx(row["first_token"]) and row["tower"] > 0 and row["llm"] > 0
        assert row["decode_tokens_per_second"] > 0
        # Keys and values of the prompt: 4 layers of 2 heads of 64, in 4 bytes.
        assert row["kv_bytes"] == (row["tokens"] + 62) * 2 * 4 * 2 * 64 * 4
    assert resize["operations"] < pixels["operations"] < features["operations"] < native["operations"]
    # Both run the whole tower; ARR-COC also asks, in the language model's first layer.
    assert pooling["operations"] <= features["operations"]


def test_parts_are_those_of_the_first_token_alone(model):
    (case,) = build_cases(model, (6, 6), [], [])
    parts = [measure(model, case, new_tokens) for new_tokens in (2, 30)]
    assert parts[1]["llm"] < 5 * parts[0]["llm"]
    assert parts[0]["kv_bytes"] == parts[1]["kv_bytes"]
    with pytest.raises(ValueError, match="new_tokens=1"):
        measure(model, case, 1)


def test_a_batch_is_the_prompts_of_its_size(model):
    inputs = random_inputs(model.config, (4, 6), 5, batch=3)
    assert inputs["input_ids"].shape == (3, 5 + 2 + 60) and inputs["pixel_values"].shape[0] == 3 * 24 * 4
    assert inputs["image_token_budgets"].tolist() == [5, 5, 5]
    allocation = model.encode_images(**inputs).allocation
    assert allocation.budgets.tolist() == [5, 5, 5] and allocation.grids.tolist() == [[4, 6]] * 3


def test_the_stage_is_put_back(model):
    cases = build_cases(model, (4, 4), [4], ["arrcoc-pixels"])
    stage = model.config.arrcoc_config.stage
    generate(model, cases[1], 1)
    assert model.config.arrcoc_config.stage == stage == "features"


def test_parts_made_for_a_stage_are_timed_in_it_alone():
    block = {"stage": "pixels", "cell_encoder": "scout", "relevance": "learned", "scout_dim": 16, "scout_depth": 1}
    learned = random_model("tiny", "cpu", torch.float32, block)
    assert "arrcoc-features" not in timed_policies(learned)
    cases = build_cases(learned, (4, 4), [4], ["arrcoc-pixels"])
    assert measure(learned, cases[1], 2)["scout"] > 0
    with pytest.raises(ValueError, match="arrcoc-features"):
        build_cases(learned, (4, 4), [4], ["arrcoc-features"])


def test_operations_of_a_product():
    assert count_operations(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 2 * 2 * 3 * 5


def test_operations_of_attention_and_back():
    """Two products forward, five backward."""
    query = torch.ones(1, 2, 7, 64, requires_grad=True)

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(query, query, query)

    product = 2 * 2 * 7 * 7 * 64
    assert count_operations(attend) == 2 * product
    assert count_operations(lambda: attend().sum().backward()) == 7 * product


def test_depth_is_cut_in_proportion():
    model = random_model("tiny", "meta", torch.float32, depth=0.25)
    assert len(model.model.language_model.layers) == 1 and len(model.model.visual.blocks) == 4


def test_budgets_and_widths_out_of_range(model):
    with pytest.raises(ValueError, match="16 native"):
        build_cases(model, (4, 4), [16], ["resize"])
    with pytest.raises(ValueError, match="Qwen3-VL-2B"):
        random_model("Qwen3-VL-9B", "cpu", torch.float32)


def test_published_widths():
    (tower, text, tied) = WIDTHS["Qwen3-VL-8B"]
    with torch.device("meta"):
        model = random_model("Qwen3-VL-8B", "meta", torch.bfloat16)
    layer = sum(p.numel() for p in model.model.language_model.layers[0].parameters())
    width, mlp, heads, kv, head = text[1:]
    assert layer == width * head * (2 * heads + 2 * kv) + 3 * width * mlp + 2 * width + 2 * head
    assert len(model.model.language_model.layers) == text[0] == 36 and not tied
    assert len(model.model.visual.blocks) == tower[0] == 27


def test_command(checkpoint, tmp_path, capsys):
    out = tmp_path / "bench.json"
    options = {"budgets": (4,), "policies": ("resize",), "batch_sizes": (1, 2), "rounds": 1, "new_tokens": 2}
    command(model=str(checkpoint), grid=(4, 4), device="cpu", out=out, **options)
    report = json.loads(out.read_text())
    assert [(row["policy"], row["batch"], row["tokens"]) for row in report["rows"]] == [
        ("native", 1, 16),
        ("resize", 1, 4),
        ("native", 2, 16),
        ("resize", 2, 4),
    ]
    printed = capsys.readouterr().out
    assert "speed-up" in printed and len(printed.splitlines()) == 6
    with pytest.raises(ValueError, match="one of"):
        command()
