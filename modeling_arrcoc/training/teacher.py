"""A teacher of relevance: where the host itself looks, at full detail, when it writes an answer.

Its attention from the answer to the visual tokens is measured once for each row of a data set and kept in files, which
the collator reads while a model with a small budget learns to look there.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from .data.collator import AUXILIARY_KEYS, IGNORED
from .monitors.observation import attention_rows, observed_attention


# Settings of the image processor that decide how many cells an image has, and what they show.
IMAGE_SETTINGS = ("patch_size", "merge_size", "size", "image_mean", "image_std")


def middle_layers(count: int) -> range:
    """The middle third of a language model's layers, at least one: early ones read, late ones write."""
    return range(count // 3, max(count // 3 + 1, count * 2 // 3))


@torch.no_grad()
def teacher_maps(
    model: PreTrainedModel, inputs: Mapping[str, Any], layers: Sequence[int] | None = None
) -> list[Tensor]:
    """Where a host looks when it writes given answers.

    The attention of each token that predicts a token of the answer, over all visual tokens; averaged over those
    tokens, heads and layers, and scaled to a sum of 1 over the images of a row.

    Args:
        model ([`PreTrainedModel`]): a host, stock or wrapped, in evaluation mode.
        inputs (`Mapping`): what the collator returns at native budget, with `labels` `(batch, length)`.
        layers (`Sequence[int]`, *optional*): layers of the language model; by default `middle_layers`.

    Returns:
        `list[Tensor]`: one for each row, of shape `(cells,)`: the cells of its images one after another, in raster
        order; float32 on the CPU. Empty for a row without images.

    Raises:
        ValueError: if images have a token budget, a row has no answer, or attention is not finite.
    """
    if inputs.get("image_token_budgets") is not None:
        raise ValueError("a teacher sees all cells: found `image_token_budgets`, expected images at native budget")
    blocks = model.model.language_model.layers
    chosen = middle_layers(len(blocks)) if layers is None else layers
    watched = {blocks[layer].self_attn for layer in chosen}
    rows, shares = _predicting(inputs["labels"])
    rows, shares = rows.to(model.device), shares.to(model.device)
    attention: list[Tensor] = []

    def observe(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        if module in watched:
            scores = attention_rows(module, query, key, mask, scaling, rows)  # (batch, heads, rows, keys)
            attention.append(torch.einsum("bhrk,br->bk", scores.softmax(-1), shares / query.shape[1]))

    arguments = {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
        if name not in (*AUXILIARY_KEYS, "labels")
    }
    with observed_attention(model, observe):
        model(**arguments, logits_to_keep=1, use_cache=False)
    mean = torch.stack(attention).mean(0).cpu()  # (batch, length)
    maps = [row[visual] for row, visual in zip(mean, inputs["input_ids"] == model.config.image_token_id, strict=True)]
    if not all(torch.isfinite(map).all() for map in maps):
        raise ValueError("the host's attention is not finite; is its precision too low?")
    return [map / map.sum() if len(map) else map for map in maps]


def _predicting(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Places `(batch, rows)` whose next token is one of the answer, and the share `(batch, rows)` of each in the mean.

    Short rows repeat their first place, with a share of 0.
    """
    places = [(row[1:] != IGNORED).nonzero()[:, 0] for row in labels]
    if empty := [number for number, place in enumerate(places) if not len(place)]:
        raise ValueError(f"rows {empty} of the batch have no answer that the teacher could write")
    longest = max(map(len, places))
    rows = torch.stack([torch.cat([place, place[:1].expand(longest - len(place))]) for place in places])
    shares = torch.tensor([[1 / len(place)] * len(place) + [0.0] * (longest - len(place)) for place in places])
    return rows, shares


def teacher_settings(name: str, model: PreTrainedModel, processor: Any, layers: Sequence[int] | None = None) -> dict:
    """What a cache of maps depends on, as plain values.

    Args:
        name (`str`): what the teacher is called.
        model ([`PreTrainedModel`]): the teacher.
        processor ([`ArrCocProcessor`]): its processor.
        layers (`Sequence[int]`, *optional*): as of `teacher_maps`.
    """
    text = model.config.text_config
    chosen = middle_layers(text.num_hidden_layers) if layers is None else layers
    return {
        "model": name,
        "host": getattr(model.config, "host_model_type", model.config.model_type),
        "hidden_size": text.hidden_size,
        "layers": list(chosen),
        "images": image_settings(processor),
    }


def image_settings(processor: Any) -> dict[str, Any]:
    """`IMAGE_SETTINGS` of a processor, as plain values."""
    found = {name: getattr(processor.image_processor, name) for name in IMAGE_SETTINGS}
    return found | {"size": {edge: found["size"][edge] for edge in ("shortest_edge", "longest_edge")}}


class TeacherCache(Mapping[str, Tensor]):
    """Maps of a teacher by the id of their row, read from files when they are asked for; may be used in workers.

    Args:
        folder (`str` or `Path`): with the files `teacher-*.safetensors`.
        settings (`dict`, *optional*): what the maps must have been made with, see `teacher_settings`.
        processor (*optional*): of the model that is to learn, whose cells must be the teacher's.

    Raises:
        FileNotFoundError: if the folder holds no maps.
        ValueError: if a file is damaged, or the maps were made with other settings, which are named.
    """

    def __init__(self, folder: str | Path, settings: dict | None = None, processor: Any = None):
        self.folder = Path(folder)
        self.settings: dict[str, Any] = {}
        self._files: dict[Path, Any] = {}
        self._places: dict[str, Path] = {}
        for path in shards(self.folder):
            try:
                with safe_open(path, "pt") as file:
                    found, keys = json.loads((file.metadata() or {})["settings"]), list(file.keys())
            except (SafetensorError, KeyError, ValueError) as error:
                raise ValueError(f"{path} is damaged or no file of a teacher: {error}") from None
            _same(path, found, self.settings or settings or found)
            self.settings = found
            self._places |= dict.fromkeys(keys, path)
        if not self._places:
            raise FileNotFoundError(f"{self.folder} holds no maps of a teacher; `arrcoc teach` makes them")
        if processor is not None:
            _same(self.folder, self.settings["images"], image_settings(processor))

    def __getitem__(self, row_id: str) -> Tensor:
        path = self._places[row_id]
        if path not in self._files:
            self._files[path] = safe_open(path, "pt")
        return self._files[path].get_tensor(row_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, row_id: object) -> bool:
        return row_id in self._places

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # open files stay in their process


def shards(folder: Path) -> list[Path]:
    """The files of a cache, in order."""
    return sorted(folder.glob("teacher-*.safetensors"))


def write_shard(folder: Path, maps: Mapping[str, Tensor], settings: dict) -> Path:
    """Add a file of maps to a cache; it appears when all of it is written.

    Args:
        folder (`Path`): of the cache; made if it does not exist.
        maps (`Mapping[str, Tensor]`): by id of their row.
        settings (`dict`): see `teacher_settings`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = max((int(path.stem.split("-")[1]) for path in shards(folder)), default=-1)
    path = folder / f"teacher-{last + 1:05d}.safetensors"
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", dir=folder)
    os.close(handle)
    try:
        tensors = {row_id: map.float().contiguous() for row_id, map in maps.items()}
        save_file(tensors, temporary, metadata={"format": "pt", "settings": json.dumps(settings)})
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _same(where: Path, found: dict, expected: dict) -> None:
    # As they are read back: tuples are lists there.
    found, expected = json.loads(json.dumps(found)), json.loads(json.dumps(expected))
    wrong = [
        f"{name}: found {found.get(name)!r}, expected {expected.get(name)!r}"
        for name in dict.fromkeys([*expected, *found])
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise ValueError(f"the teacher's maps in {where} do not fit: {'; '.join(wrong)}")


__all__ = ["TeacherCache", "image_settings", "middle_layers", "teacher_maps", "teacher_settings", "write_shard"]
