"""Positions of compressed images in the language model (multimodal rotary embedding, M-RoPE)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .outputs import Allocation


def placeholder_runs(is_image: Tensor) -> tuple[Tensor, Tensor]:
    """Where the images of a batch are; an image's placeholders are a run without a gap.

    Args:
        is_image (`Tensor` of shape `(batch, length)`): true for image placeholders.

    Returns:
        `tuple[Tensor, Tensor]`: the number of placeholders before each image's first, and of each image's own; both
        of shape `(images,)`.
    """
    place = is_image.flatten().nonzero()[:, 0]  # (placeholders,)
    starts = torch.cat([place.new_zeros(min(1, len(place))), (place.diff() > 1).nonzero()[:, 0] + 1])
    return starts, torch.cat([starts, starts.new_tensor([len(place)])]).diff()


def leaf_position_ids(
    get_rope_index: Callable[..., tuple[Tensor, Tensor]],
    allocation: Allocation,
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_token_id: int,
    spatial_merge_size: int,
    attention_mask: Tensor | None = None,
    **rope_inputs: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Positions of a prompt whose images were compressed.

    An image starts where it would at native budget. A leaf lies at its centre, in native cells divided by the image's
    position scale, which may be fractional; the text goes on where the host's would after a grid of that scale. To
    that end each image's placeholders are padded to the number of the scaled grid's cells, the host's own
    `get_rope_index` numbers the padded prompt, and the positions of the real tokens are read off.

    Args:
        get_rope_index (`Callable`): the host model's method.
        allocation ([`Allocation`]): of the images in `input_ids`, in the order of their placeholders.
        input_ids (`Tensor` of shape `(batch, length)`): prompt with one placeholder a leaf.
        mm_token_type_ids (`Tensor` of shape `(batch, length)`): 0 for text, 1 for images, 2 for videos.
        image_token_id (`int`): id of the placeholder.
        spatial_merge_size (`int`): patches along a side of a cell.
        attention_mask (`Tensor` of shape `(batch, length)`, *optional*): 0 for padding, on either side.
        **rope_inputs: further arguments of `get_rope_index`, such as `video_grid_thw`.

    Returns:
        `tuple[Tensor, Tensor]`: position ids of shape `(3, batch, length)`, float32, for time, height and width; and
        the host's `rope_deltas` of shape `(batch, 1)`: next text position less the length of the row without its
        padding.

    Raises:
        ValueError: if the number of placeholders is not the number of leaves.
    """
    is_image = input_ids == image_token_id  # (batch, length)
    leaves = len(allocation.boxes)
    found = placeholder_runs(is_image)[1].tolist()
    if found != allocation.budgets.tolist():
        raise ValueError(
            f"found {sum(found)} image placeholders in the prompt for {leaves} visual tokens: images of {found} "
            f"placeholders for budgets of {allocation.budgets.tolist()}"
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)

    first_leaf = allocation.budgets.cumsum(0) - allocation.budgets  # (images,)
    repeats = torch.ones(leaves, dtype=torch.long, device=input_ids.device)
    # Rounded up, but for rounding errors: 8 / sqrt(64 / 49) is 7 and not a little more.
    extents = (allocation.grids / allocation.position_scale[:, None] - 1e-3).ceil().long().clamp(min=1)  # (images, 2)
    repeats[first_leaf] += extents.prod(1) - allocation.budgets  # the first placeholder stands in for the rest
    copies = torch.ones_like(input_ids).masked_scatter(is_image, repeats)  # (batch, length)
    place = copies.cumsum(1) - copies  # (batch, length): of each token in its padded row
    padded_length = int(copies.sum(1).max())

    # The padded rows: token j is repeated `copies[j]` times; rows of fewer tokens are filled up with masked ones.
    source = torch.zeros(len(input_ids), padded_length, dtype=torch.long, device=input_ids.device)
    source = source.scatter(1, place, 1).cumsum(1) - 1  # (batch, padded_length)
    beyond = torch.arange(padded_length, device=input_ids.device) >= copies.sum(1, keepdim=True)
    patches = extents * spatial_merge_size
    padded_positions, deltas = get_rope_index(
        input_ids.gather(1, source),
        mm_token_type_ids=mm_token_type_ids.gather(1, source),
        image_grid_thw=torch.cat([torch.ones_like(patches[:, :1]), patches], 1),
        attention_mask=attention_mask.gather(1, source).masked_fill(beyond, 0),
        **rope_inputs,
    )
    positions = padded_positions.gather(2, place.expand(3, -1, -1)).float()  # (3, batch, length)

    # The first placeholder of an image has the position of its first cell, the image's start.
    start = positions[:, is_image][:, first_leaf]  # (3, images)
    image = torch.repeat_interleave(torch.arange(len(allocation), device=start.device), allocation.budgets)
    centers = (allocation.centers + 0.5) / allocation.leaf_scale[:, None] - 0.5  # (leaves, 2)
    offset = torch.cat([torch.zeros(1, leaves, device=start.device), centers.T])  # (3, leaves)
    positions[:, is_image] = start[:, image] + offset

    return positions, deltas + (copies - 1).sum(1, keepdim=True)
