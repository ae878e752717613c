"""What a tower that stands still makes of drawn documents, kept beside them: what learns from it need not wait."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from arrcoc.processing.information import information_map

from .cache import Shard
from .pictures import patches
from .tokenizer import CELL


Place = tuple[Shard, int]  # a document: its shard, and its number there
View = Callable[[list[NDArray]], NDArray]  # of pages, each (side, side, 3) uint8, to (pages, cells, ...)
GRAY = np.array((0.299, 0.587, 0.114), np.float32) / 255
_AT_ONCE = 8  # documents


def places(shards: Sequence[Shard]) -> list[Place]:
    """All documents of some shards."""
    return [(shard, index) for shard in shards for index in range(len(shard.questions))]


def enlarged(pixels: NDArray, side: int) -> NDArray:
    """A document `(height, width, 3)` uint8 as a square of `side` pixels, resized as the processor would."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def deepstack_of(found: Any) -> list[Tensor]:
    """A tower's DeepStack layers; none of a Qwen2.5-VL."""
    return list(getattr(found, "deepstack_features", None) or ())


def tower_view(tower: nn.Module) -> View:
    """A tower's output and its DeepStack layers, `(pages, cells, 1 + layers, dim)` float16."""

    def view(pages: list[NDArray]) -> NDArray:
        values, grids = patches(pages)
        device = next(tower.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
            found = tower(values.to(device), grid_thw=grids.to(device))
        layers: Tensor = torch.stack([found.pooler_output, *deepstack_of(found)], 1)
        return layers.unflatten(0, (len(pages), -1)).half().cpu().numpy()

    return view


def glance_view(tower: nn.Module, level: int) -> View:
    """A tower's output of pages whose sides are `2**-level` as long, `(pages, cells, dim)` float16."""
    view, factor = tower_view(tower), 2**level

    def glance(pages: list[NDArray]) -> NDArray:
        size = len(pages[0]) // factor
        small = [page.reshape(size, factor, size, factor, 3).mean((1, 3)).round().astype(np.uint8) for page in pages]
        return view(small)[:, :, 0]

    return glance


def information_view(pages: list[NDArray]) -> NDArray:
    """Information of each cell as the processor measures it, `(pages, cells)`."""
    return np.stack([information_map(page @ GRAY, CELL) for page in pages])


@dataclass(frozen=True)
class Seen:
    """Documents through a view, computed the first time and then kept, for these weights alone.

    Args:
        places: documents, square and of one size.
        view: what is made of them.
        side: in pixels that they are seen at.
        name: of the view.
        tower: whose weights the view depends on, if on any; it must stand still from the first page on.
    """

    places: Sequence[Place]
    view: View
    side: int
    name: str
    tower: nn.Module | None = None
    _loaded: dict[Path, NDArray] = field(default_factory=dict)
    _loading: Lock = field(default_factory=Lock)  # several threads read ahead

    @property
    def rows(self) -> int:
        """Rows of cells of a page."""
        return self.side // CELL

    @property
    def zoom(self) -> float:
        """Pixels seen for each of the document."""
        shard, _ = self.places[0]
        return self.side / shard.pixels.shape[1]

    def page(self, shard: Shard, index: int) -> NDArray:
        """View of a document `(cells, ...)`."""
        with self._loading:
            if shard.folder not in self._loaded:
                self._loaded[shard.folder] = self._load(shard)
        return self._loaded[shard.folder][index]

    def window(self, shard: Shard, index: int, left: int, top: int, cells: int) -> NDArray:
        """View `(cells * cells, ...)` of a square of a page, its place and side in cells."""
        page = self.page(shard, index)
        page = page.reshape(self.rows, self.rows, *page.shape[1:])
        return page[top : top + cells, left : left + cells].reshape(cells**2, *page.shape[2:])

    @cached_property
    def file(self) -> str:
        """Name of the files: of the view, and of the weights that it was computed with."""
        digest = hashlib.sha256()
        for name, values in (self.tower.state_dict() if self.tower is not None else {}).items():
            digest.update(name.encode() + values.float().cpu().numpy().tobytes())
        return f"{self.name}-{self.side}-{digest.hexdigest()[:12]}.npy"

    def _load(self, shard: Shard) -> NDArray:
        path = Path(shard.folder) / self.file
        if not path.exists():
            found = []
            for begin in range(0, len(shard.pixels), _AT_ONCE):
                pages = [enlarged(pixels, self.side) for pixels in shard.pixels[begin : begin + _AT_ONCE]]
                found.append(self.view(pages))
            part = path.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as file:
                np.save(file, np.concatenate(found))
            os.replace(part, path)
        return np.load(path, mmap_mode="r")
