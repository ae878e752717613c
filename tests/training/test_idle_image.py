"""Batches without pictures: an idle one, so that every parameter takes part and nothing else changes."""

import torch

from arrcoc.training.components import named_components
from arrcoc.training.data import ArrCocCollator
from arrcoc.training.idle import all_take_part, with_idle_image
from tests.training.conftest import (
    MODEL_INPUTS,
    batch_of,
    losses,
    make_model,
    make_rows,
    make_trainer,
    shared_processor,
)


class TestIdleImage:
    def test_nothing_changes_but_who_takes_part(self, host, stage):
        """Logits of the batch stay as they were, and every parameter gets a gradient."""
        model = make_model(host, stage).train()
        rows = make_rows(host, count=2, text_only=(0, 1))
        batch = batch_of(host, rows)
        inputs = {name: value for name, value in batch.items() if name in MODEL_INPUTS | {"labels"}}
        assert not all_take_part(inputs, model.config)
        idle = with_idle_image(inputs, model.config)
        assert all_take_part(idle, model.config)
        attended = inputs["attention_mask"].bool()
        with torch.no_grad():
            logits = model(**inputs).logits
        output = model(**idle)
        found = output.logits[:2, : attended.shape[1]]
        torch.testing.assert_close(found[attended], logits[attended], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(output.loss, model(**inputs).loss, rtol=1e-4, atol=1e-4)
        output.loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
        visual = [p.grad.abs().max() for c, _, p in named_components(model) if c not in ("llm", "lora")]
        assert max(visual) == 0  # and finite

    def test_beside_native_images(self, host):
        model = make_model(host, "pixels").eval()
        batch = ArrCocCollator(shared_processor(host), token_budget=1.0)(make_rows(host, count=2))
        inputs = {name: value for name, value in batch.items() if name in MODEL_INPUTS | {"labels"}}
        length = inputs["input_ids"].shape[1]
        idle = with_idle_image(inputs, model.config)
        assert idle["image_token_budgets"].tolist() == [16, 20, 4]
        with torch.no_grad():
            logits, expected = model(**idle).logits[:2, :length], model(**inputs).logits
        attended = inputs["attention_mask"].bool()
        torch.testing.assert_close(logits[attended], expected[attended], rtol=1e-2, atol=1e-2)

    def test_without_budgets(self, host):
        """Images of a processor without budgets are native, and stay so."""
        model = make_model(host, "features").eval()
        inputs = {
            name: value
            for name, value in batch_of(host, make_rows(host, count=1)).items()
            if name in ("attention_mask", "labels", "pixel_values", "image_grid_thw")
        }
        tokens = [model.config.image_token_id] * 16
        inputs["input_ids"] = torch.tensor([[model.config.vision_start_token_id, *tokens, 7, 8]])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).long()
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["labels"] = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)
        idle = with_idle_image(inputs, model.config)
        assert idle["image_token_budgets"].tolist() == [16, 4]
        with torch.no_grad():
            assert torch.isfinite(model(**idle).loss)

    def test_text_alone_trains(self, host, stage, tmp_path):
        rows = make_rows(host, count=4, text_only=(0, 1, 2, 3))
        trainer = make_trainer(make_model(host, stage), host, tmp_path, rows, loss_weights={"alignment": 1.0})
        trainer.train()
        assert losses(trainer, "loss/alignment") == [0, 0]
        assert all(0 < loss < 10 for loss in losses(trainer))
        assert trainer.last_forward.allocation is None

    def test_mixed_batches_train(self, host, stage, tmp_path):
        rows = make_rows(host, count=4, text_only=(0, 3))
        trainer = make_trainer(make_model(host, stage), host, tmp_path, rows, loss_weights={"alignment": 1.0})
        trainer.train()
        assert all(0 < loss < 10 for loss in losses(trainer, "loss/answer"))
        assert all(loss > 0 for loss in losses(trainer, "loss/alignment"))
