"""Monitors of what flows through the model: features that become alike or grow, and attention scores that explode."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .observation import attention_rows, host_of, observed_attention, undisturbed
from .probes import ProbeMonitor


def pairwise_cosine(features: Sequence[Tensor]) -> float:
    """Mean cosine of the features of different images.

    Args:
        features (`Sequence[Tensor]`): for each image those of its tokens, of shape `(tokens, dim)`; an image is
            represented by their mean.

    Returns:
        `float`: 1 where all images look the same.

    Raises:
        ValueError: for fewer than two images.
    """
    if len(features) < 2:
        raise ValueError(f"found {len(features)} images; expected at least two to compare")
    means = torch.stack([tokens.float().mean(0) for tokens in features])  # (images, dim)
    cosines = torch.nn.functional.cosine_similarity(means[:, None], means[None], dim=-1)  # (images, images)
    count = len(means)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


class FeatureMonitor(ProbeMonitor):
    """Features of different images that become alike, and features that grow or vanish, stage by stage.

    Stages are the vision tower's output (`tower`), the visual tokens that the language model is handed (`tokens`), and
    its hidden states at their places after a third, two thirds and all of its layers (`layer_N`).

    A host whose images are alike at a stage before any training, as they are deep in some language models, is judged
    by how much of their difference is lost: nine tenths are too much.

    Args:
        samples, size, batch_size, action, every: as of [`ProbeMonitor`]; with at least two different images.
        most_alike (`float`): mean cosine between different images at which they are too much alike; about 0.6 is
            healthy.
        most_growth (`float`): factor by which the standard deviation of features may grow or shrink.
    """

    name = "features"

    def __init__(self, samples: Any = None, most_alike: float = 0.9, most_growth: float = 3.0, **options: Any):
        super().__init__(samples, **options)
        self.most_alike, self.most_growth = most_alike, most_growth

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if not state.global_step:
            self.look()  # what is compared with later

    def look(self) -> None:
        stages: dict[str, list[Tensor]] = {}
        images: list[Tensor] = []
        for inputs, _ in self.batches():
            if inputs.get("pixel_values") is None:
                continue
            images += inputs["pixel_values"].split(inputs["image_grid_thw"].prod(1).tolist())
            for stage, features in self._features(inputs):
                stages.setdefault(stage, []).extend(features)
        chosen = distinct(images)
        values: dict[str, float] = {}
        problems = []
        for stage, features in stages.items():
            cosine = pairwise_cosine([features[image] for image in chosen])
            deviation = float(torch.cat([features[image] for image in chosen]).float().std())
            values |= {f"cosine/{stage}": cosine, f"std/{stage}": deviation}
            first = self.first(f"cosine/{stage}", cosine)
            limit = self.most_alike if first < self.most_alike else 1 - (1 - first) / 10
            if not cosine < limit:
                problems.append(f"different images are alike at {stage}: cosine {cosine:.4f}, {first:.4f} at first")
            growth = deviation / max(self.first(f"std/{stage}", deviation), torch.finfo(torch.float32).tiny)
            if not 1 / self.most_growth <= growth <= self.most_growth:
                problems.append(f"features at {stage} have {growth:.3g} times the standard deviation of the start")
        self.log(values)
        self.judge("; ".join(problems) or None)

    def _features(self, inputs: dict[str, Any]) -> Iterator[tuple[str, list[Tensor]]]:
        """Name of each stage, and its features for each image."""
        base, tower = self.trainer.base, []
        handle = base.visual.register_forward_hook(lambda module, args, output: tower.append(output.pooler_output))
        try:
            _, output = self.run(inputs, output_hidden_states=True, logits_to_keep=1)
        finally:
            handle.remove()
        cells = inputs["image_grid_thw"].prod(1) // base.config.vision_config.spatial_merge_size**2
        tokens = cells if output.allocation is None else output.allocation.budgets
        whole = torch.cat(tuple(tower[-1])) if isinstance(tower[-1], list | tuple) else tower[-1]
        yield "tower", list(whole.split((cells if len(whole) == int(cells.sum()) else tokens).tolist()))
        yield "tokens", list(output.image_hidden_states.split(tokens.tolist()))
        placeholders = inputs["input_ids"] == base.config.image_token_id
        counts = tokens
        if output.allocation is not None and output.allocation.placeholders is not None:
            counts = output.allocation.placeholders
        depth = len(output.hidden_states) - 1
        for layer in dict.fromkeys((depth // 3, depth * 2 // 3, depth)):
            packed = output.hidden_states[layer][placeholders]  # (placeholders, dim)
            # Placeholders that a learned budget leaves unused hold zeros.
            yield f"layer_{layer}", [image[image.any(1)] for image in packed.split(counts.tolist())]


def distinct(images: Sequence[Tensor]) -> list[int]:
    """Numbers of images that differ, the first of equal ones."""
    found: list[int] = []
    for number, image in enumerate(images):
        if not any(torch.equal(image, images[other]) for other in found):
            found.append(number)
    return found


class AttentionScoreMonitor(ProbeMonitor):
    """Scores of attention before the softmax: high ones saturate it, and end in NaN.

    The products of queries and keys are those that attention computes, of up to `rows` queries of each sequence,
    evenly spaced, with all keys they attend to.

    A host that has higher scores than `most` before any training is judged by their growth: half of it is too much.

    Args:
        samples, size, batch_size, action, every: as of [`ProbeMonitor`].
        most (`float`): highest healthy score.
        rows (`int`): queries of each sequence to look at.
    """

    name = "attention"

    def __init__(self, samples: Any = None, most: float = 20.0, rows: int = 128, **options: Any):
        super().__init__(samples, **options)
        self.most, self.rows = most, rows

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if not state.global_step:
            self.look()

    def look(self) -> None:
        host = host_of(self.trainer.accelerator.unwrap_model(self.trainer.model))
        tower = set(self.trainer.base.visual.modules())
        highest: dict[str, list[float]] = {"tower": [], "language": []}
        spread: dict[str, list[float]] = {"tower": [], "language": []}

        def observe(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
            length = query.shape[2]
            rows = torch.arange(0, length, -(-length // self.rows), device=query.device)
            scores = attention_rows(module, query, key, mask, scaling, rows.expand(len(query), -1))
            scores = scores[scores != float("-inf")]  # those that are masked
            part = "tower" if module in tower else "language"
            highest[part].append(float(scores.max()))
            spread[part].append(float(scores.std()))

        for inputs, _ in self.batches():
            with observed_attention(host, observe), undisturbed(self.trainer.model):
                self.run(inputs, logits_to_keep=1)
        values: dict[str, float] = {}
        problems = []
        for part in highest:
            if not highest[part]:
                continue
            score = max(highest[part], key=lambda value: float("inf") if value != value else value)
            values |= {f"max/{part}": score, f"std/{part}": sum(spread[part]) / len(spread[part])}
            first = self.first(f"max/{part}", score)
            limit = self.most if first <= self.most else 1.5 * first
            if not score <= limit:
                problems.append(f"attention scores in the {part} part reach {score:.3g}, above {limit:.3g}")
        self.log(values)
        self.judge("; ".join(problems) or None)
