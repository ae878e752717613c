"""Phases of training: what learns, how fast, on which losses, and what must hold before the next one starts."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .components import COMPONENTS, host_config, named_components, plain_name
from .data.budgets import BUDGET_SHARES


# LoRA on the attention of the language model alone: peft's own choices also hit the tower and the block.
LORA_TARGETS = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
BLOCK = ("allocator", "compressor", "adapter")
DIRECTIONS = ("at_most", "at_least")


@dataclass(frozen=True)
class Gate:
    """What a phase must have reached.

    Args:
        metric (`str`): of evaluation, without its prefix: `"loss/answer"`, `"exact"`, `"evidence_coverage"`, ...
        threshold (`float`): value to reach; with `relative`, as a multiple of the value before the phase.
        direction (`str`): `"at_most"` or `"at_least"`.
        relative (`bool`): compare with before the phase.
    """

    metric: str
    threshold: float
    direction: str = "at_most"
    relative: bool = False

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"found a gate {self.direction!r}; expected one of {DIRECTIONS}")

    def passes(self, metrics: Mapping[str, float], start: Mapping[str, float]) -> bool:
        """Whether it is reached.

        Args:
            metrics (`Mapping`): of the evaluation after the phase.
            start (`Mapping`): of the one before it.

        Raises:
            KeyError: if the evaluation does not measure it.
        """
        name = f"eval_{self.metric}"
        if name not in metrics:
            raise KeyError(f"evaluation does not measure {self.metric!r}; there are {sorted(metrics)}")
        bound = self.threshold * (start[name] if self.relative else 1)
        value = metrics[name]
        return math.isfinite(value) and (value <= bound if self.direction == "at_most" else value >= bound)


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation of the language model.

    Args:
        r (`int`): rank.
        alpha (`int`): scale, divided by the rank.
        dropout (`float`): of its inputs.
        targets (`str`): regular expression of the layers' full names.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: str = LORA_TARGETS


@dataclass(frozen=True)
class Phase:
    """One phase.

    Args:
        name (`str`): its name, and that of its folder.
        trains (`tuple[str, ...]`): components that learn; all else is frozen.
        steps (`int`): optimizer steps.
        learning_rate (`float`): see [`ArrCocArgumentsMixin`], also for the next five.
        component_learning_rates, component_betas, component_max_grad_norm (`dict`): by component.
        loss_weights (`dict`): numbers or schedules by loss.
        update_cycle (`tuple[tuple[str, ...], ...]`, *optional*): components that learn in turn.
        bridge_vision_blocks (`int`): last vision blocks that count to the bridge.
        llm_layers (`int`, *optional*): where `"llm"` learns, only so many of its last layers; `None` for all of it.
        lora ([`Lora`], *optional*): adapters on the language model, as component `"lora"`.
        budgets, budget_shares (`tuple`, *optional*): token budgets that are drawn in training, tokens or shares of the
            native count, and how often each; `None` leaves them to the rows and the processor.
        rows (`int`, *optional*): train, and evaluate, on so many rows alone: a phase that shows that they can be
            learned.
        keeps (`bool`): whether what it trained is handed on.
        gate ([`Gate`], *optional*): what must hold at its end.

    Raises:
        ValueError: for an unknown component, or LoRA without its component.
    """

    name: str
    trains: tuple[str, ...]
    steps: int
    learning_rate: float = 1e-4
    component_learning_rates: Mapping[str, float] = field(default_factory=dict)
    component_betas: Mapping[str, Sequence[float]] = field(default_factory=dict)
    component_max_grad_norm: Mapping[str, float] = field(default_factory=dict)
    loss_weights: Mapping[str, Any] = field(default_factory=lambda: {"answer": 1.0})
    update_cycle: tuple[tuple[str, ...], ...] | None = None
    bridge_vision_blocks: int = 0
    llm_layers: int | None = None
    lora: Lora | None = None
    budgets: tuple[int | float, ...] | None = None
    budget_shares: tuple[float, ...] = BUDGET_SHARES
    rows: int | None = None
    keeps: bool = True
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.trains) - set(COMPONENTS)):
            raise ValueError(f"phase {self.name!r} trains {unknown}; there are {list(COMPONENTS)}")
        if ("lora" in self.trains) != (self.lora is not None):
            raise ValueError(f"phase {self.name!r} must both train 'lora' and have `lora` options, or neither")

    def arguments(self) -> dict[str, Any]:
        """The training arguments that the phase sets."""
        cycle = self.update_cycle and [list(components) for components in self.update_cycle]
        return {
            "max_steps": self.steps,
            "learning_rate": self.learning_rate,
            "component_learning_rates": dict(self.component_learning_rates),
            "component_betas": {name: list(betas) for name, betas in self.component_betas.items()},
            "component_max_grad_norm": dict(self.component_max_grad_norm),
            "loss_weights": dict(self.loss_weights),
            "update_cycle": cycle,
            "bridge_vision_blocks": self.bridge_vision_blocks,
        }

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "Phase":
        """A phase as a configuration file describes it: one of `PHASES` with changes, or one with a new name.

        Raises:
            ValueError: for an unknown option; it is named.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(options.keys() - known - {"like"}):
            raise ValueError(f"a phase has no {', '.join(map(repr, unknown))}; there are {sorted(known)} and 'like'")
        if "name" not in options:
            raise ValueError(f"found a phase without a name: {dict(options)}")
        like = options.get("like", options["name"])
        if like not in PHASES and ("like" in options or not {"trains", "steps"} <= options.keys()):
            raise ValueError(f"there is no phase {like!r} to change; there are {sorted(PHASES)}")
        changes = {name: value for name, value in options.items() if name != "like"}
        for name, kind in (("lora", Lora), ("gate", Gate)):
            if isinstance(changes.get(name), Mapping):
                start = getattr(PHASES.get(like), name, None)
                values = changes[name] if start is None else dataclasses.asdict(start) | dict(changes[name])
                try:
                    changes[name] = kind(**values)
                except TypeError as error:
                    raise ValueError(f"phase {options['name']!r}: `{name}`: {error}") from None
        for name in ("trains", "budgets", "budget_shares"):
            if changes.get(name) is not None:
                changes[name] = tuple(changes[name])
        if changes.get("update_cycle") is not None:
            changes["update_cycle"] = tuple(tuple(components) for components in changes["update_cycle"])
        return dataclasses.replace(PHASES[like], **changes) if like in PHASES else cls(**changes)


# The cycle of alternating updates: what decides and adapts, the bridge to the language model, and all together.
ALTERNATING = (BLOCK, ("bridge",), BLOCK, (*BLOCK, "bridge", "vision", "llm", "lora"))
# A loss of tokens that is too small is ignored, at 0.1 it collapses budgets.
EFFICIENCY = {"kind": "linear", "start": 0.001, "end": 0.05, "steps": 50_000}
# A small trained part on a frozen host wants ten times the usual rate.
ALONE = 1e-3

PHASES: dict[str, Phase] = {
    phase.name: phase
    for phase in (
        Phase(
            name="phase0",
            trains=("allocator",),
            steps=2_000,
            learning_rate=ALONE,
            loss_weights={"answer": 0.0, "alignment": 1.0},
            gate=Gate("evidence_coverage", 0.5, "at_least"),
        ),
        Phase(
            name="phase0_overfit",
            trains=(*BLOCK, "lora"),
            steps=300,
            learning_rate=ALONE,
            lora=Lora(dropout=0.0),
            rows=10,
            keeps=False,
            gate=Gate("exact", 1.0, "at_least"),
        ),
        Phase(
            name="calibrate",
            trains=("adapter",),
            steps=1_000,
            learning_rate=ALONE,
            loss_weights={"answer": 0.0, "distribution": 1.0},
            gate=Gate("loss/distribution", 1.0, relative=True),
        ),
        Phase(
            name="phase1",
            trains=BLOCK,
            steps=10_000,
            learning_rate=ALONE,
            loss_weights={"answer": 1.0, "alignment": 0.5},
            gate=Gate("loss/answer", 1.0, relative=True),
        ),
        Phase(
            name="phase1_vision",
            trains=(*BLOCK, "bridge"),
            steps=10_000,
            learning_rate=ALONE,
            component_learning_rates={"bridge": 1e-5},
            loss_weights={"answer": 1.0, "alignment": 0.5},
            bridge_vision_blocks=2,
            gate=Gate("loss/answer", 1.0, relative=True),
        ),
        Phase(
            name="phase2",
            trains=(*BLOCK, "bridge"),
            steps=10_000,
            loss_weights={"answer": 1.0, "alignment": 0.25},
            update_cycle=(BLOCK, ("bridge",), BLOCK, (*BLOCK, "bridge")),
            gate=Gate("loss/answer", 1.0, relative=True),
        ),
        Phase(
            name="phase2_language",
            trains=("compressor", "adapter", "bridge", "llm"),
            steps=10_000,
            component_learning_rates={"llm": 1e-5},
            llm_layers=4,
            gate=Gate("loss/answer", 1.0, relative=True),
        ),
        Phase(
            name="phase3",
            trains=(*BLOCK, "bridge", "lora"),
            steps=20_000,
            loss_weights={"answer": 1.0, "alignment": 0.1},
            update_cycle=ALTERNATING,
            lora=Lora(),
            gate=Gate("loss/answer", 1.0, relative=True),
        ),
    )
}


def apply_phase(model: nn.Module, phase: Phase) -> nn.Module:
    """Freeze and unfreeze a model as a phase asks, with LoRA where it has it.

    Args:
        model: a host with ARR-COC, or what an earlier phase made of it. LoRA of an earlier phase is merged into the
            weights unless this one goes on with it.
        phase ([`Phase`]): the phase.

    Returns:
        The model, under peft if the phase has LoRA.

    Raises:
        ValueError: if a component that is to learn has no parameters, or LoRA finds no layer.
    """
    if phase.lora is None and hasattr(model, "peft_config"):
        model = model.merge_and_unload()  # type: ignore[operator]
    elif phase.lora is not None and not hasattr(model, "peft_config"):
        model = _with_lora(model, phase, phase.lora)
    found = set()
    for component, name, parameter in named_components(model, phase.bridge_vision_blocks):
        learns = component in phase.trains and "original_module." not in name
        if learns and component == "llm" and phase.llm_layers is not None:
            learns = _is_last_layer(
                plain_name(name), host_config(model).text_config.num_hidden_layers, phase.llm_layers
            )
        parameter.requires_grad_(learns and parameter.is_floating_point())
        found |= {component} if learns else set()
    optional = set(BLOCK)  # what the block's configuration does not ask to be learned
    if missing := sorted(set(phase.trains) - found - optional) or (not found and sorted(phase.trains)):
        raise ValueError(f"phase {phase.name!r} trains {missing}, of which the model has no parameters")
    return model


def _is_last_layer(name: str, depth: int, last: int) -> bool:
    layer = re.search(r"language_model\.layers\.(\d+)\.", name)
    return layer is not None and int(layer[1]) >= depth - last


def _with_lora(model: nn.Module, phase: Phase, lora: Lora) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    saved = set()
    for component, name, _ in named_components(model, phase.bridge_vision_blocks):
        if component in phase.trains and component in BLOCK:
            saved.add("arrcoc")
        elif component in phase.trains and component in ("bridge", "vision"):
            module = re.search(r"visual\.(?:merger|deepstack_merger_list\.\d+|blocks\.\d+|[a-z_]+)(?=\.)", name)
            saved.add(module[0] if module else name.rpartition(".")[0])
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        modules_to_save=sorted(saved) or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


__all__ = ["PHASES", "Gate", "Lora", "Phase", "apply_phase"]
