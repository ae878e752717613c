"""Looking into a model: what is seen is what it computes, and it computes what it did before."""

import random

import numpy as np
import pytest
import torch

from arrcoc.training.monitors import (
    AttentionScoreMonitor,
    BudgetMonitor,
    FeatureMonitor,
    GradientNormMonitor,
    HostAbilityMonitor,
    NonFiniteMonitor,
    ValidationMonitor,
    VisionMonitor,
)
from arrcoc.training.monitors.observation import attention_rows, host_of, observed_attention, undisturbed
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.training.monitors.conftest import logged, make_rows


# peft and trl 1.16 know activation checkpointing by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

GRIDS = [[(4, 6)], [(3, 5)]]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_observed_attention(host, padding_side):
    """Scores of chosen rows give the attention that the eager model returns; outputs stay bit for bit."""
    model = tiny_arrcoc_model(host)
    inputs = random_inputs(host, GRIDS, [24, 15], padding_side=padding_side)
    inputs["input_ids"] = inputs["input_ids"].clone()
    layers = [layer.self_attn for layer in model.model.language_model.layers]
    rows = torch.tensor([[33, 20], [33, 25]] if padding_side == "left" else [[3, 20], [0, 25]])
    seen, towers = {}, set()

    def observe(module, query, key, mask, scaling):
        if module in layers:
            seen[layers.index(module)] = attention_rows(module, query, key, mask, scaling, rows).softmax(-1)
        else:
            towers.add(module)

    with torch.no_grad():
        before = model(**inputs).logits
        with observed_attention(model, observe):
            during = model(**inputs).logits
        after = model(**inputs).logits
        model.set_attn_implementation({"text_config": "eager"})
        attentions = model(**inputs, output_attentions=True).attentions
    assert torch.equal(before, during) and torch.equal(before, after)
    assert towers == {block.attn for block in model.model.visual.blocks} and sorted(seen) == [0, 1, 2]
    for layer, expected in enumerate(attentions):
        chosen = torch.stack([expected[b, :, rows[b]] for b in range(2)])  # (batch, heads, rows, keys)
        torch.testing.assert_close(seen[layer], chosen, rtol=1e-4, atol=1e-6)


def test_the_implementation_is_set_back_after_an_error(host):
    model = tiny_arrcoc_model(host)
    model.set_attn_implementation({"text_config": "eager"})

    def observe(*arguments):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"), observed_attention(model, observe):
        model(**random_inputs(host, GRIDS, [4, 4]))
    assert model.config.text_config._attn_implementation == "eager"
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_rows_without_a_mask():
    """Causal where the module says so, whole where it does not; heads share keys."""
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    rows = torch.tensor([[0, 3], [4, 1]])
    module = torch.nn.Module()
    whole = attention_rows(module, query, key, None, 0.5, rows)
    for b in range(2):
        for h in range(4):
            for r in range(2):
                expected = 0.5 * query[b, h, rows[b, r]] @ key[b, h // 2].T
                torch.testing.assert_close(whole[b, h, r], expected)
    module.is_causal = True
    causal = attention_rows(module, query, key, None, 0.5, rows)
    assert torch.isfinite(causal).sum((1, 3)).tolist() == [[4, 16], [20, 8]]
    kept = torch.isfinite(causal)
    assert torch.equal(causal[kept], whole[kept])


def test_undisturbed():
    """Random generators of three libraries, modes of modules and gradients are as before, also after an error."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    model[0].eval()

    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = draw()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    with pytest.raises(RuntimeError), undisturbed(model):
        assert not model[1].training and not torch.is_grad_enabled()
        draw()
        raise RuntimeError
    assert draw() == expected
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    assert torch.is_grad_enabled()


def test_host_of_a_peft_model():
    peft = pytest.importorskip("peft")
    model = tiny_arrcoc_model("qwen3_vl")
    assert host_of(model) is model
    assert host_of(peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))) is model


def test_monitors_do_not_change_training(make_trainer):
    """With noise on the choice of leaves and accumulated batches: the losses are those without any monitor."""
    block = {"relevance": "learned", "scout_dim": 16, "relaxation": "gumbel", "adapter": "quality"}
    options = {"arrcoc_config": block, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "logging_steps": 2}
    monitors = [
        AttentionScoreMonitor(every=1),
        BudgetMonitor(every=1),
        FeatureMonitor(every=1),
        GradientNormMonitor(every=1),
        HostAbilityMonitor(make_rows("qwen3_vl", 2), every=1),
        NonFiniteMonitor(every=1),
        ValidationMonitor(every=1),
        VisionMonitor(every=1),
    ]
    watched = make_trainer(*monitors, max_steps=4, **options)
    watched.train()
    alone = make_trainer(max_steps=4, **options)
    alone.train()
    assert logged(watched, "loss") == logged(alone, "loss") and len(logged(alone, "loss")) == 2
    for found, expected in zip(watched.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(found, expected)
    names = {key.split("/")[1] for entry in watched.state.log_history for key in entry if key.startswith("monitor/")}
    assert names == {monitor.name for monitor in monitors}


def test_monitors_of_a_lora_model_and_of_trl(tmp_path):
    """The model that answers is wrapped by peft, and its forward pass is TRL's."""
    datasets, peft = pytest.importorskip("datasets"), pytest.importorskip("peft")
    pytest.importorskip("trl")
    from arrcoc.training.data import ArrCocCollator
    from arrcoc.training.data.prompts import to_trl
    from arrcoc.training.sft import ArrCocSFTConfig, ArrCocSFTTrainer
    from tests.helpers.tiny_processors import tiny_processor

    monitors = [AttentionScoreMonitor(every=1), FeatureMonitor(every=1), VisionMonitor(every=1)]
    processor = tiny_processor("qwen3_vl", token_budget=8)
    arguments = ArrCocSFTConfig(
        str(tmp_path), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, per_device_train_batch_size=2
    )
    rows = datasets.Dataset.from_list([to_trl(row) for row in make_rows("qwen3_vl", 4)])
    trainer = ArrCocSFTTrainer(
        tiny_arrcoc_model("qwen3_vl", arrcoc_config={"adapter": "quality"}),
        arguments,
        data_collator=ArrCocCollator(processor),
        train_dataset=rows,
        processing_class=processor,
        peft_config=peft.LoraConfig(target_modules=r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"),
        callbacks=monitors,
    )
    trainer.train()
    assert all(monitor.alarms == [] for monitor in monitors)
    assert len(logged(trainer, "monitor/features/cosine/tower")) == 2
    assert len(logged(trainer, "monitor/attention/max/language")) == 2
    assert logged(trainer, "monitor/vision/same/white")[0] < 1
