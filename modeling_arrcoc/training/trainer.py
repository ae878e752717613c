"""Training of a host with ARR-COC: losses, rates and clipping by component, and what monitors need to see."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..modeling_arrcoc import ArrCocModelMixin
from ..outputs import ArrCocModelOutputWithPast
from .checkpoints import CheckpointMixin
from .components import VISUAL_COMPONENTS, named_components
from .data.collator import AUXILIARY_KEYS
from .evaluation import EvaluationMixin
from .idle import all_take_part, with_idle_image
from .losses import answer_loss, count_items
from .objectives import COUNTED, PER_IMAGE, ForwardRecord, Objectives, count_images
from .updates import Attachable, PlateauRule, RollBack, SpikeRule, UpdateCycle, remember


def base_model(model: nn.Module) -> Any:
    """The host's base model inside a model, which may be wrapped by peft, DDP or FSDP.

    Raises:
        ValueError: if there is none with ARR-COC.
    """
    for module in model.modules():
        if isinstance(module, ArrCocModelMixin):
            return module
    raise ValueError(f"found no model with ARR-COC in a {type(model).__name__}; `arrcoc wrap` makes one")


class ArrCocTrainerMixin(EvaluationMixin):
    """Auxiliary losses, parameter groups and logging, for a [`~transformers.Trainer`] to stand before.

    A batch may hold `AUXILIARY_KEYS`, which the model is not given. The base model's output is taken by a hook,
    because TRL's trainer scores hidden states itself and never returns it.

    Args:
        train_batch_sampler (`Sampler[list[int]]`, *optional*): batches of the training data, the same in all
            processes, those of one step side by side: an [`ArrCocBatchSampler`].
        *args, **kwargs: as of the trainer that this one stands before.

    Attributes:
        base ([`ArrCocModelMixin`]): the host's base model.
        last_forward ([`ForwardRecord`], *optional*): the last forward pass.
        gradient_norms (`dict[str, float]`): of each component before clipping, at the last optimizer step.
        rollback ([`RollBack`]): good states of the run; see [`request_rollback`].
    """

    optimizer: Any
    compute_loss_func: Any

    def __init__(self, *args: Any, train_batch_sampler: Sampler[list[int]] | None = None, **kwargs: Any):
        self.train_batch_sampler = train_batch_sampler
        self.rollback = RollBack()
        self.last_forward: ForwardRecord | None = None
        self.gradient_norms: dict[str, float] = {}
        self._learned: dict[str, Tensor] = {}  # losses since the last log
        self._steps = 0  # optimizer steps since the last log
        super().__init__(*args, **kwargs)
        self.base = base_model(self.model)
        self.schedules = self.args.schedules()
        self.objectives = Objectives(self.args, self.base, self.args.device)
        self._check_distribution()
        if self.args.update_cycle:
            self.add_callback(UpdateCycle(self.args.update_cycle))
        if self.args.plateau_steps is not None:
            self.add_callback(PlateauRule(self.args.plateau_steps, self.args.plateau_factor))
        if self.args.spike_ratio is not None:
            self.add_callback(SpikeRule(self.args.spike_ratio, self.args.snapshot_steps))
        self._attach()

    def _check_distribution(self) -> None:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.args.update_cycle and sharded:
            raise ValueError("`update_cycle` changes what requires gradients, which FSDP and DeepSpeed do not allow")
        if self.args.n_gpu > 1:
            raise ValueError(
                f"found {self.args.n_gpu} GPUs for one process; start one process for each with `accelerate launch`, "
                "or choose one with CUDA_VISIBLE_DEVICES"
            )
        if self.objectives.needs_native_tokens and sharded:
            raise ValueError(
                "reconstruction and the contrast 'info_nce' encode images apart from the model's own forward pass, "
                "which FSDP and DeepSpeed do not allow"
            )
        if self.args.spike_ratio is not None and self.is_deepspeed_enabled:
            raise ValueError("`spike_ratio` needs weights and optimizer in this process; DeepSpeed holds its own")

    def get_train_dataloader(self) -> DataLoader:
        """As in transformers, in the batches of `train_batch_sampler` if there is one."""
        if self.train_batch_sampler is None:
            return super().get_train_dataloader()
        arguments = self.args
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.train_batch_sampler,
            collate_fn=self.data_collator,
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory,
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
        )
        even_batches, self.accelerator.even_batches = self.accelerator.even_batches, False  # the sampler sees to it
        prepared = self.accelerator.prepare(loader)
        self.accelerator.even_batches = even_batches
        return prepared

    # Callbacks

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        super().add_callback(callback)
        self._attach()

    def _load_callback_state(self) -> None:
        super()._load_callback_state()  # new ones, with the arguments of then, where that is asked for
        remember(self.callback_handler.callbacks, self.state.stateful_callbacks)
        self._attach()

    def _attach(self) -> None:
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, Attachable):
                callback.attach(self)

    # Parameter groups

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """An optimizer of the kind that the arguments name, over `parameter_groups`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
                self.args, model
            )
            if taken := sorted({"params", "model", "optimizer_dict"} & options.keys()):
                raise ValueError(f"the optimizer {self.args.optim} groups parameters by itself ({', '.join(taken)})")
            self.optimizer = optimizer_class(self.parameter_groups(model), **options)
        return self.optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Trained parameters by component, and within it by whether they decay, with rates and coefficients of Adam.

        Raises:
            ValueError: if nothing is trained.
        """
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
        for component, name, parameter in named_components(model, self.args.bridge_vision_blocks):
            if parameter.requires_grad:
                groups[component, name in decayed].append(parameter)
        if not groups:
            raise ValueError("no parameter requires a gradient")
        return [
            {
                "params": parameters,
                "component": component,
                "lr": self.args.rate(component),
                "betas": self.args.betas(component),
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for (component, decays), parameters in groups.items()
        ]

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As in transformers, without parameters of fewer than two dimensions."""
        vectors = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
        return [name for name in super().get_decay_parameter_names(model) if name not in vectors]

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip the gradient of each component by itself; returns the norm of all before that."""
        if self.is_deepspeed_enabled:  # clips within its own step
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        gradients: dict[str, list[nn.Parameter]] = defaultdict(list)
        for component, _, parameter in named_components(model, self.args.bridge_vision_blocks):
            if parameter.grad is not None:
                gradients[component].append(parameter)
        norms = {component: self._norm(parameters) for component, parameters in gradients.items()}
        for component, parameters in gradients.items():
            nn.utils.clip_grads_with_norm_(parameters, self.args.clip(component), norms[component])
        self.gradient_norms = {component: norm.item() for component, norm in norms.items()}
        return torch.stack(list(norms.values())).norm() if norms else torch.zeros(())

    def _norm(self, parameters: list[nn.Parameter]) -> Tensor:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if hasattr(norm, "full_tensor"):
            return norm.full_tensor()
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and plugin.fsdp_version == 1:  # each process holds a part of every gradient
            return self.accelerator.reduce(norm.square(), "sum").sqrt()
        return norm

    # Losses

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As in transformers; also counts the images of the optimizer step, over all of its batches and processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._images = self._gathered(count_images(batches))
        self._steps += 1
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | int | None:
        if self.args.answer_normalization == "token":
            return super()._get_num_items_in_batch(batch_samples, device)
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        samples = torch.tensor(sum(int(count_items(rows, "sample")) for rows in labels))
        return self._gathered(samples) if self.args.average_tokens_across_devices else samples.to(device)

    def _gathered(self, counts: Tensor) -> Tensor:
        counts = counts.to(self.args.device)
        return self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The weighted sum of all losses.

        Losses of single images are summed over this batch and divided by the number of images in the whole optimizer
        step, over accumulated batches and processes: every image counts the same. Losses of whole batches are averaged
        over them.
        """
        training = model.training
        auxiliary = {name: inputs[name] for name in AUXILIARY_KEYS if name in inputs}
        inputs = {name: value for name, value in inputs.items() if name not in AUXILIARY_KEYS}
        if not training:
            inputs = self._without_repetitions(inputs)
            num_items_in_batch = None  # a mean over this batch, which evaluation weighs by itself
        idle = self._needs_idle_image(inputs, training)
        if idle:
            inputs = with_idle_image(inputs, self.base.config)
        with self._base_output() as captured:
            answer, outputs = self._answer(model, dict(inputs), return_outputs, num_items_in_batch)
        output = captured[0]

        step = self.state.global_step
        weights = {name: schedule(step) for name, schedule in self.schedules.items()}
        batches = self.current_gradient_accumulation_steps if training else 1
        # The answer loss is a part of the step's mean, or a mean that the trainer divides by the number of batches.
        later = batches if training and num_items_in_batch is None else 1
        parts = {"answer": answer / later}
        losses = self.objectives.compute(output, inputs, auxiliary, step, idle)
        images = self._images if training else count_images([{**inputs, **auxiliary}])
        for name, loss in losses.items():
            if name not in PER_IMAGE:
                parts[name] = loss / batches
                continue
            judged = auxiliary.get(PER_IMAGE[name], torch.ones_like(loss, dtype=torch.bool))
            place = COUNTED.index(PER_IMAGE[name])
            processes = self.args.world_size if training else 1
            parts[name] = (
                (loss * judged.to(loss.device)).sum() * processes / images[place].clamp(min=1).to(loss.device)
            )
        total = sum(weights[name] * part for name, part in parts.items() if weights[name] != 0)
        # DDP waits for gradients of all that the model's outputs depend on, whether a loss reaches it or not.
        is_waited_for = training and weights["answer"] == 0 and self.args.world_size > 1
        if is_waited_for or not isinstance(total, Tensor) or not total.requires_grad:
            total = total + 0 * answer
        self.last_forward = self._record(output, inputs, auxiliary, total, idle)
        if training:
            for name, part in parts.items():
                self._learned[name] = self._learned.get(name, 0) + part.detach()
        else:
            logits = getattr(outputs, "logits", None)
            self._measure(answer, losses, output, inputs, auxiliary, logits, idle)
            if idle and logits is not None:
                outputs["logits"] = logits[:-1]
        total = total * later
        return (total, outputs) if return_outputs else total

    def _answer(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Tensor | int | None
    ) -> tuple[Tensor, Any]:
        """The answer loss of the trainer that this one stands before, and the model's outputs where it returns
        them."""
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return result if return_outputs else (result, None)

    def _needs_idle_image(self, inputs: Mapping[str, Any], training: bool) -> bool:
        if "position_ids" in inputs or all_take_part(inputs, self.base.config):
            return False
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # each process waits for the others' parts of weights
            return True
        if not training:
            return False
        components = {group.get("component") for group in self.optimizer.param_groups}
        return bool(components & set(VISUAL_COMPONENTS))

    @contextmanager
    def _base_output(self) -> Iterator[list[ArrCocModelOutputWithPast]]:
        captured: list[ArrCocModelOutputWithPast] = []
        handle = self.base.register_forward_hook(lambda module, args, output: captured.append(output))
        try:
            yield captured
        finally:
            handle.remove()

    # Reports

    def _record(self, output: Any, inputs: Any, auxiliary: Any, loss: Tensor, idle: bool) -> ForwardRecord:
        tokens, allocation = output.image_hidden_states, output.allocation
        images = None
        if tokens is not None:
            merge = self.base.config.vision_config.spatial_merge_size
            grids = inputs["image_grid_thw"]
            counts = grids.prod(1) // merge**2 if allocation is None else allocation.budgets
            images = list(tokens.detach().split(counts.tolist()))[: len(grids) - idle]
        return ForwardRecord(None if idle else allocation, images or None, loss.item(), auxiliary.get("task", []))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in transformers, with each loss by its name: `loss/answer` raw, `weighted/answer` as it is summed;
        and by component its rate, `lr/allocator`, and the norm of its last gradient, `grad_norm/allocator`."""
        if "loss" in logs:
            self._tr_loss.zero_()  # transformers subtracts it from itself, which leaves NaN where it was one
            step = self.state.global_step
            names = sorted(self.schedules)  # the same in all processes
            sums = torch.stack(
                [self._learned.get(name, torch.zeros(())).float().to(self.args.device) for name in names]
            )
            means = self._gathered(sums) / (self.args.world_size * max(self._steps, 1))
            self._learned, self._steps = {}, 0
            weights = {name: self.schedules[name](max(step - 1, 0)) for name in names}
            for name, mean in zip(names, means.tolist(), strict=True):
                logs |= {f"loss/{name}": mean, f"weighted/{name}": mean * weights[name]}
            logs |= {f"grad_norm/{name}": norm for name, norm in self.gradient_norms.items()}
            logs |= {f"lr/{group['component']}": group["lr"] for group in self.optimizer.param_groups}
        super().log(logs, *args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers."""
        self._learned, self._steps, self.rollback = {}, 0, RollBack()
        return super().train(*args, **kwargs)

    # Checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.spike_ratio is not None and (self.args.should_save or self.is_fsdp_enabled):
            self.rollback.save(self._rollback_file(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.args.spike_ratio is not None and self._rollback_file(checkpoint).exists():
            self.rollback = RollBack.load(self._rollback_file(checkpoint))

    def _rollback_file(self, checkpoint: str) -> Path:
        part = self.args.process_index if self.is_fsdp_enabled else 0  # each process keeps its own shards
        return Path(checkpoint, f"rollback_{part}.pt")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.save_only_trained and state_dict is None and not hasattr(self.model, "peft_config"):
            trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
            state_dict = {name: value for name, value in self.model.state_dict().items() if name in trained}
        super()._save(output_dir, state_dict)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if self.args.save_only_trained:
            load_result.missing_keys.clear()  # of the frozen host
        super()._issue_warnings_after_load(load_result)


class ArrCocTrainer(ArrCocTrainerMixin, CheckpointMixin, Trainer):
    """[`~transformers.Trainer`] for a host with ARR-COC, with [`ArrCocTrainingArguments`].

    Batches come from [`ArrCocCollator`], or from any collator whose labels are -100 on prompt, padding and visual
    tokens.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is None:
            self.compute_loss_func = self._answer_loss

    def _answer_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        return answer_loss(outputs["logits"], labels, self.args.answer_normalization, num_items_in_batch)


__all__ = ["ArrCocTrainer", "ArrCocTrainerMixin"]
