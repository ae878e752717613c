"""Monitors of what the model answers: whether it looks at the image, and what it unlearns."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from arrcoc.processing import TIERS, snap_to_tier

from ..losses import rows_of_images
from .probes import ProbeMonitor


BLANKS = ("noise", "white", "black")


def blank_pixels(pixel_values: Tensor, kind: str, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels of images that show nothing, as the image processor would put them out.

    Args:
        pixel_values (`Tensor` of shape `(patches, channels * frames * patch_size**2)`): of images to replace.
        kind (`str`): `"white"`, `"black"`, or `"noise"`: independent uniform values, the same at each call.
        mean, std (`Sequence[float]`): of each channel, that the image processor normalises with.

    Returns:
        `Tensor` of the same shape.
    """
    channels = len(mean)
    shown = torch.zeros(len(pixel_values), channels, pixel_values.shape[1] // channels)  # in [0, 1]
    if kind == "noise":
        shown = torch.rand(shown.shape, generator=torch.Generator().manual_seed(0))
    elif kind == "white":
        shown = torch.ones_like(shown)
    scaled = (shown - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]  # (patches, channels, frames * pixels)
    return scaled.flatten(1).to(pixel_values)


class VisionMonitor(ProbeMonitor):
    """Whether the model looks: a picture of noise, a white and a black one must not get the answers of the real one.

    Compared is the most likely token at each place of the given answer. Logged besides: by how much the answer's loss
    rises without the real picture, which is what looking at it is worth.

    Args:
        samples, size, batch_size, action, every: as of [`ProbeMonitor`]; rows without images are passed over.
        most_same (`float`): share of rows from which on the same answers are too many.
        patience (`int`): optimizer steps before it is judged; for a model that is trained from nothing, which cannot
            look yet.
    """

    name = "vision"

    def __init__(self, samples: Any = None, most_same: float = 0.9, patience: int = 0, **options: Any):
        super().__init__(samples, **options)
        self.most_same, self.patience = most_same, patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.trainer.processing_class is None:
            raise ValueError(f"the monitor {self.name!r} needs the trainer's `processing_class`, the processor")

    def look(self) -> None:
        images = self.trainer.processing_class.image_processor
        same: dict[str, list[Tensor]] = defaultdict(list)
        rise: dict[str, list[Tensor]] = defaultdict(list)
        for inputs, _ in self.batches():
            if inputs.get("pixel_values") is None:
                continue
            real, _ = self.answers(inputs)
            seen = (inputs["input_ids"] == self.trainer.base.config.image_token_id).any(1)  # (rows,)
            for kind in BLANKS:
                pixels = blank_pixels(inputs["pixel_values"], kind, images.image_mean, images.image_std)
                blank = {name: value for name, value in inputs.items() if name != "image_information"}
                found, _ = self.answers(blank | {"pixel_values": pixels})
                same[kind].append(found.same(real)[seen].float())
                rise[kind].append((found.mean_losses() - real.mean_losses())[seen])
        if not same:
            raise ValueError(f"the monitor {self.name!r} needs samples with images")
        shares = {kind: float(torch.cat(values).mean()) for kind, values in same.items()}
        rises = {f"loss_rise/{kind}": float(torch.cat(values).nanmean()) for kind, values in rise.items()}
        self.log({f"same/{kind}": share for kind, share in shares.items()} | rises)
        if self.trainer.state.global_step < self.patience:
            return
        blind = [f"{share:.0%} with {kind}" for kind, share in shares.items() if share >= self.most_same]
        self.judge(f"the model does not look: the same answers for {', '.join(blind)}" if blind else None)


class ValidationMonitor(ProbeMonitor):
    """Loss and share of exact answers by tier of tokens and by domain, with an alarm where a domain is unlearned.

    Answers are predicted token by token after the given beginning. Tiers are those nearest to the tokens that an image
    of the row takes on average; domains are the collator's `task`.

    Args:
        samples, size, batch_size, action, every: as of [`ProbeMonitor`].
        most_rise (`float`): share by which a domain's loss may be above the lowest it has had; above that the mixture
            wants to be balanced anew.
        least_rows (`int`): rows that a domain must have to be judged.
    """

    name = "validation"

    def __init__(
        self,
        samples: Any = None,
        size: int = 128,
        most_rise: float = 0.1,
        least_rows: int = 8,
        **options: Any,
    ):
        super().__init__(samples, size, **options)
        self.most_rise, self.least_rows = most_rise, least_rows

    def look(self) -> None:
        losses: dict[str, list[float]] = defaultdict(list)
        exact: dict[str, list[float]] = defaultdict(list)
        for inputs, auxiliary in self.batches():
            answers, base = self.answers(inputs)
            tiers = row_tiers(inputs, base.allocation, self.trainer.base.config)
            domains = auxiliary.get("task") or [""] * len(tiers)
            for loss, right, tier, domain in zip(
                answers.mean_losses().tolist(), answers.right().tolist(), tiers, domains, strict=True
            ):
                if loss != loss:
                    continue  # no answer
                for group in (f"tier/{tier}", f"domain/{domain}") if domain else (f"tier/{tier}",):
                    losses[group].append(loss)
                    exact[group].append(float(right))
        problems = []
        for group, values in losses.items():
            loss = sum(values) / len(values)
            lowest = min([loss, *(value for value in self.logged(f"{group}/loss") if value == value)])
            judged = group.startswith("domain/") and len(values) >= self.least_rows
            if judged and not loss <= lowest * (1 + self.most_rise):
                problems.append(f"the loss of {group.removeprefix('domain/')} is {loss:.4g}, up from {lowest:.4g}")
        self.log(
            {f"{group}/loss": sum(values) / len(values) for group, values in losses.items()}
            | {f"{group}/exact": sum(values) / len(values) for group, values in exact.items()}
        )
        self.judge("; ".join(problems) or None)


def row_tiers(inputs: Mapping[str, Any], allocation: Any, config: Any) -> list[str]:
    """Nearest tier to the mean tokens of the images of each row; `"none"` for a row without images."""
    rows = len(inputs["input_ids"])
    if inputs.get("image_grid_thw") is None:
        return ["none"] * rows
    native = inputs["image_grid_thw"].prod(1) // config.vision_config.spatial_merge_size**2
    used = native if allocation is None else allocation.budgets
    written = used if allocation is None or allocation.placeholders is None else allocation.placeholders
    row = rows_of_images(inputs["input_ids"] == config.image_token_id, written)  # (images,)
    found = []
    for number in range(rows):
        tokens = used[row.to(used.device) == number].float()
        found.append(str(snap_to_tier(round(float(tokens.mean())), TIERS)) if len(tokens) else "none")
    return found


class HostAbilityMonitor(ProbeMonitor):
    """What the host could do before training: exact answers and loss on samples of its own abilities.

    Args:
        samples (`Sequence`, `str` or `Path`): rows that the host answers well: text alone, or images at native budget,
            which the rows ask for with a `token_budget` of 1.0.
        most_drop (`float`): share of the starting number of exact tokens that may be lost.
        size, batch_size, action, every: as of [`ProbeMonitor`].
    """

    name = "host_ability"

    def __init__(self, samples: Any, most_drop: float = 0.01, **options: Any):
        super().__init__(samples, **options)
        self.most_drop = most_drop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if not state.global_step:
            self.look()

    def look(self) -> None:
        right, losses = [], []
        for inputs, _ in self.batches():
            answers, _ = self.answers(inputs)
            right.append((answers.token == answers.label).float())
            losses.append(answers.loss)
        accuracy, loss = float(torch.cat(right).mean()), float(torch.cat(losses).mean())
        first = self.first("accuracy", accuracy)
        self.log({"accuracy": accuracy, "loss": loss})
        lost = f"token accuracy on the host's own samples fell from {first:.4f} to {accuracy:.4f}"
        self.judge(None if accuracy >= first * (1 - self.most_drop) else lost)
