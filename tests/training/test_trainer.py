"""The trainer on tiny hosts: what learns, how fast, on which losses, and what is reported."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from arrcoc.host_statistics import HostStatistics
from arrcoc.training import ArrCocTrainer
from arrcoc.training.components import component_of, named_components
from arrcoc.training.data import ArrCocBatchSampler, ArrCocCollator, RowDataset
from tests.training.conftest import (
    BUDGET,
    MODEL_INPUTS,
    batch_of,
    losses,
    make_arguments,
    make_model,
    make_rows,
    make_trainer,
    moved,
    shared_processor,
    weights,
)


@torch.no_grad()
def perturbed(model: Any) -> Any:
    """Away from where a block starts: with scores of zero and even balances, leaves are a matter of rounding."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.model.arrcoc.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


class Gradients(TrainerCallback):
    """Gradients at each optimizer step, after clipping."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def test_all_parts_learn(host, stage, tmp_path):
    """A few steps with every loss that needs no more than evidence move all parameters, and all losses are finite."""
    model = make_model(host, stage)
    before = weights(model)
    auxiliary = {"alignment": 1.0, "balance": 0.1, "contrastive": 0.1}
    trainer = make_trainer(model, host, tmp_path, max_steps=3, loss_weights=auxiliary)
    trainer.train()
    assert moved(model, before) == set(before)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        total = sum(entry[f"weighted/{name}"] for name in ("answer", *auxiliary))
        assert entry["loss"] == pytest.approx(total, rel=1e-5)
        for name, weight in ({"answer": 1.0} | auxiliary).items():
            assert entry[f"weighted/{name}"] == pytest.approx(weight * entry[f"loss/{name}"])


@pytest.mark.parametrize(
    ("host", "stage"),
    [
        ("qwen3_vl", "pixels"),
        ("qwen2_5_vl", "features"),
        pytest.param("qwen3_vl", "features", marks=pytest.mark.slow),
        pytest.param("qwen2_5_vl", "pixels", marks=pytest.mark.slow),
    ],
)
def test_rows_are_learned_by_heart(host, stage, tmp_path):
    """The loss of an overfit batch falls to nothing and every answer is exact."""
    model, rows = make_model(host, stage), make_rows(host, count=2)
    options = {"component_learning_rates": {"llm": 6e-3}, "logging_steps": 4, "max_steps": 24}
    trainer = make_trainer(model, host, tmp_path, rows, lr_scheduler_type="constant", **options)
    trainer.train()
    assert losses(trainer)[-1] < 0.1 < losses(trainer)[0]
    assert trainer.evaluate()["eval_exact"] == 1


def test_groups_have_the_rates_that_were_asked_for(tmp_path):
    model = make_model("qwen3_vl")
    trainer = make_trainer(model, "qwen3_vl", tmp_path, component_learning_rates={"adapter": 7e-4}, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(names)
    for group in groups:
        component = group["component"]
        assert group["lr"] == pytest.approx({"adapter": 7e-4}.get(component, trainer.args.rate(component)))
        assert group["betas"] == trainer.args.betas(component)
        for parameter in group["params"]:
            assert component_of(names[parameter], vision_depth=4) == component
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), names[parameter]


def test_components_are_clipped_by_themselves(tmp_path):
    model, seen = make_model("qwen3_vl"), Gradients()
    limits = {"allocator": 0.001, "adapter": 1e9, "bridge": 0.5}
    trainer = make_trainer(model, "qwen3_vl", tmp_path, callbacks=[seen], component_max_grad_norm=limits, max_steps=1)
    trainer.train()
    found: dict[str, list[torch.Tensor]] = {}
    for name, gradient in seen.steps[0].items():
        found.setdefault(component_of(name, vision_depth=4), []).append(gradient.flatten())
    norms = {component: torch.cat(gradients).norm().item() for component, gradients in found.items()}
    expected = {
        component: min(norm, trainer.args.clip(component)) for component, norm in trainer.gradient_norms.items()
    }
    assert norms == pytest.approx(expected, rel=1e-3)
    assert expected["allocator"] == 0.001 < trainer.gradient_norms["allocator"]
    assert expected["adapter"] == trainer.gradient_norms["adapter"]
    assert expected["bridge"] == 0.5
    entry = trainer.state.log_history[0]
    assert entry["grad_norm/bridge"] == trainer.gradient_norms["bridge"]
    assert entry["grad_norm"] == pytest.approx(
        sum(norm**2 for norm in trainer.gradient_norms.values()) ** 0.5, rel=1e-4
    )


# Each loss, the block it needs, and what its gradient must and must not reach.
REACH = {
    "alignment": ({}, {"allocator"}),
    "teacher": ({}, {"allocator"}),
    "balance": ({}, {"allocator"}),
    "efficiency": ({"budget": "learned", "tiers": [2, 4, 6]}, {"allocator"}),
    "budget": ({"budget": "learned", "tiers": [2, 4, 6]}, {"allocator"}),
    "tier_diversity": ({"budget": "learned", "tiers": [2, 4, 6]}, {"allocator"}),
    "coherence": ({"semantic_depth": "learned"}, {"allocator"}),
    "distribution": ({}, {"allocator", "compressor", "adapter", "bridge", "vision"}),
    "reconstruction": ({}, {"allocator", "compressor", "adapter", "bridge", "vision"}),
    "contrastive": ({}, {"allocator", "compressor", "adapter", "bridge", "vision"}),
    "info_nce": ({}, {"allocator", "compressor", "adapter", "bridge", "vision"}),
}


@pytest.mark.parametrize("name", REACH)
def test_each_loss_reaches_its_parameters(name, tmp_path):
    block, expected = REACH[name]
    model = make_model("qwen3_vl", **block)
    processor = shared_processor("qwen3_vl")
    if "budget" in block:
        processor = copy.copy(processor)
        processor.token_budget = "learned"
    rows = make_rows("qwen3_vl", count=3)
    batch = ArrCocCollator(processor)(rows)
    batch |= {"teacher": torch.rand(len(batch["evidence"])), "has_teacher": torch.ones(3, dtype=torch.bool)}
    options = {"loss_weights": {"answer": 0.0, name: 1.0}, "host_statistics": str(tmp_path)}
    if name == "info_nce":
        options |= {"loss_weights": {"answer": 0.0, "contrastive": 1.0}, "contrastive": "info_nce"}
    HostStatistics.measure(model, [batch]).save_pretrained(tmp_path)
    perturbed(model)
    trainer = make_trainer(model, "qwen3_vl", tmp_path, rows, **options)
    trainer.create_optimizer()
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._images = torch.tensor([3, 3, 3])
    trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(10)).backward()
    reached = {
        component
        for component, _, parameter in named_components(model)
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert reached == expected


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_accumulated_batches_are_one_batch(host, stage, answer, tmp_path):
    """Gradients of three small batches are those of one, also where answers and evidence are spread unevenly.

    But for what the answer says about the choice of leaves: straight-through compares the splits of a whole batch.
    """
    found = []
    for size, accumulated in ((3, 1), (1, 3)):
        seen = Gradients()
        rows = make_rows(host, count=3)
        rows[1] = copy.copy(rows[1])
        object.__setattr__(rows[1], "evidence", None)
        object.__setattr__(rows[2], "answers", ("a rather longer answer",))
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 1}
        model, loss_weights = perturbed(make_model(host, stage)), {"answer": answer, "alignment": 1.0}
        trainer = make_trainer(model, host, tmp_path, rows, callbacks=[seen], loss_weights=loss_weights, **options)
        trainer.train()
        found.append((seen.steps[0], losses(trainer), losses(trainer, "loss/alignment")))
    (whole, *whole_losses), (parts, *part_losses) = found
    torch.testing.assert_close(part_losses, whole_losses, rtol=1e-4, atol=1e-5)
    assert parts.keys() == whole.keys()
    allocator = {name for component, name, _ in named_components(model) if component == "allocator"}
    compared = [name for name in whole if not answer or name not in allocator]
    assert compared and any(whole[name].norm() > 1e-3 for name in compared)
    for name in compared:
        assert (parts[name] - whole[name]).norm() <= 0.02 * whole[name].norm() + 1e-4, name


def test_samples_count_the_same_where_asked(tmp_path):
    """A sample's share in the gradient does not depend on the length of its answer."""
    rows = make_rows("qwen3_vl", count=2)
    object.__setattr__(rows[1], "answers", ("many words more than red",))
    batch = batch_of("qwen3_vl", rows)
    model = make_model("qwen3_vl")
    logits = model(
        **{name: value for name, value in batch.items() if torch.is_tensor(value) and name in MODEL_INPUTS}
    ).logits
    own = [
        nn.functional.cross_entropy(logits[row, :-1], batch["labels"][row, 1:], ignore_index=-100) for row in (0, 1)
    ]
    for normalization, expected in (("sample", (own[0] + own[1]) / 2), ("token", None)):
        trainer = make_trainer(model, "qwen3_vl", tmp_path, rows, answer_normalization=normalization)
        items = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
        assert items == (2 if normalization == "sample" else (batch["labels"][:, 1:] != -100).sum())
        found = trainer._answer_loss({"logits": logits}, batch["labels"], items)
        if expected is not None:
            torch.testing.assert_close(found, expected)


def test_what_monitors_see(host, tmp_path):
    class Watching(TrainerCallback):
        def attach(self, trainer):
            self.trainer, self.records = trainer, []

        def on_step_end(self, args, state, control, **kwargs):
            self.records.append(self.trainer.last_forward)

    watching, added = Watching(), Watching()
    trainer = make_trainer(make_model(host), host, tmp_path, callbacks=[watching])
    trainer.add_callback(added)
    trainer.train()
    assert watching.trainer is added.trainer is trainer
    for record, loss in zip(watching.records, losses(trainer), strict=True):
        assert record.loss == pytest.approx(loss)
        assert record.tasks == ["color"] * 2
        assert record.allocation.budgets.tolist() == [BUDGET] * 2
        assert [tokens.shape for tokens in record.visual_tokens] == [(BUDGET, 64)] * 2
        assert not any(tokens.requires_grad for tokens in record.visual_tokens)


def test_evaluation_measures_by_hand(host, tmp_path):
    """`exact` and `evidence_coverage` are what generation and the allocation itself say."""
    model, rows = make_model(host), make_rows(host, count=3)
    options = {
        "per_device_train_batch_size": 3,
        "component_learning_rates": {"llm": 3e-3},
        "per_device_eval_batch_size": 2,
    }
    trainer = make_trainer(model, host, tmp_path, rows, max_steps=12, lr_scheduler_type="constant", **options)
    trainer.train()
    metrics = trainer.evaluate()
    model.eval()
    processor, exact, covered = shared_processor(host), [], []
    for row in rows:
        batch = batch_of(host, [row])
        answer = batch["labels"][0] != -100
        prompt = batch["input_ids"][:, ~answer]
        inputs = {name: batch[name] for name in MODEL_INPUTS} | {
            "input_ids": prompt,
            "attention_mask": torch.ones_like(prompt),
            "mm_token_type_ids": batch["mm_token_type_ids"][:, ~answer],
        }
        wanted = batch["input_ids"][0, answer]
        written = model.generate(**inputs, max_new_tokens=len(wanted), do_sample=False)[0, prompt.shape[1] :]
        exact.append(written.tolist() == wanted.tolist())
        allocation = model(**inputs).allocation
        sizes = allocation.sizes.prod(1)[allocation.cell_to_leaf]
        covered.append((batch["evidence"] * (sizes == 1)).sum() / batch["evidence"].sum())
    assert metrics["eval_exact"] == pytest.approx(sum(exact) / 3)
    assert metrics["eval_evidence_coverage"] == pytest.approx(float(sum(covered)) / 3, abs=1e-5)
    assert metrics["eval_tokens_per_image"] == BUDGET
    assert processor.token_budget == BUDGET


def test_a_batch_sampler_deals_out_the_batches(tmp_path):
    rows = make_rows("qwen3_vl", count=5)
    dataset = RowDataset(rows)
    sampler = ArrCocBatchSampler(dataset, batch_size=2)
    trainer = ArrCocTrainer(
        make_model("qwen3_vl"),
        make_arguments(tmp_path, max_steps=3),
        data_collator=ArrCocCollator(shared_processor("qwen3_vl")),
        train_dataset=dataset,
        train_batch_sampler=sampler,
    )
    seen = [batch["row_ids"] for batch in trainer.get_train_dataloader()]
    assert seen == [[f"row{number}" for number in batch] for batch in sampler]
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize(("host", "only_trained"), [("qwen3_vl", True), ("qwen2_5_vl", False)])
def test_resuming_gives_the_same_losses(host, only_trained, tmp_path):
    """Training that was cut off goes on with the losses that it would have had, bit for bit."""
    found = {}
    options = {
        "loss_weights": {"alignment": {"kind": "linear", "start": 0, "end": 1, "steps": 4}},
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": "constant",
        "update_cycle": [["allocator", "adapter"], ["allocator", "adapter", "compressor"]],
        "save_only_trained": only_trained,
    }
    for name, steps in (("whole", 4), ("cut", 2), ("cut", 4)):
        model = make_model(host)
        for component, _, parameter in named_components(model):
            parameter.requires_grad_(component in ("allocator", "adapter", "compressor"))
        trainer = make_trainer(model, host, tmp_path / name, **options | {"max_steps": steps})
        trainer.train(resume_from_checkpoint="auto")
        found[name] = losses(trainer), weights(model)
    assert found["cut"][0] == found["whole"][0]
    assert moved(model, found["whole"][1]) == set()
    size = (tmp_path / "whole" / "checkpoint-4" / "model.safetensors").stat().st_size
    host_size = sum(p.numel() * 4 for c, _, p in named_components(model) if c in ("vision", "bridge", "llm"))
    assert (size < host_size) == only_trained


def test_optimizers_that_group_by_themselves_are_refused(tmp_path):
    trainer = make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path)
    for parameter in trainer.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        trainer.create_optimizer()


def test_one_loss_that_is_not_a_number_does_not_spoil_the_log(tmp_path):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                trainer._tr_loss += float("nan")

    trainer = make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path, callbacks=[Spoil()], max_steps=3)
    trainer.train()
    first, *later = losses(trainer)
    assert math.isnan(first) and len(later) == 2 and all(map(math.isfinite, later))
