"""What the model returns besides logits: the allocation of an image's tokens, and the encoded images."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast


@dataclass(frozen=True)
class Allocation:
    """Where the visual tokens of a batch of images went.

    An allocation divides the `rows x cols` cells of each image into its *leaves*; every leaf becomes one visual token.
    A leaf is a rectangle of cells; under the policy `foveated`, less those that are leaves of their own. Images are
    packed one after another, cells and leaves in raster order (a leaf by its first cell).

    Attributes:
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
        budgets (`Tensor` of shape `(images,)`): leaves of each image.
        cell_to_leaf (`Tensor` of shape `(cells,)`): the leaf each cell belongs to; -1 for a cell that was dropped,
            which only the policy `topk` does.
        boxes (`Tensor` of shape `(leaves, 4)`): top, left, bottom, right in cells of its image of the smallest
            rectangle that holds a leaf, the last two exclusive.
        relevance (`Tensor` of shape `(cells,)`): the relevance that decided, in (0, 1].
        position_scale (`Tensor` of shape `(images,)`): what positions in each image are divided by; 1 leaves them
            native.
        maps (`dict[str, Tensor]`): the maps that relevance was balanced from, each of shape `(cells,)` in [0, 1].
        balance (`dict[str, Tensor]`): how learned relevance weighed opposite tendencies, each of shape `(images,)` in
            (0, 1): 0 is the first of `"compress_particularize"`, `"focus_diversify"` and `"exploit_explore"`.
        windows (`Tensor` of shape `(leaves,)`, *optional*): of a pair of cells above each other of which a window is
            drawn, as high as one of them, how far below the pair's top it begins, in cells, in [0, 1]; -1 for leaves
            that are drawn whole. `None` where all are.
        depths (`Tensor` of shape `(leaves,)`, *optional*): DeepStack layers that each leaf keeps, the deepest of them;
            `None` where all keep all.
        placeholders (`Tensor` of shape `(images,)`, *optional*): with learned budgets, placeholders of each image in
            the prompt, of which `budgets` are used. `None` where budgets were given, as are the next two.
        expected_tokens (`Tensor` of shape `(images,)`, *optional*): mean of the tokens that the model may choose for
            each image; its budget where that was given.
        tier_probabilities (`Tensor` of shape `(images, tiers)`, *optional*): probability of each tier; 0 where an
            image's budget was given. Of a tier beyond the placeholders these are all that is spent.
    """

    grids: Tensor
    budgets: Tensor
    cell_to_leaf: Tensor
    boxes: Tensor
    relevance: Tensor
    position_scale: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)
    balance: dict[str, Tensor] = field(default_factory=dict)
    windows: Tensor | None = None
    depths: Tensor | None = None
    placeholders: Tensor | None = None
    expected_tokens: Tensor | None = None
    tier_probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.grids)

    @property
    def sizes(self) -> Tensor:
        """Height and width of each leaf in cells, of shape `(leaves, 2)`."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def drawn(self) -> Tensor:
        """Top, left, bottom, right in cells of what is drawn of each leaf, of shape `(leaves, 4)`: its box or a window
        of it, whose rows may be fractional."""
        if self.windows is None:
            return self.boxes
        top = torch.where(self.windows < 0, self.boxes[:, 0], self.boxes[:, 0] + self.windows)
        bottom = torch.where(self.windows < 0, self.boxes[:, 2], top + 1)
        return torch.stack([top, self.boxes[:, 1].to(top), bottom, self.boxes[:, 3].to(top)], 1)

    @property
    def levels(self) -> Tensor:
        """Level of detail of each leaf, of shape `(leaves,)`: log2 of the mean side in cells of what is drawn of it, 0
        for full detail."""
        drawn = self.drawn
        return (drawn[:, 2:] - drawn[:, :2]).prod(1).float().log2() / 2

    @property
    def centers(self) -> Tensor:
        """Row and column of the centre of what is drawn of each leaf, of shape `(leaves, 2)`; a cell's centre has its
        own coordinates."""
        drawn = self.drawn
        return (drawn[:, :2] + drawn[:, 2:] - 1).float() / 2

    @property
    def leaf_scale(self) -> Tensor:
        """Position scale of each leaf's image, of shape `(leaves,)`."""
        return torch.repeat_interleave(self.position_scale, self.budgets)

    @property
    def cells_per_image(self) -> Tensor:
        """Native number of tokens of each image, of shape `(images,)`."""
        return self.grids.prod(1)

    def to(self, device: torch.device | str) -> "Allocation":
        """The same allocation on another device."""
        return Allocation(
            grids=self.grids.to(device),
            budgets=self.budgets.to(device),
            cell_to_leaf=self.cell_to_leaf.to(device),
            boxes=self.boxes.to(device),
            relevance=self.relevance.to(device),
            position_scale=self.position_scale.to(device),
            maps={name: values.to(device) for name, values in self.maps.items()},
            balance={name: values.to(device) for name, values in self.balance.items()},
            **self._optional(lambda values, _: values.to(device)),
        )

    def image(self, index: int) -> "Allocation":
        """The allocation of one image of the batch.

        Raises:
            IndexError: if there is no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} was asked for, but the allocation holds {len(self)} images")
        cell_start, cell_count = int(self.cells_per_image[:index].sum()), int(self.cells_per_image[index])
        leaf_start, leaf_count = int(self.budgets[:index].sum()), int(self.budgets[index])
        cells, leaves = slice(cell_start, cell_start + cell_count), slice(leaf_start, leaf_start + leaf_count)
        cell_to_leaf = self.cell_to_leaf[cells]
        return Allocation(
            grids=self.grids[index : index + 1],
            budgets=self.budgets[index : index + 1],
            cell_to_leaf=torch.where(cell_to_leaf < 0, cell_to_leaf, cell_to_leaf - leaf_start),
            boxes=self.boxes[leaves],
            relevance=self.relevance[cells],
            position_scale=self.position_scale[index : index + 1],
            maps={name: values[cells] for name, values in self.maps.items()},
            balance={name: values[index : index + 1] for name, values in self.balance.items()},
            **self._optional(lambda values, is_leaves: values[leaves] if is_leaves else values[index : index + 1]),
        )

    def _optional(self, change: Callable[[Tensor, bool], Tensor]) -> dict[str, Tensor | None]:
        """The attributes that may be `None`, changed; `change` is told whether an attribute is one of leaves."""
        of_leaves, of_images = ("windows", "depths"), ("placeholders", "expected_tokens", "tier_probabilities")
        values = {name: getattr(self, name) for name in of_leaves + of_images}
        return {name: value if value is None else change(value, name in of_leaves) for name, value in values.items()}

    def map(self, name: str) -> Tensor:
        """A map of a single image on its grid: `"relevance"` or a name of `maps`.

        Returns:
            `Tensor` of shape `(rows, cols)`.

        Raises:
            ValueError: if the allocation holds several images.
            KeyError: if there is no such map.
        """
        if len(self) != 1:
            raise ValueError(f"a map has the shape of one image, but the allocation holds {len(self)}; use .image(i)")
        values = {"relevance": self.relevance, **self.maps}
        if name not in values:
            raise KeyError(f"no map {name!r}; there are {sorted(values)}")
        return values[name].reshape(self.grids[0].tolist())


@dataclass
class ArrCocImageFeatures(BaseModelOutputWithPooling):
    """Images encoded for the language model.

    Attributes:
        pooler_output (`list[Tensor]`): for each image its visual tokens, of shape `(tokens, dim)`.
        deepstack_features (`list[list[Tensor]]`, *optional*): for each tapped tower layer what `pooler_output` is for
            the last; Qwen3-VL only.
        allocation ([`Allocation`], *optional*): where the tokens went; `None` at native budget without one.
    """

    deepstack_features: list[list[Tensor]] | None = None
    allocation: Allocation | None = None


def change_image_features(
    encoded: BaseModelOutputWithPooling, allocation: Allocation, change: Callable[[Tensor, int], Tensor]
) -> ArrCocImageFeatures:
    """Make tokens of what the tower put out, in all of its layers.

    Args:
        encoded: the stock output.
        allocation ([`Allocation`]): the leaves of the images.
        change (`Callable`): from the packed features of all images, of shape `(cells or leaves, dim)`, and the number
            of the layer (0 for the output, 1, 2, ... for DeepStack) to tokens of shape `(leaves, dim)`.
    """
    counts = allocation.budgets.tolist()

    def tokens(features: list[Tensor], layer: int) -> list[Tensor]:
        return list(change(torch.cat(tuple(features)), layer).split(counts))

    deepstack = getattr(encoded, "deepstack_features", None)
    return ArrCocImageFeatures(
        last_hidden_state=encoded.last_hidden_state,
        pooler_output=tokens(encoded.pooler_output, 0),
        hidden_states=encoded.hidden_states,
        attentions=encoded.attentions,
        deepstack_features=deepstack and [tokens(features, layer) for layer, features in enumerate(deepstack, 1)],
        allocation=allocation,
    )


@dataclass
class ArrCocModelOutputWithPast(BaseModelOutputWithPast):
    """Output of the base model.

    Attributes:
        rope_deltas (`Tensor` of shape `(batch, 1)`, *optional*): set by transformers before 5.23 alone.
        image_hidden_states (`Tensor` of shape `(leaves, dim)`, *optional*): the visual tokens of all images as they
            were handed to the language model, one image after another, with their gradient.
        allocation ([`Allocation`], *optional*): where the visual tokens of this forward pass went.
    """

    rope_deltas: Tensor | None = None
    image_hidden_states: Tensor | None = None
    allocation: Allocation | None = None


@dataclass
class ArrCocCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of the model with a language-modelling head; attributes as in [`ArrCocModelOutputWithPast`]."""

    rope_deltas: Tensor | None = None
    image_hidden_states: Tensor | None = None
    allocation: Allocation | None = None


def image_allocation(mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None) -> Allocation | None:
    """The allocation of pre-encoded images, if there are any and they were compressed."""
    return getattr((mm_encoder_outputs or {}).get("image"), "allocation", None)


def image_tokens(mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None) -> Tensor | None:
    """The visual tokens of pre-encoded images, of shape `(leaves, dim)`, if there are any."""
    encoded = (mm_encoder_outputs or {}).get("image")
    return None if encoded is None else torch.cat(tuple(encoded.pooler_output))
