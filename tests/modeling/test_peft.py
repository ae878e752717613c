"""LoRA on the language model: train, save, load through both libraries, merge."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model


peft = pytest.importorskip("peft")

# peft 0.21 asks for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

TARGETS = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
ROWS, BUDGETS = [[(4, 6)], [(3, 5), (1, 7)]], [9, 4, 3]


def logits(model, inputs):
    model.eval()
    with torch.no_grad():
        return model(**inputs).logits


def labelled(host: str) -> dict[str, torch.Tensor]:
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    text = (inputs["mm_token_type_ids"] == 0) & inputs["attention_mask"].bool()
    return inputs | {"labels": inputs["input_ids"].masked_fill(~text, -100)}


def train(model, inputs, steps: int = 2) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def folder(host, tmp_path):
    """The folder of a base checkpoint."""
    tiny_arrcoc_model(host, tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def trained(host, folder):
    """A LoRA model after two steps of training, and its inputs."""
    base = AutoModelForImageTextToText.from_pretrained(folder)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    model, inputs = peft.get_peft_model(base, config), labelled(host)
    losses = train(model, inputs)
    assert losses[1] < losses[0]
    return model, inputs


def test_only_the_language_models_attention_is_adapted(host, trained):
    model, _ = trained
    layers = model.config.text_config.num_hidden_layers
    adapted = [name for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.Linear)]
    assert len(adapted) == 4 * layers
    assert all(".language_model.layers." in name and ".self_attn." in name for name in adapted)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 2 * len(adapted)
    for name in trainable:  # both factors moved: the second starts at zero, the first moves from the second step on
        assert model.get_parameter(name).count_nonzero() > 0, name


def test_save_and_load(host, trained, folder, tmp_path):
    model, inputs = trained
    expected = logits(model, inputs)
    base = AutoModelForImageTextToText.from_pretrained(folder)
    assert not torch.allclose(expected, logits(base, inputs), atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    onto_base = peft.PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(folder), tmp_path / "adapter"
    )
    assert torch.equal(logits(onto_base, inputs), expected)
    # The adapter's configuration names its base checkpoint.
    by_folder = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(by_folder, inputs), expected)
    generated = {
        tuple(loaded.generate(**without_labels(inputs), max_new_tokens=4, do_sample=False).flatten().tolist())
        for loaded in (model, onto_base, by_folder)
    }
    assert len(generated) == 1


def without_labels(inputs):
    return {name: value for name, value in inputs.items() if name != "labels"}


def test_merge(host, trained, tmp_path):
    """The merged model is a plain ARR-COC model with the adapted weights, in memory and on disk."""
    model, inputs = trained
    expected = logits(model, inputs)
    merged = model.merge_and_unload()
    assert not [name for name in merged.state_dict() if "lora" in name]
    torch.testing.assert_close(logits(merged, inputs), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert type(loaded) is type(tiny_arrcoc_model(host))
    assert torch.equal(logits(loaded, inputs), logits(merged, inputs))


def test_the_adapter_can_be_switched_off(host, trained, folder):
    model, inputs = trained
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), logits(AutoModelForImageTextToText.from_pretrained(folder), inputs))


def test_adapters_of_transformers_itself(host, folder, tmp_path):
    """`add_adapter` without a PeftModel around it, saved and loaded as an adapter folder."""
    model, inputs = AutoModelForImageTextToText.from_pretrained(folder), labelled(host)
    model.add_adapter(peft.LoraConfig(r=4, target_modules=TARGETS))
    train(model, inputs)
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert not torch.allclose(logits(loaded, inputs), expected, atol=1e-3)
    loaded.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded, inputs), expected)


def test_question_scores_follow_the_trained_projections(host, trained):
    """The query map is computed by adapted layers too: the base model must not be reached around the adapter."""
    model, inputs = trained
    model.eval()
    with torch.no_grad():
        adapted = model(**inputs).allocation.maps["query"]
        with model.disable_adapter():
            plain = model(**inputs).allocation.maps["query"]
    assert not torch.equal(adapted, plain)
