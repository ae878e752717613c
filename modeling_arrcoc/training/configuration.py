"""The file that describes a run of training, and changes to it from the command line."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..configuration_arrcoc import ArrCocConfig
from .data.samplers import BATCHINGS, NO_PACKING
from .phases import PHASES, Phase


TRAINERS = ("hf", "sft")
QUANTIZATIONS = ("4bit",)
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Arguments, and names of what a run may do without, where "no" has a meaning, which YAML reads as false.
STRATEGIES = ("eval_strategy", "logging_strategy", "save_strategy")
_NAMES = ("attention", "quantization")
# Arguments that a run sets by itself, or each of its phases.
_OWN_ARGUMENTS = ("output_dir", "max_steps", "num_train_epochs", "learning_rate", "loss_weights")


@dataclass(frozen=True)
class DataOptions:
    """What is trained and evaluated on; each field as of the function or class that it names.

    Args:
        train, eval: sources for [`read_sources`]: files, or published data sets by reader; `eval` defaults to `train`.
        image_root, columns, bad_rows (*optional*): see [`read_rows`].
        eval_rows (`int`, *optional*): evaluate on so many rows at most, from the first.
        token_budget (*optional*): of rows that give none; by default that of the processor.
        row_budgets (`bool`): whether rows that give a budget, as those of `arrcoc synth` do, are shown at it;
            otherwise it only says what they should need, and all are shown at `token_budget`.
        max_length (`int`, *optional*): see [`ArrCocCollator`].
        batching, max_tokens (*optional*): see [`ArrCocBatchSampler`].
        mixture (`dict[str, float]`, *optional*): weight of each task, as of `task_group`.
        rebalance (`bool`): whether tasks get more weight that are unlearned, as the monitor `validation` finds; see
            [`MixtureRule`].
        curriculum (`bool`): start with easy rows, see [`Curriculum`].
        curriculum_rows (`int`): rows whose loss is measured at the beginning of each epoch to score difficulty anew,
            see [`DifficultyRule`]; with 0 it stays as the data say.
        teacher (`str`, *optional*): folder that `arrcoc teach` made.
    """

    train: Any
    eval: Any = None
    image_root: str | None = None
    columns: dict[str, str] | None = None
    bad_rows: str = "skip"
    eval_rows: int | None = None
    token_budget: Any = None
    row_budgets: bool = True
    max_length: int | None = None
    batching: str = "plain"
    max_tokens: int | None = None
    mixture: dict[str, float] | None = None
    rebalance: bool = False
    curriculum: bool = False
    curriculum_rows: int = 0
    teacher: str | None = None


@dataclass(frozen=True)
class RunOptions:
    """A run of training.

    Args:
        model (`str`): checkpoint folder of a host, stock or wrapped, or its name on the Hub.
        out (`str`): folder of the run.
        data ([`DataOptions`]): the data.
        phases (`list[Phase]`): in this order; in a file a name of `PHASES`, or a mapping with `name` and changes.
        block (`dict`): options of `ArrCocConfig` to change.
        processor (`dict`): settings of the processor to change, such as `token_budget`.
        trainer (`str`): `"hf"`, transformers' `Trainer`; or `"sft"`, TRL's `SFTTrainer`.
        arguments (`dict`): of [`ArrCocTrainingArguments`] or [`ArrCocSFTConfig`], for all phases; a phase's own come
            after them.
        monitors (`dict`): see [`make_monitors`].
        dtype (`str`): precision that the model is loaded in; `"auto"` is that of the checkpoint. With `bf16` or `fp16`
            among `arguments`, weights that are trained are float32 all the same.
        attention (`str`, *optional*): attention implementation, such as `"flash_attention_2"`.
        quantization (`str`, *optional*): `"4bit"` loads the host's language model in 4 bits, for LoRA.
        merge (`bool`): also save the model with everything merged into its weights.
    """

    model: str
    out: str
    data: DataOptions
    phases: list[Phase]
    block: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    trainer: str = "hf"
    arguments: dict[str, Any] = field(default_factory=dict)
    monitors: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    attention: str | None = None
    quantization: str | None = None
    merge: bool = False


def read_run(path: str | Path, overrides: Sequence[str] = ()) -> RunOptions:
    """Read a run from a YAML file.

    Args:
        path: the file.
        overrides (`Sequence[str]`): changes such as `data.batching=grouped` or `phases.phase1.steps=200`; the value is
            YAML. A phase is named by its name or its place.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no YAML, or a key is unknown or missing or its value not allowed; the key is named.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}; expected keys such as model, out, data and phases")
    for override in overrides:
        override_value(content, override)
    return parse_run(content)


def parse_run(content: Mapping[str, Any]) -> RunOptions:
    """A run from what stands in its file; raises as `read_run`."""
    _check_keys("", content, RunOptions)
    _check_keys("data.", content["data"], DataOptions)
    phases = content["phases"] if isinstance(content["phases"], list) else [content["phases"]]
    is_absent = {name: value is None or value is False and name in _NAMES for name, value in content.items()}
    options = {name: value for name, value in content.items() if not is_absent[name]}
    for name, allowed in (("trainer", TRAINERS), ("quantization", QUANTIZATIONS), ("dtype", DTYPES)):
        if options.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{name} is {options[name]!r}; allowed are {', '.join(map(repr, allowed))}")
    data = DataOptions(**content["data"])
    if data.batching not in BATCHINGS:
        raise ValueError(
            f"data.batching is {data.batching!r}; allowed are {', '.join(map(repr, BATCHINGS))}"
            + (f"; {NO_PACKING}" if data.batching in ("packed", "packing") else "")
        )
    if data.curriculum_rows and not data.curriculum:
        raise ValueError(f"data.curriculum_rows is {data.curriculum_rows}, which needs data.curriculum=true")
    if data.rebalance and (data.mixture is None or not options.get("monitors", {}).get("validation", False)):
        raise ValueError("data.rebalance needs data.mixture, and `validation` among the monitors")
    if "arguments" in options:
        options["arguments"] = {
            name: "no" if name in STRATEGIES and value is False else value
            for name, value in options["arguments"].items()
        }
    run = RunOptions(**{**options, "data": data, "phases": [_phase(phase) for phase in phases]})
    names = [phase.name for phase in run.phases]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"phases are {names}; expected at least one, with names that differ")
    _known("block.", run.block, set(ArrCocConfig.__annotations__))
    _known("arguments.", run.arguments, set(argument_names(run.trainer)) - set(_OWN_ARGUMENTS))
    return run


def argument_names(trainer: str) -> list[str]:
    """Names of the training arguments of a trainer."""
    if trainer == "sft":
        from .sft import ArrCocSFTConfig as Arguments
    else:
        from .arguments import ArrCocTrainingArguments as Arguments
    return [item.name for item in dataclasses.fields(Arguments) if item.init]


def _phase(description: Any) -> Phase:
    if isinstance(description, str):
        if description not in PHASES:
            raise ValueError(f"phases has {description!r}{_guess(description, PHASES)}")
        return PHASES[description]
    if not isinstance(description, Mapping):
        raise ValueError(f"phases has {description!r}; expected names or mappings")
    return Phase.from_dict(description)


def override_value(content: dict[str, Any], override: str) -> None:
    """Change one value of a nested mapping, by its path: `data.batching=grouped`.

    Raises:
        ValueError: if the override has no `=`, or its path leads through something that holds no keys.
    """
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ValueError(f"found the override {override!r}; expected KEY=VALUE, such as phases.phase1.steps=200")
    *parents, last = path.split(".")
    place: Any = content
    for number, key in enumerate(parents):
        if isinstance(place, dict):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
        elif isinstance(place, list):
            place = _phase_mapping(place, key, path)
        if not isinstance(place, dict | list):
            raise ValueError(f"{path}: {'.'.join(parents[: number + 1])} is {place!r}, which has no keys")
    if isinstance(place, list):
        raise ValueError(f"{path}: {'.'.join(parents)} is a list; expected a key within one of its entries")
    place[last] = _value(text)


def _value(text: str) -> Any:
    """A value as YAML, in which also `1e-4` is a number."""
    try:
        return float(text) if "e" in text.lower() and text[:1] in "+-.0123456789" else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


def _phase_mapping(phases: list[Any], key: str, path: str) -> dict[str, Any]:
    """The mapping of a phase in a list, by its name or place; a phase that is only named becomes one."""
    names = [phase.get("name") if isinstance(phase, dict) else phase for phase in phases]
    if key in names:
        place = names.index(key)
    elif key.isdigit() and int(key) < len(phases):
        place = int(key)
    else:
        raise ValueError(f"{path}: there is no {key!r} among {names}")
    if not isinstance(phases[place], dict):
        phases[place] = {"name": phases[place]}
    return phases[place]


def _check_keys(prefix: str, content: Any, kind: Any) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{prefix.rstrip('.')} is {content!r}; expected keys and values")
    fields = {item.name: item for item in dataclasses.fields(kind)}
    _known(prefix, content, set(fields))
    needed = {
        name
        for name, item in fields.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    }
    if missing := sorted(name for name in needed if content.get(name) is None):
        raise ValueError(f"missing keys: {', '.join(prefix + name for name in missing)}")


def _known(prefix: str, content: Mapping[str, Any], allowed: set[str]) -> None:
    if unknown := sorted(content.keys() - allowed):
        raise ValueError("unknown keys: " + ", ".join(f"{prefix}{name}{_guess(name, allowed)}" for name in unknown))


def _guess(name: str, allowed: Any) -> str:
    close = difflib.get_close_matches(name, list(allowed), 1)
    return f" (did you mean {close[0]!r}?)" if close else f"; there are {', '.join(sorted(allowed))}"


__all__ = ["DataOptions", "RunOptions", "parse_run", "read_run"]
