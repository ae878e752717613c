"""Training with TRL; a module of its own, because TRL is optional (`pip install 'arrcoc[train]'`, Python 3.11)."""

from dataclasses import dataclass
from typing import Any

from trl import SFTConfig, SFTTrainer

from .arguments import ArrCocArgumentsMixin
from .checkpoints import CheckpointMixin
from .data.dataset import RowDataset
from .data.prompts import trl_dataset
from .data.samplers import NO_PACKING
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
        if self.packing or self.eval_packing or self.padding_free:
            raise ValueError(f"`packing`, `eval_packing` and `padding_free` must be off: {NO_PACKING}")
        super().__post_init__()


class ArrCocSFTTrainer(ArrCocTrainerMixin, CheckpointMixin, SFTTrainer):
    """[`~trl.SFTTrainer`] for a host with ARR-COC, with [`ArrCocSFTConfig`].

    Data are a [`RowDataset`] with [`ArrCocCollator`] as `data_collator`, which knows evidence, or tables in TRL's
    prompt-completion format. Evaluation reports TRL's `mean_token_accuracy`; `exact` needs logits, which TRL does not
    compute.
    """

    def __init__(self, *args: Any, train_dataset: Any = None, eval_dataset: Any = None, **kwargs: Any):
        super().__init__(*args, train_dataset=_table(train_dataset), eval_dataset=_table(eval_dataset), **kwargs)
        if isinstance(train_dataset, RowDataset):
            self.train_dataset = train_dataset
        if isinstance(eval_dataset, RowDataset):
            self.eval_dataset = eval_dataset
        # TRL's loss divides by the tokens of a whole step, if it is told them: those of models that take the number.
        self.model_accepts_loss_kwargs = True


def _table(dataset: Any) -> Any:
    """What TRL, which takes nothing but tables, finds out the kind of the data from: their first row."""
    return trl_dataset([dataset[0]]) if isinstance(dataset, RowDataset) else dataset


__all__ = ["ArrCocSFTConfig", "ArrCocSFTTrainer"]
