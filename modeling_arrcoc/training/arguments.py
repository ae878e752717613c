"""Arguments of training that ARR-COC adds to those of transformers and TRL."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from ..distribution import DISTRIBUTION_LOSSES
from .components import BETAS, COMPONENTS, MAX_GRAD_NORMS, RATE_FACTORS
from .losses import ALIGNMENTS, CONTRASTS
from .schedules import Schedule, parse_schedule


LOSSES = (
    "answer",
    "efficiency",
    "budget",
    "alignment",
    "teacher",
    "distribution",
    "tier_diversity",
    "balance",
    "coherence",
    "reconstruction",
    "contrastive",
)
ANSWER_NORMALIZATIONS = ("token", "sample")
ALIGNMENT_MAPS = ("query", "relevance")

_Arguments: Any = TrainingArguments if TYPE_CHECKING else object


@dataclass
class ArrCocArgumentsMixin(_Arguments):
    r"""
    What [`ArrCocTrainer`] and [`ArrCocSFTTrainer`] know besides the arguments of their base classes.

    Dictionaries by component have keys of `COMPONENTS`: `allocator` (scout, relevance, router), `compressor`,
    `adapter`, `bridge` (mergers and last vision blocks), `vision`, `llm` and `lora`.

    Args:
        learning_rate (`float`, *optional*, defaults to 1e-4):
            Rate of the parts that ARR-COC adds and of LoRA. The bridge is trained at a tenth of it, the rest of the
            tower and the language model's own weights at a hundredth.
        component_learning_rates (`dict[str, float]`, *optional*):
            Rates of single components instead.
        component_betas (`dict[str, list[float]]`, *optional*):
            Coefficients of Adam's running means. Allocator, compressor and adapter default to (0.9, 0.95), the bridge
            to (0.9, 0.98), others to `adam_beta1` and `adam_beta2`.
        component_max_grad_norm (`dict[str, float]`, *optional*):
            Gradient norm that each component is clipped to by itself. The bridge defaults to 0.5, the tower to 0.3,
            others to `max_grad_norm`; `max_grad_norm=0` switches all clipping off.
        bridge_vision_blocks (`int`, *optional*, defaults to 0):
            Last vision blocks that count to the bridge.
        loss_weights (`dict`, *optional*):
            Weight of each loss, a number or a schedule by optimizer step (see [`parse_schedule`]). `answer` defaults
            to 1, others to 0, which leaves them out.
        answer_normalization (`str`, *optional*, defaults to `"token"`):
            What counts the same in the answer loss of an optimizer step, over all processes and accumulated batches:
            every `"token"` of the answers, or every `"sample"`, whatever the length of its answer.
        alignment (`str`, *optional*, defaults to `"bce"`):
            How relevance is aligned with evidence or a teacher: `"bce"`, class-balanced binary cross-entropy; `"kl"`,
            divergence of distributions over an image's cells.
        alignment_map (`str`, *optional*, defaults to `"query"`):
            What is aligned: the map of the `"query"`, or the balanced `"relevance"`.
        efficiency_target (`float`, *optional*, defaults to 0.0):
            Share of the token budget below which fewer tokens bring nothing.
        distribution (`str`, *optional*, defaults to `"moments"`):
            What the distribution loss compares: `"moments"`, `"kl"`, `"mmd"` or `"sliced_wasserstein"`.
        distribution_apart_steps (`int`, *optional*, defaults to 0):
            For this many optimizer steps a batch is judged at one level of detail, which changes from step to step;
            then all levels together.
        host_statistics (`str`, *optional*):
            Folder of `host_statistics.safetensors`, which the distribution loss needs.
        tier_hedging (`float`, *optional*, defaults to 0.1):
            Weight, within the tier-diversity loss, of each image's own indecision between tiers.
        contrastive (`str`, *optional*, defaults to `"cosine"`):
            How images are kept apart: `"cosine"`, their mean tokens may not become alike; `"info_nce"`, an image's
            mean token must be told from others' by the host's own tokens, which costs a pass of the tower without
            gradients.
        update_cycle (`list[list[str]]`, *optional*):
            Components that learn in each optimizer step, in turn; others rest, and their gradients are not computed.
        plateau_steps (`int`, *optional*):
            Optimizer steps without a lower loss after which learning rates are multiplied by `plateau_factor`.
        plateau_factor (`float`, *optional*, defaults to 0.5):
            See `plateau_steps`.
        spike_ratio (`float`, *optional*):
            A logged loss that is this many times the median of the last ones, or not finite, sets weights and
            optimizer back to their last good state. `None` keeps no such state. Checkpoints hold these states too.
        snapshot_steps (`int`, *optional*, defaults to 100):
            Optimizer steps between the states that are kept, in memory, for setting back.
        rollback_rate_factor (`float`, *optional*, defaults to 0.5):
            What learning rates are multiplied by on setting back.
        max_rollbacks (`int`, *optional*, defaults to 3):
            Training stops when it would be set back once more.
        save_only_trained (`bool`, *optional*, defaults to `False`):
            Checkpoints hold the weights that are trained, not the frozen host; they resume as others do.

    Raises:
        ValueError: for an unknown name, or a value outside its range.
    """

    learning_rate: float = 1e-4
    logging_nan_inf_filter: bool = False  # a loss that is not a number must be seen
    remove_unused_columns: bool | None = False  # what the model does not take, the collator does
    ddp_find_unused_parameters: bool | None = True  # not every loss reaches all that learns, nor in every step
    component_learning_rates: dict | None = None
    component_betas: dict | None = None
    component_max_grad_norm: dict | None = None
    bridge_vision_blocks: int = 0
    loss_weights: dict | None = None
    answer_normalization: str = "token"
    alignment: str = "bce"
    alignment_map: str = "query"
    efficiency_target: float = 0.0
    distribution: str = "moments"
    distribution_apart_steps: int = 0
    host_statistics: str | None = None
    tier_hedging: float = 0.1
    contrastive: str = "cosine"
    update_cycle: list | None = None
    plateau_steps: int | None = None
    plateau_factor: float = 0.5
    spike_ratio: float | None = None
    snapshot_steps: int = 100
    rollback_rate_factor: float = 0.5
    max_rollbacks: int = 3
    save_only_trained: bool = False

    def __post_init__(self) -> None:
        for name in ("component_learning_rates", "component_betas", "component_max_grad_norm"):
            _known(name, getattr(self, name) or {}, COMPONENTS)
        for components in self.update_cycle or []:
            _known("update_cycle", components, COMPONENTS)
        _known("loss_weights", self.loss_weights or {}, LOSSES)
        for name, allowed in (
            ("answer_normalization", ANSWER_NORMALIZATIONS),
            ("alignment", ALIGNMENTS),
            ("alignment_map", ALIGNMENT_MAPS),
            ("distribution", tuple(DISTRIBUTION_LOSSES)),
            ("contrastive", CONTRASTS),
        ):
            _known(name, [getattr(self, name)], allowed)
        for name, lowest, highest in (
            ("efficiency_target", 0, 1),
            ("plateau_factor", 0, 1),
            ("rollback_rate_factor", 0, 1),
            ("tier_hedging", 0, float("inf")),
            ("spike_ratio", 1, float("inf")),
            ("plateau_steps", 1, float("inf")),
            ("snapshot_steps", 1, float("inf")),
            ("bridge_vision_blocks", 0, float("inf")),
        ):
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise ValueError(f"`{name}` is {value!r}; allowed are numbers from {lowest} to {highest}")
        self.schedules()
        super().__post_init__()

    def schedules(self) -> dict[str, Schedule]:
        """Weight of each loss that has one, by optimizer step."""
        return {name: parse_schedule(weight) for name, weight in ({"answer": 1.0} | (self.loss_weights or {})).items()}

    def rate(self, component: str) -> float:
        """Learning rate of a component before its schedule."""
        rates = self.component_learning_rates or {}
        return float(rates.get(component, self.learning_rate * RATE_FACTORS[component]))

    def betas(self, component: str) -> tuple[float, float]:
        """Adam's coefficients of a component."""
        default = BETAS.get(component, (self.adam_beta1, self.adam_beta2))
        first, second = (self.component_betas or {}).get(component, default)
        return float(first), float(second)

    def clip(self, component: str) -> float:
        """Gradient norm that a component is clipped to."""
        norms = MAX_GRAD_NORMS | (self.component_max_grad_norm or {})
        norm: Any = norms.get(component, self.max_grad_norm)
        return float(norm)


@dataclass
class ArrCocTrainingArguments(ArrCocArgumentsMixin, TrainingArguments):
    """Arguments of [`ArrCocTrainer`]: those of [`~transformers.TrainingArguments`] and [`ArrCocArgumentsMixin`]."""


def _known(name: str, found: Any, allowed: tuple[str, ...]) -> None:
    if unknown := [key for key in found if key not in allowed]:
        raise ValueError(f"`{name}` has {', '.join(map(repr, unknown))}; allowed are {', '.join(map(repr, allowed))}")


__all__ = ["ArrCocArgumentsMixin", "ArrCocTrainingArguments"]
