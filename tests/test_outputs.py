from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from arrcoc import Allocation, ArrCocConfig, allocate
from arrcoc.outputs import ArrCocCausalLMOutputWithPast, ArrCocImageFeatures


GRIDS = torch.tensor([[4, 6], [1, 1], [3, 3]])
BUDGETS = torch.tensor([7, 1, 4])


def make_allocation(policy: str = "lod") -> Allocation:
    generator = torch.Generator().manual_seed(0)
    features, relevance = torch.randn(34, 4, generator=generator), torch.rand(34, generator=generator) + 0.05
    allocation = allocate(features, relevance, GRIDS, BUDGETS, ArrCocConfig(policy=policy))
    return replace(allocation, maps={"information": relevance / 2, "query": relevance / 3})


def test_shapes_of_leaves() -> None:
    boxes = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3], [4, 4, 12, 12], [5, 0, 6, 4]])
    allocation = replace(make_allocation(), boxes=boxes)
    assert allocation.sizes.tolist() == [[1, 1], [2, 2], [8, 8], [1, 4]]
    assert allocation.levels.tolist() == [0, 1, 3, 1]
    assert allocation.centers.tolist() == [[0, 0], [0.5, 1.5], [7.5, 7.5], [5, 1.5]]


def test_of_a_pair_with_a_window_no_more_is_drawn() -> None:
    boxes = torch.tensor([[0, 0, 1, 1], [3, 2, 5, 3], [4, 4, 6, 5]])
    allocation = replace(make_allocation(), boxes=boxes, windows=torch.tensor([-1.0, 0.25, -1.0]))
    assert allocation.drawn.tolist() == [[0, 0, 1, 1], [3.25, 2, 4.25, 3], [4, 4, 6, 5]]
    assert allocation.levels.tolist() == [0, 0, 0.5]
    assert allocation.centers.tolist() == [[0, 0], [3.25, 2], [4.5, 4]]
    assert allocation.sizes.tolist() == [[1, 1], [2, 1], [2, 1]]  # what it stands for is still both cells


@pytest.mark.parametrize("policy", ["lod", "foveated", "topk"])
def test_images_of_a_batch(policy: str) -> None:
    allocation = make_allocation(policy)
    assert len(allocation) == 3
    assert allocation.cells_per_image.tolist() == [24, 1, 9]
    cells, leaves = [0, 24, 25, 34], [0, 7, 8, 12]
    for index in range(3):
        one = allocation.image(index)
        assert len(one) == 1
        assert torch.equal(one.grids[0], GRIDS[index]) and torch.equal(one.budgets[0], BUDGETS[index])
        own_cells = slice(cells[index], cells[index + 1])
        assert torch.equal(one.boxes, allocation.boxes[leaves[index] : leaves[index + 1]])
        shift = torch.where(allocation.cell_to_leaf[own_cells] < 0, 0, leaves[index])
        assert torch.equal(one.cell_to_leaf + shift, allocation.cell_to_leaf[own_cells])
        for name in ("information", "query"):
            assert torch.equal(one.maps[name], allocation.maps[name][own_cells])
            assert torch.equal(one.map(name), allocation.maps[name][own_cells].view(*GRIDS[index].tolist()))
        assert torch.equal(one.map("relevance").flatten(), allocation.relevance[own_cells])
        assert torch.equal(one.position_scale, allocation.position_scale[index : index + 1])


def test_what_learned_budgets_and_depths_add() -> None:
    allocation = make_allocation()
    names = ("windows", "depths", "placeholders", "expected_tokens", "tier_probabilities")
    for found in (allocation, allocation.image(1), allocation.to("cpu")):
        assert all(getattr(found, name) is None for name in names)
    shapes = ((12,), (12,), (3,), (3,), (3, 5))
    values = {name: torch.rand(shape) for name, shape in zip(names, shapes, strict=True)}
    allocation = replace(allocation, **values)
    leaves = [0, 7, 8, 12]
    for index in range(3):
        one = allocation.image(index)
        for name in names[:2]:
            assert torch.equal(getattr(one, name), values[name][leaves[index] : leaves[index + 1]])
        for name in names[2:]:
            assert torch.equal(getattr(one, name), values[name][index : index + 1])
    assert all(getattr(allocation.to("meta"), name).device.type == "meta" for name in names)


def test_what_is_not_there_is_named() -> None:
    allocation = make_allocation()
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"image {index} .* holds 3 images"):
            allocation.image(index)
    with pytest.raises(ValueError, match="holds 3"):
        allocation.map("query")
    with pytest.raises(KeyError, match=r"'salience'.*\['information', 'query', 'relevance'\]"):
        allocation.image(0).map("salience")


def test_position_scale_of_leaves() -> None:
    allocation = replace(make_allocation(), position_scale=torch.tensor([1.0, 2.0, 3.0]))
    assert allocation.leaf_scale.tolist() == [1] * 7 + [2] + [3] * 4


def test_to_moves_everything_and_changes_nothing() -> None:
    allocation = make_allocation()
    moved = allocation.to("meta")
    for name in ("grids", "budgets", "cell_to_leaf", "boxes", "relevance", "position_scale"):
        assert getattr(moved, name).device.type == "meta"
        assert torch.equal(getattr(allocation.to("cpu"), name), getattr(allocation, name))
    assert {name: values.device.type for name, values in moved.maps.items()} == {
        "information": "meta",
        "query": "meta",
    }


def test_an_allocation_cannot_be_changed_by_accident() -> None:
    with pytest.raises(FrozenInstanceError):
        make_allocation().budgets = BUDGETS


def test_model_outputs_carry_the_allocation() -> None:
    allocation = make_allocation()
    output = ArrCocCausalLMOutputWithPast(logits=torch.zeros(1, 2, 3), allocation=allocation)
    assert output.allocation is allocation and output["allocation"] is allocation
    assert list(output) == ["logits", "allocation"]
    features = ArrCocImageFeatures(pooler_output=[torch.zeros(7, 4)])
    assert features.allocation is None and features.deepstack_features is None
