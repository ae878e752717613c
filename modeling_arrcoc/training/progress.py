"""A progress bar that says what a run of ARR-COC is about: loss, tokens an image, images a second."""

import time
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import ProgressCallback


class TrainingProgress(ProgressCallback):
    """The progress bar of [`ArrCocTrainer`], in the place of the one of transformers.

    At each log of the loss it shows the loss, the visual tokens of an image and the images a second of all processes
    since the last one, and logs the two as `speed/tokens_per_image` and `speed/images_per_second`. Of other logs it
    writes out those of evaluation; all reach TensorBoard, W&B and `log_history` as ever.
    """

    trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Called by the trainer that it is added to."""
        self.trainer = trainer
        for callback in [other for other in trainer.callback_handler.callbacks if type(other) is ProgressCallback]:
            trainer.callback_handler.remove_callback(callback)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer is None:
            raise ValueError("the progress bar belongs to no trainer; `attach` names it")
        self.training_bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            unit=" steps",
            dynamic_ncols=True,
            disable=args.disable_tqdm or not state.is_world_process_zero,
        )
        self.current_step = state.global_step
        self._restart()

    def _restart(self) -> None:
        self.images, self.tokens, self.since = 0, 0, time.perf_counter()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count()
        super().on_step_end(args, state, control, **kwargs)

    def _count(self) -> None:
        tokens = self.trainer.last_forward.visual_tokens or []
        self.images += len(tokens)
        self.tokens += sum(map(len, tokens))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if "loss" in logs:
            self._show(args, logs["loss"])
        elif any(name.startswith("eval_") for name in logs):
            super().on_log(args, state, control, logs, **kwargs)

    def _show(self, args: Any, loss: float) -> None:
        seconds = time.perf_counter() - self.since
        counts = torch.tensor([self.images, self.tokens], device=args.device)
        if args.world_size > 1:
            counts = self.trainer.accelerator.reduce(counts, "sum")
        images, tokens = counts.tolist()
        self._restart()
        if not images:
            self.training_bar.set_postfix_str(f"loss {loss:.4g}")
            return
        rate, size = images / seconds, tokens / images
        self.training_bar.set_postfix_str(f"loss {loss:.4g}, {size:.0f} tokens/image, {rate:.3g} images/s")
        self.trainer.log({"speed/tokens_per_image": size, "speed/images_per_second": rate})


__all__ = ["TrainingProgress"]
