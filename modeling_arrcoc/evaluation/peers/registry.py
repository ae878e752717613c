"""The methods that ARR-COC is compared with, by name, and their images encoded for the language model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arrcoc.allocation import uniform_allocation
from arrcoc.encoding_arrcoc import change_image_features
from arrcoc.outputs import Allocation, ArrCocImageFeatures
from arrcoc.pooling import pool_leaves

from . import selection
from .host import EncodedCells, encode_cells


# From encoded cells to the cell that each cell is merged into, `(images, cells)`: its own index if it is kept, -1 if
# it is dropped or padding.
Choice = Callable[..., Tensor]


@dataclass(frozen=True)
class Peer:
    """A method to compare with.

    Attributes:
        name (`str`): its key in `PEERS`.
        stage (`str`): where it works: on the `"image"` before the processor, on the tower's `"features"`, or in layers
            of the `"language_model"`.
        asks (`bool`): whether it reads the question.
        source (`str`): where it is published.
        choose (`Callable`, *optional*): its choice of cells, in stage `"features"`.
    """

    name: str
    stage: str
    asks: bool
    source: str
    choose: Choice | None = None


def _kept(kept: Tensor) -> Tensor:
    """Heads of cells that are kept or dropped: `(images, cells)` bool to int."""
    own = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    return torch.where(kept, own, -1)


def _random(cells: EncodedCells, seeds: int | Sequence[int] = 0) -> Tensor:
    return _kept(selection.random_cells(cells.mask, cells.budgets, seeds))


def _visionzip(cells: EncodedCells, **options: Any) -> Tensor:
    return selection.visionzip(cells.attention, cells.keys, cells.mask, cells.budgets, **options)


def _divprune(cells: EncodedCells) -> Tensor:
    return _kept(selection.divprune(cells.features, cells.mask, cells.budgets))


def _cdpruner(cells: EncodedCells, **options: Any) -> Tensor:
    relevance = selection.question_relevance(cells.features, cells.question, cells.question_mask)
    return _kept(selection.cdpruner(cells.features, relevance, cells.mask, cells.budgets, **options))


def _hawk(cells: EncodedCells) -> Tensor:
    return _kept(selection.top_cells(cells.hawk, cells.mask, cells.budgets))


def _mmtok(cells: EncodedCells, **options: Any) -> Tensor:
    question = (cells.question, cells.question_mask)
    return _kept(
        selection.mmtok(cells.features, cells.tower_features, *question, cells.mask, cells.budgets, **options)
    )


def _scope(cells: EncodedCells, **options: Any) -> Tensor:
    return _kept(selection.scope(cells.features, cells.attention, cells.mask, cells.budgets, **options))


def _idpruner(cells: EncodedCells, scores: str | Tensor = "hawk", balance: float = 0.5) -> Tensor:
    """`scores`: `"hawk"` or `"attention"`, or a `Tensor` of shape `(cells of all images,)`."""
    if isinstance(scores, Tensor):
        if len(scores) != sum(cells.counts):
            raise ValueError(f"found {len(scores)} scores for {sum(cells.counts)} cells")
        importance = selection.pad_images(scores.to(cells.features.device), cells.counts)
    elif scores in ("hawk", "attention"):
        importance = getattr(cells, scores)
    else:
        raise ValueError(f'scores must be "hawk", "attention" or a tensor, got {scores!r}')
    return _kept(selection.idpruner(cells.features, importance, cells.mask, cells.budgets, balance))


PEERS = {
    peer.name: peer
    for peer in (
        Peer("resize", "image", False, "control: the picture is resized until it has that many tokens"),
        Peer("random", "features", False, "control: random cells", _random),
        Peer("pooling", "features", False, "control: means over equal blocks of cells"),
        Peer(
            "visionzip", "features", False, "Yang et al., CVPR 2025; github.com/dvlab-research/VisionZip", _visionzip
        ),
        Peer("divprune", "features", False, "Alvar et al., CVPR 2025; github.com/vbdi/divprune", _divprune),
        Peer("cdpruner", "features", True, "Zhang et al., NeurIPS 2025; github.com/Theia-4869/CDPruner", _cdpruner),
        Peer("hawk", "features", True, "github.com/peppery77/HAWK", _hawk),
        Peer("mmtok", "features", True, "Dong et al., 2025, arXiv:2508.18264", _mmtok),
        Peer("scope", "features", False, "Deng et al., 2025; AngelSlim, algorithm/scope.py", _scope),
        Peer("idpruner", "features", True, "AngelSlim, algorithm/idpruner.py, with a given score", _idpruner),
        Peer("fastv", "language_model", True, "Chen et al., ECCV 2024; github.com/pkunlp-icler/FastV"),
        Peer("sparsevlm", "language_model", True, "Zhang et al., ICML 2025; github.com/Gumpest/SparseVLMs"),
    )
}


def find_peer(name: str, stage: str) -> Peer:
    """The peer of this name.

    Raises:
        ValueError: if there is none that works at `stage`.
    """
    names = [peer.name for peer in PEERS.values() if peer.stage == stage]
    if name not in names:
        raise ValueError(f"found peer {name!r}; those that work on {stage!r} are {names}")
    return PEERS[name]


def merged_allocation(heads: Tensor, grids: Tensor) -> Allocation:
    """The allocation of cells that were kept, merged into others or dropped.

    A token has the position of the cell that was kept, whatever was merged into it.

    Args:
        heads (`Tensor` of shape `(images, cells)`): the cell that each cell is merged into, -1 for none.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
    """
    counts = grids.prod(1)
    mask = selection.image_mask(counts)
    own = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    is_head = mask & (heads == own)
    number = (is_head.flatten().cumsum(0) - 1).view_as(heads)  # leaves are numbered across the batch
    leaf = torch.where(heads >= 0, number.gather(1, heads.clamp(min=0)), -1)
    corner = torch.stack([own // grids[:, 1:], own % grids[:, 1:]], -1)[is_head]  # (leaves, 2)
    return Allocation(
        grids=grids,
        budgets=is_head.sum(1),
        cell_to_leaf=leaf[mask],
        boxes=torch.cat([corner, corner + 1], 1),
        relevance=torch.ones(int(counts.sum()), device=grids.device),
        position_scale=torch.ones(len(grids), device=grids.device),
    )


@torch.no_grad()
def peer_features(
    model: Any,
    inputs: Mapping[str, Any],
    name: str,
    budgets: Tensor | None = None,
    cells: EncodedCells | None = None,
    **options: Any,
) -> ArrCocImageFeatures:
    """Encode images as a published method does, with exactly the budgeted number of tokens.

    The stock tower encodes all cells; the method keeps some of them. Kept cells have their native positions, and their
    rows of DeepStack features; where a method merges cells, DeepStack features are merged alike.

    ```python
    inputs = processor(images=images, text=text, token_budget=100, return_tensors="pt")
    model.generate(**inputs, encoded_images=peer_features(model, inputs, "divprune"))
    ```

    Args:
        model: an ARR-COC model with a language-modelling head.
        inputs: the processor's output.
        name (`str`): a peer of stage `"features"`.
        budgets (`Tensor` of shape `(images,)`, *optional*): tokens of each image; `inputs["image_token_budgets"]` if
            not given.
        cells ([`EncodedCells`], *optional*): the images as `encode_cells` returned them, under any budgets; encoded
            here if not given.
        **options: of the method, see [`selection`].

    Returns:
        [`ArrCocImageFeatures`], for `generate(encoded_images=...)` or `mm_encoder_outputs={"image": ...}`.

    Raises:
        ValueError: if there is no such method or there are no images, or a budget lies outside 1 to an image's cells.
    """
    peer = find_peer(name, "features")
    if budgets is None:
        budgets = inputs.get("image_token_budgets")
    if budgets is None:
        raise ValueError("found no `image_token_budgets`; the processor returns them if called with a `token_budget`")
    cells = encode_cells(model, inputs, budgets) if cells is None else cells.with_budgets(budgets)
    if peer.choose is None:
        allocation = uniform_allocation(cells.grids, cells.budgets)
    else:
        allocation = merged_allocation(peer.choose(cells, **options), cells.grids)
    weights = torch.ones_like(allocation.relevance)
    return change_image_features(
        cells.encoded,
        allocation,
        lambda features, layer: pool_leaves(features, weights, allocation.cell_to_leaf, len(allocation.boxes)),
    )
