from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from arrcoc import Allocation, ArrCocConfig, allocate
from arrcoc.positions import leaf_position_ids
from tests.allocation.reference import rope_positions
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import HOSTS, MERGE_SIZE, TOKEN_IDS


Rows = list[list[tuple[int, int]]]
RopeIndex = Callable[..., tuple[Tensor, Tensor]]

BATCHES: list[Rows] = [
    [[(3, 5)]],
    [[(4, 4), (2, 7)], [(1, 1)]],
    [[(6, 2)], [], [(5, 5), (1, 9), (3, 3)]],  # the second prompt is text only
]


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def get_rope_index(host: str) -> RopeIndex:
    return tiny_stock_model(host).model.get_rope_index


def allocate_rows(rows: Rows, budgets: list[int], **options: Any) -> Allocation:
    """Random leaves for the images of a batch."""
    grids = torch.tensor([grid for row in rows for grid in row])
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(int(grids.prod(1).sum()), 4, generator=generator)
    config = ArrCocConfig(**options)
    return allocate(features, torch.ones(len(features)), grids, torch.tensor(budgets), config)


def positions_of(
    get_rope_index: RopeIndex, allocation: Allocation, inputs: dict[str, Tensor], **changes: Any
) -> tuple[Tensor, Tensor]:
    arguments = {name: inputs[name] for name in ("input_ids", "mm_token_type_ids", "attention_mask")}
    return leaf_position_ids(
        get_rope_index,
        allocation,
        image_token_id=TOKEN_IDS["<|image_pad|>"],
        spatial_merge_size=MERGE_SIZE,
        **{**arguments, **changes},
    )


def some_budgets(rows: Rows) -> list[int]:
    return [max(1, cells * 2 // 5) for cells in native_budgets(rows)]


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_native_budget_has_the_stock_positions(
    get_rope_index: RopeIndex, host: str, rows: Rows, padding_side: str
) -> None:
    inputs = random_inputs(host, rows, native_budgets(rows), padding_side=padding_side)
    allocation = allocate_rows(rows, native_budgets(rows))
    positions, deltas = positions_of(get_rope_index, allocation, inputs)
    expected, expected_deltas = get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    assert positions.dtype == torch.float32
    assert torch.equal(positions, expected.float())
    assert torch.equal(deltas, expected_deltas)
    without_padding = random_inputs(host, rows[:1], native_budgets(rows[:1]))
    alone = positions_of(get_rope_index, allocate_rows(rows[:1], native_budgets(rows[:1])), without_padding)
    no_mask = positions_of(
        get_rope_index, allocate_rows(rows[:1], native_budgets(rows[:1])), without_padding, attention_mask=None
    )
    assert torch.equal(no_mask[0], alone[0]) and torch.equal(no_mask[1], alone[1])


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("policy", ["lod", "foveated", "uniform", "topk"])
@pytest.mark.parametrize("position_scale", ["native", "matched"])
def test_compressed_positions_are_the_walk_along_the_prompt(
    get_rope_index: RopeIndex, host: str, rows: Rows, padding_side: str, policy: str, position_scale: str
) -> None:
    budgets = some_budgets(rows)
    allocation = allocate_rows(rows, budgets, policy=policy, position_scale=position_scale)
    inputs = random_inputs(host, rows, budgets, padding_side=padding_side)
    positions, deltas = positions_of(get_rope_index, allocation, inputs)
    image = 0
    for index, row in enumerate(rows):
        images = []
        for grid in row:
            one = allocation.image(image)
            image += 1
            scale = float(one.position_scale)
            centers = [
                ((top + bottom) / 2 / scale - 0.5, (left + right) / 2 / scale - 0.5)
                for top, left, bottom, right in one.boxes.tolist()
            ]
            extent = -(-round(grid[0] / scale, 4) // 1), -(-round(grid[1] / scale, 4) // 1)
            images.append((extent, centers))
        kept = inputs["attention_mask"][index].bool()
        expected, delta = rope_positions(inputs["mm_token_type_ids"][index][kept].tolist(), images)
        by_hand = torch.tensor(expected, dtype=torch.float32).T  # (3, tokens)
        torch.testing.assert_close(positions[:, index, kept], by_hand, atol=1e-5, rtol=0)
        assert float(deltas[index]) == delta


def test_leaves_lie_at_their_centres(get_rope_index: RopeIndex, host: str) -> None:
    # By hand: a 4 x 4 image that starts at position 4, after three tokens of text and the one that opens an image, and
    # after which the text goes on at 8.
    boxes = [[0, 0, 2, 2], [0, 2, 2, 3], [0, 3, 2, 4], [2, 0, 3, 4], [3, 0, 4, 1], [3, 1, 4, 4]]
    cell_to_leaf = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 2], [3, 3, 3, 3], [4, 5, 5, 5]]).flatten()
    allocation = replace(
        allocate_rows([[(4, 4)]], [6]), boxes=torch.tensor(boxes), cell_to_leaf=cell_to_leaf, budgets=torch.tensor([6])
    )
    inputs = random_inputs(host, [[(4, 4)]], [6], text_length=2)
    positions, deltas = positions_of(get_rope_index, allocation, inputs)
    assert positions[0, 0].tolist() == [0, 1, 2, 3] + [4] * 6 + [8, 9, 10]
    assert positions[1, 0].tolist() == [0, 1, 2, 3, 4.5, 4.5, 4.5, 6, 7, 7, 8, 9, 10]
    assert positions[2, 0].tolist() == [0, 1, 2, 3, 4.5, 6, 7, 5.5, 4, 6, 8, 9, 10]
    assert deltas.tolist() == [[11 - 13]]


def test_matched_positions_are_those_of_the_smaller_picture(get_rope_index: RopeIndex, host: str) -> None:
    # Leaves of 2 x 2 cells: exactly the stock positions of the image at half its size.
    rows, smaller = [[(4, 6), (8, 2)], [(2, 4)]], [[(2, 3), (4, 1)], [(1, 2)]]
    budgets = native_budgets(smaller)
    allocation = allocate_rows(rows, budgets, policy="uniform", position_scale="matched")
    inputs = random_inputs(host, smaller, budgets)
    positions, deltas = positions_of(get_rope_index, allocation, inputs)
    expected, expected_deltas = get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    assert torch.equal(positions, expected.float())
    assert torch.equal(deltas, expected_deltas)


@pytest.mark.parametrize(
    ("grid", "smaller"),
    [((8, 8), (7, 7)), ((8, 16), (7, 14)), ((12, 12), (9, 9)), ((24, 48), (5, 10)), ((96, 128), (84, 112))],
)
def test_matched_text_goes_on_after_the_smaller_picture_whatever_the_ratio(
    get_rope_index: RopeIndex, host: str, grid: tuple[int, int], smaller: tuple[int, int]
) -> None:
    budgets = [smaller[0] * smaller[1]]
    allocation = allocate_rows([[grid]], budgets, policy="uniform", position_scale="matched")
    inputs = random_inputs(host, [[grid]], budgets, text_length=1)
    positions, _ = positions_of(get_rope_index, allocation, inputs)
    assert positions[:, 0, -1].tolist() == [4 + max(smaller) + 1] * 3


def test_a_prompt_may_end_with_an_image(get_rope_index: RopeIndex, host: str) -> None:
    # The first row ends in a placeholder and is the shorter one once its image has its native count again.
    image = TOKEN_IDS["<|image_pad|>"]
    input_ids = torch.tensor([[1, 2, 3, image, image, image], [1, 2, image, image, image, 3]])
    inputs = {
        "input_ids": input_ids,
        "mm_token_type_ids": (input_ids == image).long(),
        "attention_mask": torch.ones_like(input_ids),
    }
    boxes = torch.tensor([[0, 0, 1, 2], [1, 0, 2, 1], [1, 1, 2, 2], [0, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4]])
    allocation = replace(allocate_rows([[(2, 2)], [(4, 4)]], [3, 3]), boxes=boxes)
    positions, deltas = positions_of(get_rope_index, allocation, inputs)
    assert positions[0].tolist() == [[0, 1, 2, 3, 3, 3], [0, 1, 2, 2, 2, 6]]
    assert positions[1].tolist() == [[0, 1, 2, 3, 4, 4], [0, 1, 3.5, 2.5, 4.5, 6]]
    assert positions[2].tolist() == [[0, 1, 2, 3.5, 3, 4], [0, 1, 2.5, 4.5, 4.5, 6]]
    assert deltas.tolist() == [[5 - 6], [7 - 6]]


def test_one_placeholder_too_few_or_too_many_is_refused(get_rope_index: RopeIndex, host: str) -> None:
    rows: Rows = [[(4, 4), (2, 7)], [(3, 3)]]
    inputs = random_inputs(host, rows, [5, 6, 4])
    for wrong in ([5, 6, 3], [5, 7, 4]):
        with pytest.raises(ValueError, match=f"found 15 image placeholders .* for {sum(wrong)} visual tokens"):
            positions_of(get_rope_index, allocate_rows(rows, wrong), inputs)


def test_placeholders_that_belong_to_other_images_are_refused(get_rope_index: RopeIndex, host: str) -> None:
    rows: Rows = [[(4, 4), (2, 7)], [(3, 3)]]
    inputs = random_inputs(host, rows, [5, 6, 4])
    for wrong in ([6, 5, 4], [5, 5, 5]):
        with pytest.raises(ValueError):
            positions_of(get_rope_index, allocate_rows(rows, wrong), inputs)


def test_inputs_are_left_as_they_are(get_rope_index: RopeIndex, host: str) -> None:
    rows: Rows = [[(4, 4)], [(3, 3)]]
    inputs = random_inputs(host, rows, [5, 4])
    before = {name: value.clone() for name, value in inputs.items()}
    positions_of(get_rope_index, allocate_rows(rows, [5, 4]), inputs)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())
