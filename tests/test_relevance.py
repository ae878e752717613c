import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from arrcoc.quadtree import packed_grid
from arrcoc.relevance import (
    attention_scores,
    balance_maps,
    cosine_scores,
    masked_mean,
    normalize_per_image,
    salience_map,
    smooth_map,
    spread_relevance,
    sum_of_neighbors,
)


GRIDS = [(4, 5), (1, 1), (1, 7), (6, 1), (2, 2), (9, 3)]


def packed(seed: int = 0, dim: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Random values of all `GRIDS`, of shape `(cells,)` or `(cells, dim)`; the grids; and the image of each cell."""
    grids = torch.tensor(GRIDS)
    cells = int(grids.prod(1).sum())
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(cells, *([] if dim is None else [dim]), generator=generator)
    return values, grids, torch.repeat_interleave(torch.arange(len(grids)), grids.prod(1))


def pictures(values: Tensor) -> list[np.ndarray]:
    """Packed values as one float64 array of shape `(rows, cols, ...)` an image."""
    parts = values.double().split([rows * cols for rows, cols in GRIDS])
    return [part.view(*grid, *values.shape[1:]).numpy() for part, grid in zip(parts, GRIDS, strict=True)]


def neighborhood_mean(picture: np.ndarray) -> np.ndarray:
    mean = np.zeros_like(picture)
    rows, cols = picture.shape[:2]
    for y in range(rows):
        for x in range(cols):
            near = [
                picture[v, u] for v in (y - 1, y, y + 1) for u in (x - 1, x, x + 1) if 0 <= v < rows and 0 <= u < cols
            ]
            mean[y, x] = sum(near) / len(near)
    return mean


def stretch(values: np.ndarray) -> np.ndarray:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.ones_like(values)


def repack(images: list[np.ndarray]) -> Tensor:
    return torch.cat([torch.from_numpy(image).flatten(0, 1) for image in images]).float()


@pytest.mark.parametrize("dim", [None, 3])
def test_sum_of_neighbors_along_each_axis(dim: int | None) -> None:
    values, grids, _ = packed(dim=dim)
    cells = packed_grid(*grids.unbind(1))
    for axis in (0, 1):
        expected = []
        for picture in pictures(values):
            total = picture.copy()
            first, last = [slice(None)] * 2, [slice(None)] * 2
            first[axis], last[axis] = slice(None, -1), slice(1, None)
            total[tuple(first)] += picture[tuple(last)]
            total[tuple(last)] += picture[tuple(first)]
            expected.append(total)
        torch.testing.assert_close(sum_of_neighbors(values, cells, axis), repack(expected))


@pytest.mark.parametrize("dim", [None, 3])
def test_smooth_map_is_the_mean_of_the_neighborhood_inside_the_grid(dim: int | None) -> None:
    values, grids, _ = packed(dim=dim)
    expected = repack([neighborhood_mean(picture) for picture in pictures(values)])
    torch.testing.assert_close(smooth_map(values, grids), expected)
    torch.testing.assert_close(smooth_map(torch.ones_like(values), grids), torch.ones_like(values))


def test_salience_is_the_distance_from_the_neighborhood() -> None:
    features, grids, _ = packed(dim=5)
    expected = [
        stretch(np.linalg.norm(picture - neighborhood_mean(picture), axis=-1)) for picture in pictures(features)
    ]
    salience = salience_map(features, grids)
    torch.testing.assert_close(salience, repack(expected), atol=1e-5, rtol=1e-5)
    assert salience.min() == 0 and salience.max() == 1
    torch.testing.assert_close(salience_map(features.bfloat16(), grids), salience, atol=0.05, rtol=0.05)
    assert salience_map(features.bfloat16(), grids).dtype == torch.float32


def test_salience_finds_the_odd_cell_out() -> None:
    features = torch.zeros(10, 12, 4)
    features[3, 7] = 1.0
    salience = salience_map(features.view(120, 4), torch.tensor([[10, 12]]))
    assert salience.argmax() == 3 * 12 + 7


@pytest.mark.parametrize("value", [0.0, 0.1, 1.7, -2.345, 1e-20, 3e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_of_equal_cells_has_no_odd_one_out(value: float, dtype: torch.dtype) -> None:
    # Rounding in the mean of a neighbourhood must not be taken for contrast, which is stretched to [0, 1].
    features = (torch.full((35, 8), value) * torch.linspace(0.3, 1, 8)).to(dtype)
    salience = salience_map(features, torch.tensor([[5, 7]]))
    assert torch.equal(salience, torch.ones(35))


def test_normalize_stretches_each_image_by_itself() -> None:
    values, _, image = packed()
    expected = repack([stretch(picture) for picture in pictures(values * 3 + 100)])
    normalized = normalize_per_image(values * 3 + 100, image, len(GRIDS))
    torch.testing.assert_close(normalized, expected, atol=1e-4, rtol=0)
    for index, (rows, cols) in enumerate(GRIDS):
        own = normalized[image == index]
        assert own.max() == 1
        assert own.min() == (1 if rows * cols == 1 else 0)
    assert torch.equal(normalize_per_image(torch.full((len(image),), -7.3), image, len(GRIDS)), torch.ones(len(image)))


def test_masked_mean_takes_the_tokens_of_the_question_alone() -> None:
    values = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])
    mean = masked_mean(values, mask)
    torch.testing.assert_close(mean[0], values[0].mean(0))
    torch.testing.assert_close(mean[1], (values[1, 0] + values[1, 2]) / 2)
    assert torch.equal(mean[2], torch.zeros(2, 5))


def question_and_mask(dim: int, tokens: int = 6) -> tuple[Tensor, Tensor]:
    """Random embeddings of one question an image, of shape `(images, tokens, dim)`, the third one empty."""
    question = torch.randn(len(GRIDS), tokens, dim, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(len(GRIDS), tokens, dtype=torch.long)
    mask[0, 4:] = 0
    mask[1, :3] = 0
    mask[2] = 0
    return question, mask


def test_cosine_scores_are_the_mean_cosine() -> None:
    features, _, image = packed(dim=8)
    question, mask = question_and_mask(8)
    scores = cosine_scores(features, question, mask, image)
    for cell in range(len(features)):
        tokens = question[image[cell]][mask[image[cell]].bool()]
        expected = F.cosine_similarity(features[cell][None], tokens).mean() if len(tokens) else torch.tensor(0.0)
        torch.testing.assert_close(scores[cell], expected)
    low = cosine_scores(features.bfloat16(), question.bfloat16(), mask, image)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, scores, atol=0.02, rtol=0)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_attention_scores_are_the_mean_over_heads_of_unit_maps(heads: int, key_heads: int) -> None:
    dim = 5
    keys, _, image = packed(dim=key_heads * dim)
    keys = keys.view(-1, key_heads, dim)
    question, mask = question_and_mask(heads * dim)
    query = question.view(len(GRIDS), -1, heads, dim)
    scores = attention_scores(query, keys, mask, image)
    for index in range(len(GRIDS)):
        own = keys[image == index]
        expected = torch.zeros(len(own))
        tokens = mask[index].nonzero()[:, 0].tolist()
        for head in range(heads if tokens else 0):
            key = own[:, head // (heads // key_heads)]  # consecutive heads share a key, as in repeat_kv
            logits = sum(key @ query[index, token, head] for token in tokens) / len(tokens) / math.sqrt(dim)
            expected += logits / torch.linalg.vector_norm(logits) / heads
        torch.testing.assert_close(scores[image == index], expected)


@pytest.mark.parametrize("scorer", ["cosine", "attention"])
def test_padding_of_a_question_and_other_images_have_no_say(scorer: str) -> None:
    features, _, image = packed(dim=8)
    question, mask = question_and_mask(8)

    def score(question: Tensor, mask: Tensor, cells: Tensor, image: Tensor) -> Tensor:
        if scorer == "cosine":
            return cosine_scores(cells, question, mask, image)
        return attention_scores(question.unflatten(-1, (4, 2)), cells.unflatten(-1, (2, 4)[::-1]), mask, image)

    expected = score(question, mask, features, image)
    garbage = torch.where(mask[..., None] == 1, question, torch.tensor(1e4))
    torch.testing.assert_close(score(garbage, mask, features, image), expected)
    longer = F.pad(question, (0, 0, 0, 3), value=7.0), F.pad(mask, (0, 3))
    torch.testing.assert_close(score(*longer, features, image), expected)
    for index in range(len(GRIDS)):
        own = image == index
        alone = score(
            question[index : index + 1], mask[index : index + 1], features[own], torch.zeros_like(image[own])
        )
        torch.testing.assert_close(alone, expected[own])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_features_and_empty_questions_give_neither_nan_nor_preference(dtype: torch.dtype) -> None:
    _, grids, image = packed()
    question, mask = question_and_mask(16)
    empty = torch.zeros_like(mask)
    for value in (0.0, 0.1, -3.7):
        cells = torch.full((len(image), 16), value, dtype=dtype)
        for mask_ in (mask, empty):
            for scores in (
                cosine_scores(cells, question.to(dtype), mask_, image),
                attention_scores(question.to(dtype).unflatten(-1, (4, 4)), cells.unflatten(-1, (4, 4)), mask_, image),
            ):
                assert torch.isfinite(scores).all()
                normalized = normalize_per_image(scores, image, len(grids))
                assert torch.equal(normalized, torch.ones(len(image)))


def test_balance_is_the_smoothed_weighted_geometric_mean() -> None:
    values, grids, _ = packed(seed=3, dim=3)
    maps = dict(zip(("information", "salience", "query"), values.sigmoid().unbind(1), strict=True))
    weights = {"information": 1.0, "salience": 0.5, "query": 2.0}
    expected = []
    for a, b, c in zip(*(pictures(map_) for map_ in maps.values()), strict=True):
        mean = neighborhood_mean((a**1.0 * b**0.5 * c**2.0) ** (1 / 3.5))
        expected.append(0.1 + 0.9 * mean / mean.max())
    relevance = balance_maps(maps, weights, 0.1, grids)
    torch.testing.assert_close(relevance, repack(expected))
    reordered = balance_maps(dict(reversed(maps.items())), weights, 0.1, grids)
    torch.testing.assert_close(reordered, relevance)


@pytest.mark.parametrize("floor", [1e-6, 0.05, 0.3, 1.0])
def test_relevance_lies_between_the_floor_and_one(floor: float) -> None:
    values, grids, image = packed(seed=4, dim=2)
    maps = {"information": (values[:, 0] > 0.5).float(), "query": values[:, 1].sigmoid()}
    relevance = balance_maps(maps, {"information": 1.0, "query": 1.0}, floor, grids)
    assert relevance.dtype == torch.float32
    assert relevance.min() >= floor * (1 - 1e-6) and relevance.max() <= 1
    for index in range(len(GRIDS)):
        assert float(relevance[image == index].max()) == pytest.approx(1)


def test_a_map_of_weight_zero_has_no_say() -> None:
    values, grids, image = packed(seed=5, dim=2)
    maps = {"information": values[:, 0].sigmoid(), "query": values[:, 1].sigmoid()}
    alone = balance_maps({"information": maps["information"]}, {"information": 1.0}, 0.05, grids)
    assert torch.equal(balance_maps(maps, {"information": 0.7, "query": 0.0}, 0.05, grids), alone)
    ones = torch.ones(len(image))
    assert torch.equal(balance_maps(maps, {"information": 0.0, "query": 0.0}, 0.05, grids), ones)
    assert torch.equal(balance_maps({}, {"information": 1.0, "query": 1.0}, 0.05, grids), ones)


def test_an_image_whose_maps_are_zero_is_relevant_everywhere() -> None:
    _, grids, image = packed()
    nothing = balance_maps({"query": torch.zeros(len(image))}, {"query": 1.0}, 0.05, grids)
    assert torch.equal(nothing, torch.ones(len(image)))


def test_relevance_of_an_image_does_not_depend_on_the_batch() -> None:
    values, grids, image = packed(seed=6, dim=2)
    maps = {"information": values[:, 0].sigmoid(), "query": values[:, 1].sigmoid()}
    weights = {"information": 1.0, "query": 2.0}
    together = balance_maps(maps, weights, 0.05, grids)
    for index in range(len(GRIDS)):
        own = {name: map_[image == index] for name, map_ in maps.items()}
        assert torch.equal(balance_maps(own, weights, 0.05, grids[index : index + 1]), together[image == index])


def spread_by_loops(picture: Tensor, reach: float) -> Tensor:
    """`spread_relevance` of one image, of shape `(rows, cols)`, cell by cell."""
    rows, cols = picture.shape
    places = [(y, x) for y in range(rows) for x in range(cols)]
    means = []
    for y, x in places:
        weights = [math.exp(-abs(x - u) / reach - 3 * abs(y - v) / reach) for v, u in places]
        total = sum(weight * picture[place] for weight, place in zip(weights, places, strict=True))
        means.append(total / sum(weights))
    spread = torch.stack(means)
    return spread / spread.max()


@pytest.mark.parametrize("reach", [0.05, 0.7, 1.0, 4.0])
def test_relevance_spreads_to_the_cells_around(reach: float) -> None:
    values, grids, image = packed(seed=3)
    slow, fast = (values.double().sigmoid().requires_grad_() for _ in range(2))
    parts = slow.split(grids.prod(1).tolist())
    expected = torch.cat([spread_by_loops(part.view(*grid), reach) for part, grid in zip(parts, GRIDS, strict=True)])
    found = spread_relevance(fast, grids, reach)
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)
    weights = torch.linspace(-1, 1, len(values))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert slow.grad is not None
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-5, atol=1e-7)
    for index in range(len(GRIDS)):
        own = found[image == index]
        assert own.max() == 1 and own.min() >= parts[index].min() / parts[index].max() - 1e-6
        alone = spread_relevance(fast[image == index], grids[index : index + 1], reach)
        assert torch.equal(alone, own), "what lies beside an image in the batch has no say"


def test_relevance_spreads_further_along_a_line_than_across() -> None:
    relevance = torch.full((7, 9), 1e-4)
    relevance[3, 4] = 1.0
    spread = spread_relevance(relevance.flatten(), torch.tensor([[7, 9]]), 1.0).view(7, 9)
    assert spread[3, 4] == 1
    assert spread[3, 4] > spread[3, 5] > spread[3, 6] > spread[2, 4] > spread[2, 5]
    torch.testing.assert_close(spread, spread.flip(0))
    torch.testing.assert_close(spread, spread.flip(1))
    near = spread_relevance(relevance.flatten(), torch.tensor([[7, 9]]), 1e-3).view(7, 9)
    assert torch.equal(near, relevance), "next to no reach is none"
