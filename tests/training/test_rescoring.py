"""Difficulty that is scored anew: what is measured, what is drawn after it, and the same after an interruption."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from arrcoc.training import ArrCocTrainer
from arrcoc.training.data import (
    ArrCocBatchSampler,
    ArrCocCollator,
    BudgetAugmentation,
    Curriculum,
    RowDataset,
    WeightedOrder,
    combined_weights,
    difficulty_buckets,
    difficulty_scores,
    rescored,
)
from arrcoc.training.losses import answer_loss
from arrcoc.training.rescoring import DifficultyRule
from tests.training.conftest import losses, make_arguments, make_model, make_rows, moved, shared_processor, weights


HOST = "qwen3_vl"


def make_trainer(folder: Path, size: int = 3, **options: Any) -> tuple[ArrCocTrainer, DifficultyRule]:
    dataset = RowDataset(make_rows(HOST, count=6), BudgetAugmentation((4, 12), (1, 1)))
    groups = ["a"] * len(dataset)
    keys = [(group, 0) for group in groups]
    order = WeightedOrder(keys, combined_weights({"a": 1.0}, Curriculum()), epochs=3)
    rule = DifficultyRule(dataset, groups, order, folder, size)
    trainer = ArrCocTrainer(
        make_model(HOST),
        make_arguments(folder, lr_scheduler_type="constant", **options),
        data_collator=ArrCocCollator(shared_processor(HOST)),
        train_dataset=dataset,
        callbacks=[rule],
        train_batch_sampler=ArrCocBatchSampler(dataset, batch_size=2, order=order),
    )
    return trainer, rule


def test_scores_follow_the_losses(tmp_path):
    """All samples are measured, at the budgets of their rows; the order is that of the buckets which follow."""
    trainer, rule = make_trainer(tmp_path, size=6, max_steps=1, learning_rate=0.0)
    trainer.train()
    found, model = [], trainer.model.eval()
    for row in rule.dataset.rows:
        batch = trainer.data_collator([row])
        names = ("evidence", "has_evidence", "suggested_budgets", "task", "row_ids", "labels")
        with torch.no_grad():
            logits = model(**{name: value for name, value in batch.items() if name not in names}).logits
        found.append(float(answer_loss(logits, batch["labels"])))
    expected = rescored(difficulty_scores(rule.dataset.rows), range(6), np.array(found))
    np.testing.assert_allclose(np.load(tmp_path / "difficulty-0.npy"), expected, atol=1e-6)
    sorted_in = {index: key for key, members in rule.order.groups.items() for index in members}
    assert [sorted_in[index] for index in range(6)] == [("a", bucket) for bucket in difficulty_buckets(expected)]
    assert np.argmax(found) == np.argmax(expected)
    assert len(set(sorted_in.values())) > 2
    assert trainer.state.log_history[0]["monitor/difficulty/loss"] > 0


def test_resuming_reads_what_would_have_been_read(tmp_path):
    """Cut off at the end of an epoch and amid one: scores, losses and weights are those of the whole run."""
    found = {}
    for name, steps in (("whole", 8), ("cut", 3), ("cut", 5), ("cut", 8)):
        trainer, rule = make_trainer(tmp_path / name, max_steps=steps, save_strategy="steps", save_steps=1)
        trainer.train(resume_from_checkpoint="auto")
        scores = [np.load(tmp_path / name / f"difficulty-{epoch}.npy") for epoch in range(-(-steps // 3))]
        found[name] = losses(trainer), scores, weights(trainer.model)
    assert found["cut"][0] == found["whole"][0]
    np.testing.assert_array_equal(found["cut"][1], found["whole"][1])
    assert len({scores.tobytes() for scores in found["whole"][1]}) == 3
    assert moved(trainer.model, found["whole"][2]) == set()


def test_scores_of_another_run_are_not_used(tmp_path):
    np.save(tmp_path / "difficulty-0.npy", np.zeros(6))
    np.save(tmp_path / "difficulty-1.npy", np.zeros(6))
    trainer, _ = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    assert np.load(tmp_path / "difficulty-0.npy").any()
    assert not (tmp_path / "difficulty-1.npy").exists()
