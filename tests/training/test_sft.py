"""TRL's trainer with the losses, and plain TRL beside it."""

import ast
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback


pytest.importorskip("trl")

import arrcoc.training  # noqa: E402
from arrcoc.training.components import named_components  # noqa: E402
from arrcoc.training.data import ArrCocCollator, BudgetAugmentation, RowDataset, trl_dataset  # noqa: E402
from arrcoc.training.sft import ArrCocSFTConfig, ArrCocSFTTrainer  # noqa: E402
from tests.training.conftest import (  # noqa: E402
    QUIET,
    losses,
    make_model,
    make_rows,
    make_trainer,
    moved,
    shared_processor,
    weights,
)


# trl and peft ask for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

TWO_STEPS = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "bf16": False}
ATTENTION = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"


def make_sft_trainer(model, host, folder, rows=None, peft_config=None, **options):
    rows = make_rows(host) if rows is None else rows
    data = trl_dataset(rows)
    return ArrCocSFTTrainer(
        model,
        ArrCocSFTConfig(str(folder), **QUIET, **TWO_STEPS | {"learning_rate": 1e-3} | options),
        data_collator=ArrCocCollator(shared_processor(host)),
        train_dataset=data,
        eval_dataset=data,
        processing_class=shared_processor(host),
        peft_config=peft_config,
    )


def test_all_parts_learn(host, stage, tmp_path):
    model = make_model(host, stage)
    before = weights(model)
    trainer = make_sft_trainer(model, host, tmp_path, loss_weights={"alignment": 1.0, "contrastive": 0.1})
    trainer.train()
    assert moved(model, before) == set(before)
    for entry in trainer.state.log_history[:2]:
        total = sum(entry[f"weighted/{name}"] for name in ("answer", "alignment", "contrastive"))
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
        assert entry["loss/alignment"] > 0
    metrics = trainer.evaluate()
    assert metrics["eval_tokens_per_image"] == 6
    assert {"eval_loss/alignment", "eval_evidence_coverage", "eval_mean_token_accuracy"} <= metrics.keys()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_losses_are_those_of_the_other_trainer(accumulated, tmp_path):
    """Both trainers find the same losses in the same batches, also where several make a step."""
    options = {"loss_weights": {"alignment": 1.0}, "gradient_accumulation_steps": accumulated, "max_steps": 1}
    rows = make_rows("qwen3_vl", count=2 * accumulated)
    ours = make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path, rows, **options)
    ours.train()
    theirs = make_sft_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path, rows, **options)
    theirs.train()
    for name in ("loss/alignment", "loss/answer", "loss"):
        assert losses(theirs, name) == pytest.approx(losses(ours, name), rel=1e-4), name


def test_lora_and_the_block(host, tmp_path):
    """With the block among `modules_to_save`, it learns beside LoRA and is saved with it."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["arrcoc"], task_type="CAUSAL_LM")
    trainer = make_sft_trainer(make_model(host), host, tmp_path, peft_config=config, loss_weights={"alignment": 1.0})
    before = weights(trainer.model)
    trainer.train()
    changed = moved(trainer.model, before)
    components = {component for component, name, _ in named_components(trainer.model) if name in changed}
    assert components == {"lora", "allocator", "compressor", "adapter"}
    assert all("lora_" in name or ".arrcoc.modules_to_save." in name for name in changed)
    assert {group["component"] for group in trainer.optimizer.param_groups} == components


def test_a_mean_over_samples_is_refused(tmp_path):
    with pytest.raises(ValueError, match="TRL's answer loss is a mean over tokens"):
        ArrCocSFTConfig(str(tmp_path), **QUIET, answer_normalization="sample")


def test_training_needs_no_trl():
    """TRL is imported by one module, which no other imports at its top."""
    folder = Path(arrcoc.training.__file__).parent
    importing = set()
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            importing |= {path.name for name in names if name.split(".")[0] == "trl" or name == "sft"}
    assert importing == {"sft.py"}


def test_budgets_are_drawn_anew_each_epoch(tmp_path):
    """Rows are read as by the other trainer, not from TRL's table."""

    class Watching(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(trainer.last_forward.allocation.budgets.tolist())

    seen: list[list[int]] = []
    rows = make_rows("qwen3_vl", count=2)
    dataset = RowDataset(rows, BudgetAugmentation((4, 0.5), (1, 1)))
    trainer = ArrCocSFTTrainer(
        make_model("qwen3_vl"),
        ArrCocSFTConfig(str(tmp_path), **QUIET, **TWO_STEPS | {"max_steps": 6}),
        data_collator=ArrCocCollator(shared_processor("qwen3_vl")),
        train_dataset=dataset,
        eval_dataset=RowDataset(rows),
        processing_class=shared_processor("qwen3_vl"),
        callbacks=[Watching()],
        train_batch_sampler=[[0, 1]],
    )
    trainer.train()
    native = (16, 20)

    def drawn(epoch: int) -> list[int | float]:
        assert dataset.budgets is not None
        return dataset.budgets.draw(epoch, [0, 1])

    expected = [
        [budget if budget == 4 else cells // 2 for budget, cells in zip(drawn(epoch), native, strict=True)]
        for epoch in range(6)
    ]
    assert seen == expected and len(set(map(tuple, expected))) > 1
    assert trainer.evaluate()["eval_tokens_per_image"] == 6


def test_text_alone_trains(host, tmp_path):
    rows = make_rows(host, count=4, text_only=(1, 2))
    trainer = make_sft_trainer(make_model(host), host, tmp_path, rows, loss_weights={"alignment": 1.0})
    trainer.train()
    assert all(torch.isfinite(torch.tensor(losses(trainer))))
