"""Policies that need no weights: where tokens go by the pixels alone, measured by the coverage of evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from arrcoc.allocation import allocate
from arrcoc.cli.inspect import HOSTS, lightness, resized_pixels, thumbnail_features
from arrcoc.cli.location_prior import location_prior
from arrcoc.configuration_arrcoc import ArrCocConfig
from arrcoc.outputs import Allocation
from arrcoc.processing.budgets import resolve_token_budgets
from arrcoc.processing.information import image_compression_ratio, information_map
from arrcoc.relevance import balance_maps
from arrcoc.training.data.rows import Row

from .coverage import Coverage, evidence_coverage, resized_coverage
from .leaves import leaves_of
from .peers import resized_grid
from .policies import ARRCOC, NATIVE, OWN_POLICIES, Answer, Condition
from .tasks import Task, image_key


WEIGHTLESS_POLICIES = (ARRCOC, *(f"{ARRCOC}-{name}" for name in OWN_POLICIES), "resize")


@dataclass(frozen=True)
class _Page:
    """What an image's pixels say; arguments of `allocate`.

    Attributes:
        grid (`tuple[int, int]`): rows and columns of cells.
        features (`Tensor` of shape `(cells, dim)`): what distortion is measured on.
        information (`Tensor` of shape `(cells,)`): in [0, 1].
        ratio (`float`): by how much it may be compressed.
    """

    grid: tuple[int, int]
    features: Tensor
    information: Tensor
    ratio: float


class WeightlessPolicies:
    """Places tokens by pixels; no question is answered, so that the score is the coverage of evidence.

    `arrcoc` weighs information with the place words of the question, as `arrcoc inspect` does; `arrcoc-lod` and the
    other policies of ARR-COC go by information alone, and so read no question. `resize` sees every cell equally.

    Args:
        host (`str`): whose cells, a key of `arrcoc.cli.inspect.HOSTS`.
        seed (`int`): of the random policy.

    Raises:
        ValueError: if there is no such host.
    """

    allowed = WEIGHTLESS_POLICIES

    def __init__(self, host: str = "qwen3_vl", seed: int = 0) -> None:
        if host not in HOSTS:
            raise ValueError(f"found host {host!r}; expected one of {sorted(HOSTS)}")
        self.host, self.seed = host, seed
        self._last: tuple[Any, list[_Page]] = (None, [])
        self._placed: dict[tuple[int, str, int], Allocation] = {}

    def answers(
        self, task: Task, rows: Sequence[Row], wanted: Sequence[Condition]
    ) -> Iterator[tuple[Condition, list[Answer]]]:
        """Place tokens for a batch of questions under each condition in turn.

        Raises:
            OSError, ValueError: if an image cannot be read, or a row has no evidence.
        """
        for row in rows:
            if not row.evidence or not any(row.evidence):
                raise ValueError(f"row {row.id!r} has no evidence")
        found = [[self._answer(row, condition) for condition in wanted] for row in rows]
        for index, condition in enumerate(wanted):
            yield condition, [answers[index] for answers in found]

    def _pages(self, row: Row) -> list[_Page]:
        """Of a row's images; kept for the next row, which often asks about the same ones."""
        key = image_key(row)
        if self._last[0] != key:
            self._placed.clear()
            self._last = key, [self._page(image) for image in row.decoded().images]
        return self._last[1]

    def _page(self, image: Any) -> _Page:
        pixels = resized_pixels(image, self.host)
        gray = lightness(pixels)
        return _Page(
            grid=(pixels.shape[0], pixels.shape[1]),
            features=torch.from_numpy(thumbnail_features(pixels)),
            information=torch.from_numpy(information_map(gray, pixels.shape[-1])),
            ratio=image_compression_ratio(gray),
        )

    def _answer(self, row: Row, condition: Condition) -> Answer:
        pages = self._pages(row)
        native = [page.grid[0] * page.grid[1] for page in pages]
        ratios = [page.ratio for page in pages]
        budgets = resolve_token_budgets(condition.budget, native, [row.question] * len(pages), ratios) or native
        sizes, tokens, parts, leaves = row.image_sizes(), 0, [], []
        for index, (page, budget) in enumerate(zip(pages, budgets, strict=True)):
            boxes = row.evidence[index] if row.evidence else None
            if condition.policy in ("resize", NATIVE):
                grid = resized_grid(page.grid, budget)
                tokens += grid[0] * grid[1]
                if boxes:
                    parts.append(resized_coverage(page.grid, grid, boxes, sizes[index], row.evidence_mode))
                continue
            allocation = self._allocation(index, page, budget, condition.policy, row.question)
            tokens += budget
            if boxes:
                parts.append(evidence_coverage(allocation, boxes, sizes[index], row.evidence_mode))
            if condition.policy == ARRCOC:
                leaves.append(leaves_of(allocation))
        coverage = Coverage(
            sum(part.full_detail for part in parts) / len(parts), sum(part.resolution for part in parts) / len(parts)
        )
        return Answer("", True, tokens, sum(native), 0.0, coverage, leaves)

    def _allocation(self, index: int, page: _Page, budget: int, policy: str, question: str) -> Allocation:
        """Of the `index`-th image of the last row; what reads no question is kept for the next one."""
        key = (index, policy, budget)
        if policy != ARRCOC and key in self._placed:
            return self._placed[key]
        reads = policy == ARRCOC
        block = ArrCocConfig(policy="lod" if reads else policy.partition("-")[2], seed=self.seed)
        maps, grids = {"information": page.information}, torch.tensor([page.grid])
        if reads:
            maps["query"] = torch.from_numpy(location_prior(question, page.grid)).flatten()
        relevance = balance_maps(maps, block.map_weights, block.relevance_floor, grids)
        allocation = allocate(page.features, relevance, grids, torch.tensor([budget]), block)
        allocation = replace(allocation, maps=maps)
        if not reads:
            self._placed[key] = allocation
        return allocation
