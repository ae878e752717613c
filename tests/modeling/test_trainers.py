"""Two steps of transformers' Trainer and of TRL's SFTTrainer, without a line changed in either."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.helpers.tiny_processors import CELL_SIZE, tiny_processor
from tests.learned.helpers import perturb


# trl 1.16 and accelerate 1.15 know activation checkpointing by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

QUIET = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
TWO_STEPS = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
BUDGET = 6


def picture(host: str, rows: int, columns: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows * CELL_SIZE[host], columns * CELL_SIZE[host], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def examples(host: str) -> list[dict]:
    """Prompt and completion with one image, two images and none."""
    grids = [[(4, 6)], [(3, 5), (2, 4)], [(5, 5)], [(4, 4)]]
    rows = []
    for index, row in enumerate(grids):
        content = [{"type": "image"} for _ in row] + [{"type": "text", "text": f"What is in picture {index}?"}]
        rows.append(
            {
                "images": [picture(host, *grid, seed=index) for grid in row],
                "prompt": [{"role": "user", "content": content}],
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": f"Noise {index}."}]}],
            }
        )
    return rows


def collator(processor):
    """What a user writes for the plain Trainer: the whole chat as text, labels on all but padding and images."""

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        texts = [processor.apply_chat_template(row["prompt"] + row["completion"]) for row in batch]
        images = [row["images"] for row in batch]
        inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
        ignored = (inputs["attention_mask"] == 0) | (inputs["mm_token_type_ids"] != 0)
        return {**inputs, "labels": inputs["input_ids"].masked_fill(ignored, -100)}

    return collate


@pytest.fixture
def processor(host):
    return tiny_processor(host, token_budget=BUDGET)


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model, before) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def budgets_seen(monkeypatch):
    """The budgets that reached the image encoder, call by call."""
    from arrcoc.modeling_arrcoc import ArrCocModelMixin

    seen, encode = [], ArrCocModelMixin.get_image_features

    def recorded(self, *args, **kwargs):
        budgets = kwargs.get("image_token_budgets")
        seen.append(None if budgets is None else budgets.tolist())
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(ArrCocModelMixin, "get_image_features", recorded)
    return seen


def test_trainer(host, processor, tmp_path, budgets_seen):
    """Training moves every parameter; evaluation and prediction return losses and logits, and no allocation."""
    model, data = tiny_arrcoc_model(host, tie_word_embeddings=False), examples(host)
    before = parameters(model)
    arguments = TrainingArguments(
        str(tmp_path), **QUIET, **TWO_STEPS, remove_unused_columns=False, per_device_eval_batch_size=2
    )
    trainer = Trainer(model, arguments, data_collator=collator(processor), train_dataset=data, eval_dataset=data)
    trainer.train()
    assert len(losses(trainer)) == 2
    assert all(np.isfinite(losses(trainer)))
    assert moved(model, before) == set(before)
    assert budgets_seen
    assert all(budgets is not None and set(budgets) == {BUDGET} for budgets in budgets_seen)

    assert np.isfinite(trainer.evaluate()["eval_loss"])
    prediction = trainer.predict(data)
    longest = prediction.label_ids.shape[1]
    assert isinstance(prediction.predictions, np.ndarray)
    assert prediction.predictions.shape == (4, longest, model.config.text_config.vocab_size)
    batch = collator(processor)(data[:2])
    with torch.no_grad():
        expected = model(**batch)
    columns = batch["input_ids"].shape[1]
    np.testing.assert_allclose(prediction.predictions[:2, :columns], expected.logits.numpy(), rtol=1e-3, atol=1e-3)
    loss, logits, labels = trainer.prediction_step(model, batch, prediction_loss_only=False)
    assert torch.equal(loss, expected.loss)
    assert torch.equal(logits, expected.logits)
    assert torch.equal(labels, batch["labels"])


def test_the_loss_falls(host, processor, tmp_path):
    model, data = tiny_arrcoc_model(host, tie_word_embeddings=False), examples(host)
    arguments = TrainingArguments(
        str(tmp_path), **QUIET, **TWO_STEPS | {"max_steps": 12, "learning_rate": 3e-3}, remove_unused_columns=False
    )
    trainer = Trainer(model, arguments, data_collator=collator(processor), train_dataset=data)
    trainer.train()
    assert np.mean(losses(trainer)[-2:]) < np.mean(losses(trainer)[:2]) - 0.5


@pytest.mark.slow
def test_trainer_resumes_from_a_checkpoint(host, processor, tmp_path):
    """Training that was cut off goes on where it was: the losses are those of uninterrupted training."""
    found = {}
    for name, steps in (("whole", 4), ("cut", 2), ("cut", 4)):
        arguments = TrainingArguments(
            str(tmp_path / name),
            **QUIET | TWO_STEPS | {"max_steps": steps, "save_strategy": "steps", "learning_rate": 1e-3},
            save_steps=2,
            lr_scheduler_type="constant",
            remove_unused_columns=False,
        )
        model = tiny_arrcoc_model(host, tie_word_embeddings=False)
        trainer = Trainer(model, arguments, data_collator=collator(processor), train_dataset=examples(host))
        trainer.train(resume_from_checkpoint=(name, steps) == ("cut", 4))
        found[name] = losses(trainer)
    assert len(found["whole"]) == len(found["cut"]) == 4
    np.testing.assert_allclose(found["cut"], found["whole"], rtol=1e-3)


def sft_trainer(model, processor, data, tmp_path, **options):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    arguments = trl.SFTConfig(str(tmp_path), **QUIET, **TWO_STEPS, **{"max_length": None} | options)
    return trl.SFTTrainer(
        model,
        arguments,
        train_dataset=datasets.Dataset.from_list(data),
        eval_dataset=datasets.Dataset.from_list(data),
        processing_class=processor,
    )


def test_sft_trainer(host, processor, tmp_path, budgets_seen):
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    before = parameters(model)
    trainer = sft_trainer(model, processor, examples(host), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    images = len(batch["image_grid_thw"])
    assert batch["image_token_budgets"].tolist() == [BUDGET] * images
    assert int((batch["input_ids"] == model.config.image_token_id).sum()) == BUDGET * images
    assert not (batch["labels"] == model.config.image_token_id).any()
    answers = [
        processor.tokenizer.decode(row[row != -100], skip_special_tokens=True).strip() for row in batch["labels"]
    ]
    assert all(answer.startswith("Noise") for answer in answers)
    questions = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["image_query_ids"], batch["image_query_mask"], strict=True)
    ]
    assert all(question.startswith("What is in picture") for question in questions)

    trainer.train()
    assert len(losses(trainer)) == 2
    assert all(np.isfinite(losses(trainer)))
    assert moved(model, before) == set(before)
    assert budgets_seen
    assert all(budgets is not None and set(budgets) == {BUDGET} for budgets in budgets_seen)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_sft_trainer_computes_the_models_own_loss(host, processor, tmp_path):
    """TRL scores the base model's hidden states itself; its loss is that of the head's forward pass."""
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    batch = next(iter(sft_trainer(model, processor, examples(host), tmp_path).get_train_dataloader()))
    with torch.no_grad():
        expected = model(**batch).loss
        trainer = sft_trainer(model, processor, examples(host), tmp_path)
        found = trainer.compute_loss(trainer.model, dict(batch))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["features", "pixels"])
def test_sft_trainer_with_learned_budgets(host, tmp_path, stage):
    """TRL scores hidden states of the prompt's length, of which only those of the used placeholders were computed."""
    block = {"stage": stage, "glance_level": 1, "budget": "learned", "tiers": [2, 4, 6], "scout_dim": 32}
    model = perturb(tiny_arrcoc_model(host, arrcoc_config=block, tie_word_embeddings=False))
    processor = tiny_processor(host, token_budget="learned", tiers=(2, 4, 6))
    trainer = sft_trainer(model, processor, examples(host), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["image_budget_is_learned"].all()
    model.model.arrcoc.router.score.bias.data = torch.tensor([0.0, 4.0, 0.0])
    with torch.no_grad():
        outputs = model(**batch)
        assert (outputs.allocation.budgets == 4).all() and (outputs.allocation.placeholders == 6).all()
        expected, found = model(**batch).loss, trainer.compute_loss(trainer.model, dict(batch))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    model.model.arrcoc.router.score.bias.data.zero_()
    before = parameters(model)
    torch.manual_seed(0)
    trainer.train()
    assert all(np.isfinite(losses(trainer)))
    assert moved(model, before) == set(before)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"activation_checkpointing": True}, {"bf16": True}, {"gradient_accumulation_steps": 2}], ids=str
)
def test_sft_trainer_options(host, processor, tmp_path, options):
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    before = parameters(model)
    trainer = sft_trainer(model, processor, examples(host), tmp_path, **options)
    trainer.train()
    assert all(np.isfinite(losses(trainer)))
    assert moved(model, before) == set(before)


@pytest.mark.slow
def test_sft_trainer_with_lora(host, processor, tmp_path):
    peft = pytest.importorskip("peft")
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    trainer = trl.SFTTrainer(
        tiny_arrcoc_model(host, tie_word_embeddings=False),
        trl.SFTConfig(str(tmp_path), **QUIET, **TWO_STEPS, max_length=None),
        train_dataset=datasets.Dataset.from_list(examples(host)),
        processing_class=processor,
        peft_config=peft.LoraConfig(r=4, target_modules=r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"),
    )
    before = parameters(trainer.model)
    trainer.train()
    changed = moved(trainer.model, before)
    assert changed
    assert all("lora_" in name for name in changed)
