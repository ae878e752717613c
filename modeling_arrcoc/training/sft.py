"""Training with TRL; a module of its own, because TRL is optional (`pip install 'arrcoc[train]'`, Python 3.11)."""

from dataclasses import dataclass
from typing import Any

from trl import SFTConfig, SFTTrainer

from .arguments import ArrCocArgumentsMixin
from .checkpoints import CheckpointMixin
from .trainer import ArrCocTrainerMixin


@dataclass
class ArrCocSFTConfig(ArrCocArgumentsMixin, SFTConfig):
    """Arguments of [`ArrCocSFTTrainer`]: those of [`~trl.SFTConfig`] and [`ArrCocArgumentsMixin`]."""

    max_length: int | None = None  # placeholders may not be cut off

    def __post_init__(self) -> None:
        if self.answer_normalization != "token":
            raise ValueError(
                f"`answer_normalization` is {self.answer_normalization!r}; TRL's answer loss is a mean over tokens"
            )
        super().__post_init__()


class ArrCocSFTTrainer(ArrCocTrainerMixin, CheckpointMixin, SFTTrainer):
    """[`~trl.SFTTrainer`] for a host with ARR-COC, with [`ArrCocSFTConfig`].

    Data in TRL's prompt-completion format, or [`ArrCocCollator`] as `data_collator`, which knows evidence. Evaluation
    reports TRL's `mean_token_accuracy`; `exact` needs logits, which TRL does not compute.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # TRL's loss divides by the tokens of a whole step, if it is told them: those of models that take the number.
        self.model_accepts_loss_kwargs = True


__all__ = ["ArrCocSFTConfig", "ArrCocSFTTrainer"]
