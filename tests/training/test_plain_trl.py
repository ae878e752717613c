"""TRL's own `SFTTrainer`, no subclass of it, trains a model with LoRA, and what ARR-COC adds learns along."""

import numpy as np
import pytest


peft = pytest.importorskip("peft")
trl = pytest.importorskip("trl")

from arrcoc.training.components import named_components  # noqa: E402
from arrcoc.training.data import trl_dataset  # noqa: E402
from tests.training.conftest import QUIET, make_model, make_rows, moved, shared_processor, weights  # noqa: E402


# trl and peft ask for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

ATTENTION = r".*language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"


@pytest.mark.parametrize("collator", ["of TRL", "of ours"])
def test_lora_and_the_allocator_learn(host, stage, collator, tmp_path):
    """The block stands among `modules_to_save`; the answer alone moves its allocator, compressor and adapter."""
    from arrcoc.training.data import ArrCocCollator

    processor = shared_processor(host)
    arguments = trl.SFTConfig(
        str(tmp_path),
        **QUIET,
        max_steps=2,
        per_device_train_batch_size=2,
        logging_steps=1,
        learning_rate=1e-2,
        bf16=False,
        max_length=None,
        remove_unused_columns=False,
    )
    trainer = trl.SFTTrainer(
        make_model(host, stage),
        arguments,
        # TRL's own collator where none is given.
        data_collator=without_auxiliary(ArrCocCollator(processor)) if collator == "of ours" else None,
        train_dataset=trl_dataset(make_rows(host)),
        processing_class=processor,
        peft_config=peft.LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["arrcoc"], task_type="CAUSAL_LM"),
    )
    before = weights(trainer.model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    changed = moved(trainer.model, before)
    components = {component for component, name, _ in named_components(trainer.model) if name in changed}
    assert components == {"lora", "allocator", "compressor", "adapter"}
    assert all("lora_" in name or ".arrcoc.modules_to_save." in name for name in changed)


def without_auxiliary(collator):
    """A collator for a trainer that hands the model all it is given."""
    from arrcoc.training.data import AUXILIARY_KEYS

    def collate(rows):
        return {name: value for name, value in collator(rows).items() if name not in AUXILIARY_KEYS}

    return collate
