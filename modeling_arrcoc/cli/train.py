"""`arrcoc train`: train what ARR-COC adds to a host, phase by phase, from one file."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.utils import logging

from arrcoc.host_statistics import FILE_NAME, HostStatistics
from arrcoc.training.arguments import ArrCocTrainingArguments
from arrcoc.training.components import VISUAL_COMPONENTS
from arrcoc.training.configuration import DataOptions, RunOptions, read_run
from arrcoc.training.data import (
    ArrCocBatchSampler,
    ArrCocCollator,
    BudgetAugmentation,
    Curriculum,
    Row,
    RowDataset,
    WeightedOrder,
    combined_weights,
    difficulty_buckets,
    difficulty_scores,
    measure_lengths,
    read_sources,
    suggested_budget,
    task_group,
)
from arrcoc.training.monitors import make_monitors
from arrcoc.training.phases import Phase
from arrcoc.training.progress import TrainingProgress
from arrcoc.training.rebalancing import MixtureRule
from arrcoc.training.rescoring import DifficultyRule
from arrcoc.training.runs import GateError, PhaseResult, run_phases
from arrcoc.training.teacher import TeacherCache
from arrcoc.training.trainer import ArrCocTrainer

from .checkpoints import checkpoint_folder, load_processor, model_class
from .files import replaced_folder


STATISTICS_IMAGES = 64
HOST_COMPONENTS = {"bridge", "vision", "llm"}
KEPT_IN_PRECISION = ["model.arrcoc", "model.visual", "lm_head"]  # what is not quantized: how names of modules begin


def train(config: Path, overrides: list[str]) -> None:
    """Run the phases of a file, one after another; the same command goes on where a run was cut off.

    Args:
        config (`Path`): YAML file, see [`RunOptions`].
        overrides (`list[str]`): changes of single values, `KEY=VALUE`.

    Raises:
        ImportError: if a library is missing that the file asks for.
        OSError, ValueError: if the file, a checkpoint or the data cannot be read, or a phase does not pass its gate.
    """
    run = read_run(config, overrides)
    model, processor = load(run)
    rows = {"train": load_rows(run.data, run.data.train)}
    rows["eval"] = rows["train"] if run.data.eval is None else load_rows(run.data, run.data.eval)
    rows["eval"] = rows["eval"][: run.data.eval_rows]
    collator = make_collator(run.data, processor)
    statistics = measure_host(run, model, rows["train"], processor)

    def make_trainer(model: nn.Module, phase: Phase, folder: Path) -> Any:
        return build_trainer(run, model, phase, folder, rows, collator, statistics)

    try:
        trained, results = run_phases(model, run.phases, make_trainer, run.out)
    except GateError as error:
        raise ValueError(str(error)) from None
    if PartialState().is_main_process:
        for result in results:
            print(describe(result))
        if trained is None:
            print(f"{results[-1].name} is done; the same command goes on, and at last saves what was learned")
        else:
            for line in export(run, trained, processor):
                print(line)
    PartialState().wait_for_everyone()


def load(run: RunOptions) -> tuple[PreTrainedModel, Any]:
    """The model and the processor of a run."""
    options: dict[str, Any] = {"dtype": run.dtype}
    if run.attention is not None:
        options["attn_implementation"] = run.attention
    if run.quantization == "4bit":
        options["quantization_config"] = four_bits(run)
    folder = checkpoint_folder(run.model)
    hosted = model_class(folder)
    config = hosted.config_class.from_pretrained(folder)
    config.arrcoc_config = dataclasses.replace(config.arrcoc_config, **run.block)
    torch.manual_seed(run.arguments.get("seed", 42))  # of the block, where it is new
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that the block is new is no news
    model, found = hosted.from_pretrained(folder, config=config, output_loading_info=True, **options)
    logging.set_verbosity(verbosity)
    if missing := sorted(name for name in found["missing_keys"] if ".arrcoc." not in f".{name}"):
        raise ValueError(f"the weights in {folder} are incomplete: {len(missing)} are missing, such as {missing[0]}")
    return model, load_processor(folder, **run.processor)


def four_bits(run: RunOptions) -> Any:
    """How the language model is loaded in 4 bits.

    Raises:
        ImportError: if bitsandbytes is not installed.
        ValueError: if a phase trains weights that are quantized.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError("quantization '4bit' needs bitsandbytes: pip install bitsandbytes")
    if full := [phase.name for phase in run.phases if "llm" in phase.trains]:
        raise ValueError(f"phases {full} train the language model's own weights, which quantization '4bit' freezes")
    if run.merge:
        raise ValueError("merge: LoRA cannot be merged into weights of 4 bits; load the adapter onto the checkpoint")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=KEPT_IN_PRECISION,
    )


def load_rows(data: DataOptions, source: Any) -> list[Row]:
    rows = read_sources(source, image_root=data.image_root, columns=data.columns, bad_rows=data.bad_rows)
    if data.row_budgets:
        return list(rows)
    return [dataclasses.replace(row, token_budget=None, suggested_budget=suggested_budget(row)) for row in rows]


def make_collator(data: DataOptions, processor: Any) -> ArrCocCollator:
    teacher = None if data.teacher is None else TeacherCache(data.teacher)
    return ArrCocCollator(processor, token_budget=data.token_budget, max_length=data.max_length, teacher=teacher)


def measure_host(run: RunOptions, model: PreTrainedModel, rows: list[Row], processor: Any) -> str | None:
    """Folder of the host's statistics, measured before anything is trained; `None` if no phase needs them."""
    if "host_statistics" in run.arguments or not any("distribution" in phase.loss_weights for phase in run.phases):
        return run.arguments.get("host_statistics")
    out = Path(run.out)
    with PartialState().main_process_first():
        if not (out / FILE_NAME).exists():
            native = ArrCocCollator(processor)
            some = [dataclasses.replace(row, token_budget=1.0) for row in rows if row.images][:STATISTICS_IMAGES]
            HostStatistics.measure(model, (native([row]) for row in some)).save_pretrained(out)
    return run.out


def build_trainer(
    run: RunOptions,
    model: nn.Module,
    phase: Phase,
    folder: Path,
    rows: dict[str, list[Row]],
    collator: ArrCocCollator,
    statistics: str | None,
) -> Any:
    """The trainer of one phase."""
    own = {"output_dir": str(folder), "host_statistics": statistics}
    options = {**run.arguments, **{name: value for name, value in phase.arguments().items() if value}, **own}
    options["loss_weights"] = phase.loss_weights
    train_rows = rows["train"][: phase.rows]
    eval_rows = train_rows if phase.rows else rows["eval"]
    budgets = None
    if phase.budgets is not None:
        budgets = BudgetAugmentation(phase.budgets, phase.budget_shares, options.get("seed", 42))
    trainer_class, arguments_class = trainer_classes(run.trainer)
    arguments = arguments_class(**options)
    raise_precision(model, arguments)
    dataset = RowDataset(train_rows, budgets)
    sampler, rules = make_sampler(run.data, dataset, arguments, collator.processor)
    return trainer_class(
        model,
        arguments,
        data_collator=collator,
        train_dataset=dataset,
        eval_dataset=RowDataset(eval_rows),
        processing_class=collator.processor,
        callbacks=[*make_monitors(run.monitors), TrainingProgress(), *rules],
        train_batch_sampler=sampler,
    )


def trainer_classes(name: str) -> tuple[Any, Any]:
    """The trainer that a run names and the class of its arguments; TRL is optional."""
    if name == "sft":
        from arrcoc.training.sft import ArrCocSFTConfig, ArrCocSFTTrainer

        return ArrCocSFTTrainer, ArrCocSFTConfig
    return ArrCocTrainer, ArrCocTrainingArguments


def raise_precision(model: nn.Module, arguments: Any) -> None:
    """Make the weights that are trained float32 under mixed precision: small steps would be lost otherwise."""
    if arguments.bf16 or arguments.fp16:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def make_sampler(
    data: DataOptions, dataset: RowDataset, arguments: Any, processor: Any
) -> tuple[ArrCocBatchSampler | None, list[TrainerCallback]]:
    """Batches as the data options ask, `None` to leave them to the trainer; and what changes their order."""
    if data.batching == "plain" and data.mixture is None and not data.curriculum:
        return None, []
    order, rules = None, list[TrainerCallback]()
    if data.mixture is not None or data.curriculum:
        groups = [task_group(row) for row in dataset.rows]
        weights: Any = data.mixture or dict.fromkeys(groups, 1.0)
        curriculum = Curriculum() if data.curriculum else None
        keys: list[Any] = groups
        if curriculum is not None:
            buckets = difficulty_buckets(difficulty_scores(dataset.rows), seed=arguments.seed).tolist()
            keys = list(zip(groups, buckets, strict=True))
        now = weights if curriculum is None else combined_weights(weights, curriculum)
        steps = arguments.max_steps * arguments.gradient_accumulation_steps * arguments.world_size
        epochs = steps * arguments.per_device_train_batch_size / len(dataset)
        order = WeightedOrder(keys, now, epochs=max(epochs, 1), seed=arguments.seed)
        if data.rebalance:
            rules.append(MixtureRule(dataset.rows, order, weights, curriculum))
        if data.curriculum_rows:
            folder, batch = arguments.output_dir, arguments.per_device_eval_batch_size
            rules.append(DifficultyRule(dataset, groups, order, folder, data.curriculum_rows, arguments.seed, batch))
    sampler = ArrCocBatchSampler(
        dataset,
        data.batching,
        batch_size=arguments.per_device_train_batch_size,
        max_tokens=data.max_tokens,
        lengths=None if data.batching == "plain" else measure_lengths(dataset.rows, processor),
        order=order,
        world_size=arguments.world_size,
        seed=arguments.seed,
    )
    return sampler, rules


def describe(result: PhaseResult) -> str:
    """One line on how a phase ended."""
    names = ("eval_loss", "eval_exact", "eval_evidence_coverage", "eval_tokens_per_image")
    found = [f"{name.removeprefix('eval_')} {result.metrics[name]:.4g}" for name in names if name in result.metrics]
    return f"{result.name}: {', '.join(found) or 'done'}"


def export(run: RunOptions, model: Any, processor: Any) -> list[str]:
    """Save what was learned: without the host as `OUT/adapter`, if that is all of it, and merged as `OUT/merged`."""
    out, last, lines = Path(run.out), run.phases[-1], []
    changed = set()
    for phase in run.phases:
        if phase.keeps and not (phase is last and phase.lora is not None):
            changed |= set(phase.trains) & HOST_COMPONENTS
            changed |= {"llm"} if phase.lora is not None else set()
    if last.lora is not None:  # holds copies of what it trained of the tower
        blocks = max(phase.bridge_vision_blocks for phase in run.phases)
        changed -= set(last.trains) & set(VISUAL_COMPONENTS) if last.bridge_vision_blocks >= blocks else set()
    wrapped = hasattr(model, "peft_config")
    host = model.get_base_model() if wrapped else model
    if not changed:
        with replaced_folder(out / "adapter") as folder:
            host.save_arrcoc(folder)
            if wrapped:
                model.save_pretrained(folder)
            processor.save_pretrained(folder)
        lines.append(f"{out / 'adapter'}: {'block and LoRA' if wrapped else 'block'}, without the host")
    if run.merge or changed:
        merged = model.merge_and_unload() if wrapped else model
        with replaced_folder(out / "merged") as folder:
            merged.save_pretrained(folder)
            processor.save_pretrained(folder)
        what = f" ({', '.join(sorted(changed))} of the host changed)" if changed else ""
        lines.append(f"{out / 'merged'}: the whole model{what}")
    return lines
