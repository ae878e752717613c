"""Statistics of a host's own visual tokens at full detail: what compressed tokens are measured against.

They are measured, never assumed, and kept beside a checkpoint's weights in a file of their own: only training and the
pre-flight check need them, in more precision than the weights may have.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


FILE_NAME = "host_statistics.safetensors"
# Added to variances, as a share of the mean over all channels: a channel that never changes cannot be matched.
VARIANCE_FLOOR = 1e-10


class RunningMoments:
    """Mean and variance of each channel over a stream of tokens, in float64.

    Welford's algorithm, batch by batch (Chan, Golub & LeVeque, "Algorithms for computing the sample variance", The
    American Statistician 37(3), 1983): exact whatever the mean, as sums of squares are not.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None  # summed squared differences from the mean

    def update(self, tokens: Tensor) -> None:
        """Take in tokens of shape `(tokens, dim)`, of any precision."""
        if len(tokens) == 0:
            return
        tokens = tokens.detach().double()
        mean = tokens.mean(0)
        squares = (tokens - mean).square().sum(0)
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = len(tokens), mean, squares
            return
        total = self.count + len(tokens)
        step = mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * len(tokens) / total)
        self.mean = self.mean + step * (len(tokens) / total)
        self.count = total

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (divided by the count), float64 of shape `(dim,)`.

        Raises:
            ValueError: before the first token.
        """
        if self.mean is None or self.squares is None:
            raise ValueError("no tokens were seen")
        return self.mean, self.squares / self.count


@dataclass(frozen=True)
class ChannelStatistics:
    """What is known of the distribution of tokens.

    Attributes:
        mean, variance (`Tensor` of shape `(dim,)`): of each channel, float32.
        samples (`Tensor` of shape `(samples, dim)`): some of the tokens, drawn evenly, float32.
        count (`Tensor`): number of tokens that were measured, int64 without dimensions.
    """

    mean: Tensor
    variance: Tensor
    samples: Tensor
    count: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> "ChannelStatistics":
        """Statistics of given tokens of shape `(tokens, dim)`, all of which are its samples."""
        moments = RunningMoments()
        moments.update(tokens)
        mean, variance = moments.moments()
        return cls(mean.float(), variance.float(), tokens.detach().float(), torch.tensor(len(tokens)))

    @property
    def floor(self) -> Tensor:
        """What is added to variances before they are compared, a number."""
        return self.variance.mean() * VARIANCE_FLOOR + torch.finfo(torch.float32).tiny

    def standardize(self, tokens: Tensor) -> Tensor:
        """Tokens in units in which the host's have mean 0 and variance 1."""
        return (tokens - self.mean) / (self.variance + self.floor).sqrt()

    def to(self, device: torch.device | str) -> "ChannelStatistics":
        """The same statistics on another device."""
        return ChannelStatistics(**{name: values.to(device) for name, values in vars(self).items()})


class _Measurement:
    """Moments and an even random sample of a stream of tokens."""

    def __init__(self, samples: int, generator: torch.Generator):
        self.moments, self.size, self.generator = RunningMoments(), samples, generator
        self.keys, self.samples = torch.empty(0), torch.empty(0, 0)

    def update(self, tokens: Tensor) -> None:
        tokens = tokens.detach().cpu()  # not every accelerator has float64
        self.moments.update(tokens)
        # The tokens with the highest of independent random keys are a sample without replacement.
        keys = torch.cat([self.keys, torch.rand(len(tokens), generator=self.generator)])
        tokens = torch.cat([self.samples, tokens.float()]) if len(self.samples) else tokens.float()
        self.keys, kept = keys.topk(min(self.size, len(keys)))
        self.samples = tokens[kept]

    def statistics(self) -> ChannelStatistics:
        mean, variance = self.moments.moments()
        return ChannelStatistics(mean.float(), variance.float(), self.samples, torch.tensor(self.moments.count))


def layer_names(deepstack_layers: int) -> list[str]:
    """Names of the layers of visual tokens: the tower's output, and its DeepStack layers."""
    return ["tokens", *(f"deepstack_{layer}" for layer in range(1, deepstack_layers + 1))]


@dataclass(frozen=True)
class HostStatistics:
    """Statistics of the visual tokens that a host makes of whole images.

    Attributes:
        host (`str`): model type of the host, such as `"qwen3_vl"`.
        layers (`dict[str, ChannelStatistics]`): of `"tokens"`, the tower's output, and where the host has them of
            `"deepstack_1"`, `"deepstack_2"`, ...
    """

    host: str
    layers: dict[str, ChannelStatistics]

    @classmethod
    @torch.no_grad()
    def measure(
        cls, model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], samples: int = 1024, seed: int = 0
    ) -> "HostStatistics":
        """Run a host over images at their native number of tokens.

        `HostStatistics.measure(model, loader).save_pretrained(folder)` measures once and keeps it beside the
        checkpoint; `arrcoc preflight --save` does the same from the command line.

        Args:
            model ([`PreTrainedModel`]): stock or with ARR-COC, which takes no part.
            batches (`Iterable`): what the processor returns; only `pixel_values` and `image_grid_thw` are read, and
                batches without images are passed over.
            samples (`int`): tokens of each layer to keep.
            seed (`int`): of their choice.

        Raises:
            ValueError: if there is no image.
        """
        recorder = StatisticsRecorder(samples, seed)
        for batch in batches:
            if batch.get("pixel_values") is None:
                continue
            pixels, grids = batch["pixel_values"].to(model.device), batch["image_grid_thw"].to(model.device)
            recorder.update(model.get_image_features(pixels, grids, return_dict=True))
        return recorder.statistics(model)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `host_statistics.safetensors` into a folder, such as that of the checkpoint, whole or not at all.

        The folder is made if it does not exist.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{name}.{field}": values.contiguous().cpu()
            for name, statistics in self.layers.items()
            for field, values in vars(statistics).items()
        }
        with TemporaryDirectory(prefix=f".{FILE_NAME}-", dir=folder) as staging:
            save_file(tensors, Path(staging) / FILE_NAME, metadata={"format": "pt", "host": self.host})
            os.replace(Path(staging) / FILE_NAME, folder / FILE_NAME)

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: PreTrainedModel | None = None) -> "HostStatistics":
        """Read what `save_pretrained` wrote.

        Args:
            folder (`str` or `Path`): the folder.
            model ([`PreTrainedModel`], *optional*): the model that they are to serve; see `check`.

        Raises:
            FileNotFoundError: if the folder has no such file.
            ValueError: if the file is damaged or lacks tensors, which are named, or does not fit the model.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"no host statistics {path}; `HostStatistics.measure` makes them")
        try:
            with safe_open(path, "pt") as file:
                host = (file.metadata() or {}).get("host", "")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        names = {"tokens", *(key.split(".")[0] for key in tensors)}
        wanted = {name: {field.name: f"{name}.{field.name}" for field in fields(ChannelStatistics)} for name in names}
        missing = sorted({key for keys in wanted.values() for key in keys.values()} - tensors.keys())
        if missing:
            raise ValueError(f"{path} is incomplete: it has no {', '.join(missing)}")
        layers = {}
        for name in sorted(names, key=lambda name: (name != "tokens", len(name), name)):
            statistics = ChannelStatistics(**{field: tensors[key] for field, key in wanted[name].items()})
            width = statistics.mean.shape
            if statistics.variance.shape != width or statistics.samples.shape[1:] != width:
                shapes = {field: list(values.shape) for field, values in vars(statistics).items()}
                raise ValueError(f"{path} is inconsistent: the shapes of {name!r} are {shapes}")
            layers[name] = statistics
        loaded = cls(host, layers)
        if model is not None:
            loaded.check(model)
        return loaded

    def check(self, model: PreTrainedModel) -> None:
        """Make sure that these are statistics of the architecture of a model.

        Raises:
            ValueError: if host, layers or widths differ; all of them are named.
        """
        width = model.config.text_config.hidden_size
        deepstack = len(getattr(model.config.vision_config, "deepstack_visual_indexes", ()))
        expected = {"host": _host(model)} | {name: f"{width} channels" for name in layer_names(deepstack)}
        found = {"host": self.host} | {name: f"{len(layer.mean)} channels" for name, layer in self.layers.items()}
        wrong = [
            f"{key}: found {found.get(key, 'nothing')}, expected {expected.get(key, 'nothing')}"
            for key in [*expected, *(found.keys() - expected.keys())]
            if found.get(key) != expected.get(key)
        ]
        if wrong:
            raise ValueError(f"host statistics do not fit the model: {'; '.join(wrong)}")


class StatisticsRecorder:
    """Takes in what a host makes of whole images, batch by batch.

    Args:
        samples (`int`): tokens of each layer to keep.
        seed (`int`): of their choice.
    """

    def __init__(self, samples: int = 1024, seed: int = 0):
        self.samples, self.generator = samples, torch.Generator().manual_seed(seed)
        self.layers: dict[str, _Measurement] = {}

    def update(self, encoded: BaseModelOutputWithPooling) -> None:
        """Take in the stock output of `get_image_features`."""
        features = [encoded.pooler_output, *(getattr(encoded, "deepstack_features", None) or ())]
        for name, layer in zip(layer_names(len(features) - 1), features, strict=True):
            measurement = self.layers.setdefault(name, _Measurement(self.samples, self.generator))
            measurement.update(torch.cat(tuple(layer)))

    def statistics(self, model: PreTrainedModel) -> HostStatistics:
        """What was measured of `model`.

        Raises:
            ValueError: if there was no image.
        """
        if not self.layers:
            raise ValueError("the batches hold no images; expected `pixel_values` and `image_grid_thw`")
        return HostStatistics(_host(model), {name: layer.statistics() for name, layer in self.layers.items()})


def _host(model: PreTrainedModel) -> str:
    return getattr(model.config, "host_model_type", model.config.model_type)


__all__ = ["ChannelStatistics", "HostStatistics", "StatisticsRecorder"]
