"""`arrcoc preflight`: how far compressed tokens are from the host's own, level by level, before any training."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from arrcoc.distribution import gaussian_divergence, nearest_levels
from arrcoc.host_statistics import ChannelStatistics, RunningMoments, StatisticsRecorder
from arrcoc.outputs import Allocation
from arrcoc.processing.images import load_image

from .checkpoints import chat_inputs, checkpoint_folder, load_model, load_processor


# Visual tokens of an image: the lowest and the highest tier.
BUDGETS = (64, 400)
# KL divergence from the host's tokens, in nats a channel, above which a level needs training.
MOST_DIVERGENCE = 0.5
# Tokens below which a level is shown, but not judged.
LEAST_TOKENS = 32


class LevelTokens:
    """Moments of the tokens of one level of detail, and their cosine with the host's."""

    def __init__(self) -> None:
        self.moments = RunningMoments()
        self.cosine = 0.0

    def update(self, tokens: Tensor, cosines: Tensor) -> None:
        self.moments.update(tokens.cpu())
        self.cosine += float(cosines.double().sum())

    def report(self, host: ChannelStatistics) -> dict[str, Any]:
        mean, variance = self.moments.moments()
        divergence = float(gaussian_divergence(mean, variance, host))
        judged = self.moments.count >= LEAST_TOKENS
        return {
            **summary(self.moments),
            "divergence": round(divergence, 4),
            "cosine": round(self.cosine / self.moments.count, 4),
            "diverges": not divergence <= MOST_DIVERGENCE if judged else None,  # NaN diverges
        }


def preflight(model: str, data: Path, images: int = 16, save: Path | None = None, as_json: bool = False) -> None:
    """Compare compressed tokens with the host's own at full detail, and print a verdict.

    Each image is encoded at its native number of tokens, and with the budgets of the lowest and the highest tier. For
    each level of detail the report gives the tokens' mean and standard deviation over all channels, the KL divergence
    of their channels from the host's (as Gaussians, averaged), and the mean cosine of a token and the host's tokens of
    the cells that it stands for.

    Args:
        model (`str`): checkpoint folder, wrapped or stock, or its name on the Hub.
        data (`Path`): a file of JSON lines with the fields `image`, a path from the file's folder, and `question`.
        images (`int`): number of images to use, the first of the file, each with its first question.
        save (`Path`, *optional*): folder to write the host's statistics to, such as that of the checkpoint; training
            reads them there with `HostStatistics.from_pretrained`.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the checkpoint, the file or an image cannot be read.
    """
    records = read_records(data, images)
    folder = checkpoint_folder(model)
    network = load_model(folder).eval()
    if torch.accelerator.is_available():
        network = network.to(torch.accelerator.current_accelerator())
    processor = load_processor(folder)

    recorder = StatisticsRecorder()
    levels: dict[int, LevelTokens] = {}
    for path, question in tqdm(records, desc="comparing", unit=" images", delay=2, leave=False):
        picture = load_image(path)
        own: Tensor | None = None
        for budget in BUDGETS:
            inputs = chat_inputs(processor, picture, question, budget).to(network.device)
            if own is None:
                own = record_native(network, inputs["pixel_values"], inputs["image_grid_thw"], recorder)
            with torch.no_grad():
                encoded = network.encode_images(**inputs)
            for level, tokens, cosines in by_level(encoded.pooler_output[0], encoded.allocation, own):
                levels.setdefault(level, LevelTokens()).update(tokens, cosines)

    if save is not None:
        recorder.statistics(network).save_pretrained(save)
    host = recorder.layers["tokens"].moments
    block = network.config.arrcoc_config
    report: dict[str, Any] = {
        "model": model,
        "stage": block.stage,
        "compressor": block.compressor,
        "adapter": block.adapter,
        "images": len(records),
        "budgets": list(BUDGETS),
        "host": summary(host),
        "levels": {str(level): levels[level].report(statistics(host)) for level in sorted(levels)},
    }
    report["verdict"] = verdict(report["levels"])
    print(json.dumps(report, ensure_ascii=False) if as_json else describe(report))


def read_records(data: Path, images: int) -> list[tuple[Path, str]]:
    """The first images of a file of JSON lines, each with its first question.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a line is no JSON object or lacks a field, or there is no line.
    """
    found: dict[Path, str] = {}
    with data.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if len(found) == images:
                break
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{data}, line {number} is no JSON: {error}") from None
            for field in ("image", "question"):
                if not isinstance(record, dict) or not isinstance(record.get(field), str):
                    raise ValueError(f"{data}, line {number} has no field {field!r}; expected its text")
            found.setdefault(data.parent / record["image"], record["question"])
    if not found:
        raise ValueError(f"{data} holds no images")
    return list(found.items())


@torch.no_grad()
def record_native(
    network: PreTrainedModel, pixel_values: Tensor, grid: Tensor, recorder: StatisticsRecorder
) -> Tensor:
    """Record what the host makes of an image at full detail; returns its tokens, of shape `(cells, dim)`."""
    encoded = network.model.get_image_features(pixel_values, grid, return_dict=True)
    recorder.update(encoded)
    return encoded.pooler_output[0]


def by_level(tokens: Tensor, allocation: Allocation, own: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Tokens of an image by their nearest level of detail, finest first.

    Args:
        tokens (`Tensor` of shape `(leaves, dim)`): compressed tokens.
        allocation ([`Allocation`]): of that image.
        own (`Tensor` of shape `(cells, dim)`): the host's tokens.

    Yields:
        `tuple[int, Tensor, Tensor]`: the level, its tokens, and the mean cosine of each token and its cells.
    """
    kept = (allocation.cell_to_leaf >= 0).nonzero()[:, 0]
    leaf = allocation.cell_to_leaf[kept]
    cosines = F.cosine_similarity(tokens[leaf].float(), own[kept].float())  # (cells,)
    cosines = cosines.new_zeros(len(tokens)).index_add(0, leaf, cosines) / torch.bincount(leaf)
    levels = nearest_levels(allocation.levels)
    for level in levels.unique().tolist():
        yield level, tokens[levels == level], cosines[levels == level]


def statistics(moments: RunningMoments) -> ChannelStatistics:
    """Measured moments, as what divergences are measured from."""
    mean, variance = moments.moments()
    return ChannelStatistics(mean, variance, mean.new_empty(0, len(mean)), torch.tensor(moments.count))


def summary(moments: RunningMoments) -> dict[str, Any]:
    """Count, mean and standard deviation over all channels, as plain values."""
    mean, variance = moments.moments()
    return {
        "tokens": moments.count,
        "mean": round(float(mean.mean()), 6),
        "std": round(float(variance.mean().sqrt()), 6),
    }


def verdict(levels: dict[str, dict[str, Any]]) -> str:
    """`"ready"`, `"adapt"` if a level diverges from the host, `"undecided"` if no coarse level could be judged."""
    judged = {level: report["diverges"] for level, report in levels.items() if report["diverges"] is not None}
    if any(judged.values()):
        return "adapt"
    return "ready" if judged.keys() - {"0"} else "undecided"


def describe(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = [f"{'':8} {'tokens':>8} {'mean':>9} {'std':>9} {'divergence':>10} {'cosine':>7}"]
    for name, values in (("host", report["host"]), *((f"level {level}", v) for level, v in report["levels"].items())):
        line = f"{name:8} {values['tokens']:8d} {values['mean']:9.4f} {values['std']:9.4f}"
        if name != "host":
            mark = {True: "  diverges", False: "", None: "  too few to judge"}[values["diverges"]]
            line += f" {values['divergence']:10.3f} {values['cosine']:7.3f}{mark}"
        lines.append(line)
    diverging = ", ".join(level for level, values in report["levels"].items() if values["diverges"])
    lines.append(
        {
            "ready": f"ready: no level is further than {MOST_DIVERGENCE} from the host's tokens",
            "adapt": f"adapt: further than {MOST_DIVERGENCE} from the host's tokens at level {diverging}; train an "
            "adapter first",
            "undecided": f"undecided: no coarse level has {LEAST_TOKENS} tokens; use more or larger images",
        }[report["verdict"]]
    )
    return "\n".join(lines)
