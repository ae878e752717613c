"""`arrcoc eval`: quality, tokens and time of a checkpoint under budgets, with the alternatives in the same run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from arrcoc.configuration_arrcoc import ArrCocConfig
from arrcoc.evaluation.digest import BUDGET_SETTINGS, checkpoint_digest
from arrcoc.evaluation.documents import read_documents, synthetic_task
from arrcoc.evaluation.policies import ARRCOC, Budget, ModelPolicies, conditions
from arrcoc.evaluation.records import open_run
from arrcoc.evaluation.run import FORMAT, Policies, evidence_task, run_tasks, task_settings
from arrcoc.evaluation.summary import plain_table, table_rows, write_summary
from arrcoc.evaluation.tasks import BENCHMARKS, Task, benchmark_task, rows_task
from arrcoc.evaluation.weightless import WeightlessPolicies

from .checkpoints import checkpoint_folder, load_model, load_processor


def evaluate(
    data: Sequence[str],
    out: Path,
    model: str | None = None,
    budgets: Sequence[Budget] = (1.0, 0.5, 0.25, 0.1, 0.05),
    policies: Sequence[str] | None = None,
    n: int | None = None,
    metric: str | None = None,
    instruction: str = "",
    max_new_tokens: int = 64,
    batch_size: int = 1,
    seed: int = 0,
    host: str = "qwen3_vl",
    resamples: int = 10_000,
    as_json: bool = False,
    quiet: bool = False,
    variants: Sequence[tuple[str, Mapping[str, Any]]] = (),
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> None:
    """Answer the questions of some tasks under all policies and budgets, and print a table.

    A run that was cut off is continued by the same command. Started several times by `accelerate launch -m arrcoc_cli
    eval ...` or `torchrun --nproc_per_node 2 -m arrcoc_cli eval ...` (on a CPU the latter, with `--questions` in place
    of `--n`), the processes share the work.

    Args:
        data (`Sequence[str]`): tasks, see `read_task`.
        out (`Path`): folder of the run.
        model (`str`, *optional*): checkpoint folder, wrapped or stock, or its name on the Hub. Without one only the
            coverage of evidence is measured, of policies that need no weights.
        budgets (`Sequence`): shares of the native tokens, numbers of tokens, or `"auto"` and its forms.
        policies (`Sequence[str]`, *optional*): names of policies; all but variants of ARR-COC's block if not given.
        n (`int`, *optional*): questions a task, drawn at random.
        metric (`str`, *optional*): score of rows from files; `anls` if not given.
        instruction (`str`): what follows the question in prompts of rows from files.
        max_new_tokens (`int`): longest answer; what is cut off is counted.
        batch_size (`int`): questions at a time.
        seed (`int`): of the draw of questions and of random policies.
        host (`str`): without a model, whose cells.
        resamples (`int`): of the bootstrap.
        as_json (`bool`): print the summary as one JSON object.
        quiet (`bool`): print nothing.
        variants (`Sequence`): names of the policies `"arrcoc:NAME"`, each with the options of the block that differ
            from the model's, or from those of another checkpoint, which the option `"model"` names.
        min_pixels, max_pixels (`int`, *optional*): least and most pixels that pictures are resized to before they are
            cut into cells; the checkpoint's if not given.

    Raises:
        OSError, ValueError: if data or checkpoint cannot be read, or OUT holds a run with other settings.
    """
    from accelerate import PartialState

    state = PartialState(cpu=not torch.accelerator.is_available())
    tasks = [read_task(text, metric, instruction, seed).subset(n, seed) for text in data]
    settings: dict[str, Any] = {"format": FORMAT, "model": None, "seed": seed, "batch_size": batch_size}
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    limits = {name: pixels for name, pixels in limits.items() if pixels is not None}
    run: Policies
    without: list[int | None] = [None] * len(tasks)
    if model is None:
        if variants:
            raise ValueError(
                f"found variants {[name for name, _ in variants]} of no model; expected --model with them"
            )
        if limits:
            raise ValueError(f"found {limits} for no model's pictures; expected --model with them")
        run = WeightlessPolicies(host, seed)
        found = [evidence_task(task) for task in tasks]
        tasks, without = [task for task, _ in found], [count for _, count in found]
        settings["host"] = host
    else:
        folder = checkpoint_folder(model)
        network = load_model(folder).to(state.device).eval()
        processor = load_processor(folder, **limits)
        processor.tokenizer.padding_side = "left"  # the answer follows the prompt
        others, varied = load_variants(model, variants)
        run = ModelPolicies(
            network,
            processor,
            max_new_tokens,
            seed,
            {name: variant.to(state.device).eval() for name, variant in others.items()},
        )
        settings |= {
            "model": str(folder.resolve()) if Path(model).expanduser().is_dir() else model,
            "weights": checkpoint_digest(folder),
            "block": block_settings(network),
            "dtype": str(network.dtype).removeprefix("torch."),
            "max_new_tokens": max_new_tokens,
            **limits,
        }
        if varied:
            settings["variants"] = varied
        if any(isinstance(budget, str) for budget in budgets):
            settings["auto"] = {name: getattr(processor, name) for name in BUDGET_SETTINGS if name != "token_budget"}
    chosen = default_policies(run) if policies is None else list(policies)
    wanted = conditions(chosen, budgets, run.allowed)
    settings |= {
        "reference": reference(chosen),
        "conditions": [[condition.policy, condition.label] for condition in wanted],
        "tasks": {task.name: task_settings(task, count) for task, count in zip(tasks, without, strict=True)},
    }
    if state.is_main_process:
        open_run(out, settings)
    state.wait_for_everyone()
    run_tasks(tasks, run, wanted, out, settings, batch_size, state.process_index, state.num_processes)
    state.wait_for_everyone()
    if state.is_main_process:
        summary = write_summary(out, resamples)
        if not quiet:
            print(json.dumps(summary, ensure_ascii=False) if as_json else describe(summary, out))


def load_variants(
    model: str, variants: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[dict[str, PreTrainedModel], dict[str, dict[str, Any]]]:
    """Models of variants, and what the header says of each.

    Raises:
        OSError, ValueError: as of `load_model`; also for two variants of one name, or options that do not exist.
    """
    models: dict[str, PreTrainedModel] = {}
    header: dict[str, dict[str, Any]] = {}
    for name, options in variants:
        if name in models:
            raise ValueError(f"found two variants {name!r}; expected different names")
        block = dict(options)
        checkpoint = block.pop("model", model)
        folder = checkpoint_folder(checkpoint)
        models[name] = load_model(folder, **block)
        header[name] = {"block": block}
        if checkpoint != model:
            header[name] |= {"model": checkpoint, "weights": checkpoint_digest(folder)}
    return models, header


def read_task(text: str, metric: str | None = None, instruction: str = "", seed: int = 0) -> Task:
    """A task as it is named on the command line.

    Args:
        text (`str`): a file or folder of rows; `NAME=FOLDER` or `NAME:SPLIT=FOLDER` for a published benchmark; or
            `synthetic` for documents that are made on the spot and that training never shows, with options after a
            colon: `synthetic:1000,size=512,kinds=form+receipt,clear`, see `read_documents`.
        metric, instruction: of rows from files.
        seed (`int`): of the first synthetic document.

    Raises:
        OSError, ValueError: if there is no such benchmark, or its files or rows cannot be read.
    """
    source, _, options = text.partition(":")
    if source == "synthetic":
        return synthetic_task(read_documents(options, seed))
    name, equals, folder = text.partition("=")
    benchmark, _, split = name.partition(":")
    if equals and benchmark in BENCHMARKS:
        task = benchmark_task(benchmark, Path(folder).expanduser(), split or None)
        return replace(task, name=f"{benchmark}-{split}") if split else task
    if equals and not Path(text).exists():
        raise ValueError(f"found {text!r}; expected a file of rows, or one of {', '.join(BENCHMARKS)} and =FOLDER")
    return rows_task(Path(text).expanduser(), metric or "anls", instruction=instruction)


def default_policies(run: Policies) -> list[str]:
    """All policies; of ARR-COC's own with a model only the checkpoint's."""
    weightless = isinstance(run, WeightlessPolicies)
    return [name for name in run.allowed if weightless or not name.startswith(f"{ARRCOC}-")]


def reference(policies: Sequence[str]) -> str:
    """The policy that others are compared with: ARR-COC as configured, or else its first variant."""
    own = [name for name in policies if name.startswith(ARRCOC)]
    return ARRCOC if ARRCOC in own or not own else own[0]


def block_settings(network: Any) -> dict[str, Any]:
    """What the header says about the ARR-COC block: options that are not at their defaults."""
    usual = ArrCocConfig().to_dict()
    found = network.config.arrcoc_config.to_dict()
    return {name: found[name] for name in ArrCocConfig.__annotations__ if found.get(name) != usual.get(name)}


def describe(summary: dict[str, Any], out: Path) -> str:
    """The summary as text."""
    parts = []
    for name, task in summary["tasks"].items():
        heading = f"{name}: {task['conditions'][0]['items']} questions"
        if task["unreadable"]:
            heading += f", {len(task['unreadable'])} rows of the file could not be read"
        if task["without_evidence"]:
            heading += f", {task['without_evidence']} without evidence left out"
        parts.append(f"{heading}\n{plain_table(table_rows(task))}")
    return "\n\n".join([*parts, f"items, header and summary in {out}"])
