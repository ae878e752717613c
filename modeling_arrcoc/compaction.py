"""Prompts without the placeholders that a learned budget leaves unused, and results at the length of the prompt."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from .positions import placeholder_runs


@dataclass(frozen=True)
class Compaction:
    """A padded batch of prompts without some of its tokens.

    Attributes:
        kept (`Tensor` of shape `(batch, length)`): true for the tokens that stay, false for padding and what is left
            out.
        attended (`Tensor` of shape `(batch, compact_length)`): false for the padding of the compacted batch.
        columns (`Tensor` of shape `(batch, compact_length)`): the column of the prompt that stands in each column of
            the compacted batch; its padding repeats a token of text.
    """

    kept: Tensor
    attended: Tensor
    columns: Tensor

    @property
    def removed(self) -> int:
        """Columns by which the batch has become shorter."""
        return self.kept.shape[1] - self.attended.shape[1]

    def compact(self, values: Tensor) -> Tensor:
        """`(batch, length, ...)` to `(batch, compact_length, ...)`."""
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, self.columns.to(values.device)]

    def expand(self, values: Tensor) -> Tensor:
        """`(batch, compact_length, ...)` to `(batch, length, ...)`, zero where there was no token; differentiable."""
        expanded = values.new_zeros(*self.kept.shape, *values.shape[2:])
        return expanded.index_put((self.kept.to(values.device),), values[self.attended.to(values.device)])

    def compact_prompt(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a model call with those of one entry a token shortened; others are left as they are."""
        names = ("input_ids", "inputs_embeds", "mm_token_type_ids")
        shortened = {name: self.compact(prompt[name]) for name in names if prompt.get(name) is not None}
        return prompt | shortened | {"attention_mask": self.attended.long()}

    def expand_outputs(self, outputs: BaseModelOutputWithPast) -> BaseModelOutputWithPast:
        """The outputs of a base model at the length of the prompt. The cache is left out: it has another length."""
        attentions = outputs.attentions
        if attentions is not None:  # layers of shape (batch, heads, compact_length, compact_length)
            attentions = tuple(
                self.expand(self.expand(layer.movedim(1, 3)).movedim(2, 1)).permute(0, 3, 2, 1) for layer in attentions
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.expand(outputs.last_hidden_state),
            hidden_states=outputs.hidden_states and tuple(map(self.expand, outputs.hidden_states)),
            attentions=attentions,
        )


def compact_placeholders(
    is_image: Tensor, placeholders: Tensor, budgets: Tensor, attention_mask: Tensor | None = None
) -> Compaction | None:
    """Leave out the placeholders beyond each image's budget.

    The last placeholders of an image stay, so that the token after it follows a visual token as in a prompt with no
    more placeholders. Rows are padded anew: on the right if the batch is, otherwise on the left; the result is the
    batch that the processor makes where it is given these budgets.

    Args:
        is_image (`Tensor` of shape `(batch, length)`): true for image placeholders.
        placeholders (`Tensor` of shape `(images,)`): placeholders of each image in the prompt.
        budgets (`Tensor` of shape `(images,)`): how many of them stay.
        attention_mask (`Tensor` of shape `(batch, length)`, *optional*): 0 for padding, on either side.

    Returns:
        [`Compaction`], or `None` if the prompt holds exactly `budgets` placeholders, and nothing is to be left out.

    Raises:
        ValueError: if the prompt's placeholders are neither `placeholders` nor `budgets`, or the mask is no padding
            mask.
    """
    starts, counts = placeholder_runs(is_image)
    placeholders, budgets = placeholders.to(counts), budgets.to(counts)
    if torch.equal(counts, budgets):
        return None
    if not torch.equal(counts, placeholders):
        raise ValueError(
            f"found images of {counts.tolist()} placeholders in the prompt; expected {placeholders.tolist()}, of "
            f"which the model chose to use {budgets.tolist()}"
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(is_image)
    elif not isinstance(attention_mask, Tensor) or attention_mask.shape != is_image.shape:
        raise ValueError(
            "learned budgets need an `attention_mask` of the shape of the prompt, "
            f"{tuple(is_image.shape)}; found {getattr(attention_mask, 'shape', type(attention_mask).__name__)}"
        )
    attended = attention_mask.to(is_image.device).bool()
    run = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)  # (placeholders,)
    place = torch.arange(len(run), device=run.device) - starts[run]
    kept = attended.masked_scatter(is_image, place >= (counts - budgets)[run])  # (batch, length)

    lengths = kept.sum(1, keepdim=True)  # (batch, 1)
    column = torch.arange(int(lengths.max()), device=kept.device)  # (compact_length,)
    on_the_right = not attended[:, -1].all()
    new_attended = column < lengths if on_the_right else column >= len(column) - lengths
    filling = (~is_image).int().argmax(1, keepdim=True).expand(-1, len(column))  # the first token that is no image
    columns = filling.masked_scatter(new_attended, kept.nonzero()[:, 1])
    return Compaction(kept, new_attended, columns)
