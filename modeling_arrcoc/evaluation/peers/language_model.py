"""Methods that drop visual tokens inside the language model: FastV and SparseVLM.

A dropped token is masked in every later layer instead of being cut out, in the prompt and in the cache alike. The text
that is generated is the same; the time that cutting out would save is not, so these runs say nothing about speed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from .registry import find_peer
from .selection import density_peaks, image_mask, top_cells


# SparseVLM's published schedule for 192 of 576 tokens in a model of 32 layers: tokens kept after layers 2, 6 and 15.
SPARSEVLM_LAYERS, SPARSEVLM_DEPTH = (2, 6, 15), 32
SPARSEVLM_SCHEDULE = (300 / 192, 200 / 192, 110 / 192)


@dataclass
class PruningRecord:
    """What a run inside the language model kept.

    Attributes:
        tokens (`Tensor` of shape `(layers, images)`): visual tokens that each layer sees.
    """

    tokens: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def mean_tokens(self) -> Tensor:
        """Mean over the layers, of shape `(images,)`."""
        return self.tokens.float().mean(0)


@dataclass(frozen=True)
class Prompt:
    """Where the images and the text of a batch of prompts lie.

    Attributes:
        columns (`Tensor` of shape `(images, cells)`): column of each visual token, 0 on padding.
        mask (`Tensor` of shape `(images, cells)`): true where there is a token.
        row (`Tensor` of shape `(images,)`): prompt of each image.
        visible (`Tensor` of shape `(prompts, length)`): false on padding of the prompts.
        text (`Tensor` of shape `(prompts, length)`): true on the text after a prompt's last image.
    """

    columns: Tensor
    mask: Tensor
    row: Tensor
    visible: Tensor
    text: Tensor

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor | None, grids: Tensor, image_token_id: int) -> "Prompt":
        """Read the prompts' layout.

        Args:
            input_ids (`Tensor` of shape `(prompts, length)`): one placeholder a cell.
            attention_mask (`Tensor` of shape `(prompts, length)`, *optional*): 0 on padding.
            grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.

        Raises:
            ValueError: if placeholders and cells disagree in number, or no text follows an image.
        """
        is_image = input_ids == image_token_id
        counts = grids.prod(1).tolist()
        rows, columns = is_image.nonzero().unbind(1)
        if len(rows) != sum(counts):
            raise ValueError(f"found {len(rows)} image placeholders in the prompt for {sum(counts)} cells")
        places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        visible = torch.ones_like(is_image) if attention_mask is None else attention_mask.bool()
        last = torch.where(is_image, places, -1).amax(1, keepdim=True)
        prompt = cls(
            columns=pad_sequence(list(columns.split(counts)), batch_first=True),
            mask=image_mask(grids.prod(1)),
            row=torch.stack([part[0] for part in rows.split(counts)]),
            visible=visible,
            text=visible & (places > last),
        )
        if not prompt.text.any(1)[prompt.row].all():
            raise ValueError("found an image that no text follows; this method asks that text what to keep")
        return prompt

    def spread(self, values: Tensor) -> Tensor:
        """Lay truth values of visual tokens, `(images, cells)`, into the prompts, `(prompts, length)`."""
        flat = torch.zeros(self.visible.numel(), dtype=torch.bool, device=values.device)
        place = self.row[:, None] * self.visible.shape[1] + self.columns
        flat[place[self.mask]] = values[self.mask]
        return flat.view_as(self.visible)


def attention_rows(
    attention: Any,
    hidden: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    visible: Tensor,
    first: int,
) -> Tensor:
    """Attention of the last tokens of each prompt in one layer, from the layer's own projections.

    Args:
        attention: the stock attention module.
        hidden (`Tensor` of shape `(prompts, length, dim)`): what it is called with.
        position_embeddings (`tuple[Tensor, Tensor]`): cosines and sines, each `(prompts, length, head_dim)`.
        visible (`Tensor` of shape `(prompts, length)`): false on padding and dropped tokens.
        first (`int`): first column whose attention is asked for.

    Returns:
        `Tensor` of shape `(prompts, length - first, length)`, the mean over heads, float32.
    """
    length = hidden.shape[1]

    def heads(states: Tensor, projection: nn.Module, norm: str, start: int) -> Tensor:
        states = projection(states[:, start:]).unflatten(-1, (-1, attention.head_dim))
        states = getattr(attention, norm)(states) if hasattr(attention, norm) else states
        cos, sin = (part[:, start:] for part in position_embeddings)
        states = states.transpose(1, 2)  # (prompts, heads, tokens, head_dim)
        return apply_rotary_pos_emb(states, states, cos, sin)[0].float()

    query = heads(hidden, attention.q_proj, "q_norm", first)
    key = heads(hidden, attention.k_proj, "k_norm", 0)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    columns = torch.arange(length, device=hidden.device)
    allowed = visible[:, None] & (columns <= columns[first:, None])  # (prompts, queries, length)
    logits = query @ key.transpose(2, 3) * attention.scaling
    # A row of padding sees nothing; its attention is never read.
    return logits.masked_fill(~allowed[:, None], torch.finfo(logits.dtype).min).softmax(-1).mean(1)


class _Pruner:
    """Hooks on the decoder layers; a subclass says after which layers tokens go, and which.

    `alive` holds, for each layer that drops tokens, the visual tokens that the layers after it see, `(images, cells)`.
    """

    def __init__(self, model: Any, prompt: Prompt, budgets: Tensor, stages: Sequence[int]):
        self.layers = model.model.language_model.layers
        self.implementation = model.model.language_model.config._attn_implementation
        if self.implementation not in ("sdpa", "eager"):
            raise ValueError(
                f"dropping tokens inside the language model masks them: it needs the attention implementation "
                f'"sdpa" or "eager", found {self.implementation!r}'
            )
        if not stages or min(stages) < 0 or max(stages) >= len(self.layers) - 1:
            raise ValueError(
                f"found layers {list(stages)} after which to drop tokens; expected some of 0 to "
                f"{len(self.layers) - 2}, for a model of {len(self.layers)} layers"
            )
        self.prompt, self.budgets, self.stages = prompt, budgets, tuple(stages)
        self.alive: dict[int, Tensor] = {}
        self.record = PruningRecord()

    def begin(self, hidden: Tensor) -> None:
        """Told the embeddings of the prompts, `(prompts, length, dim)`, before the first layer."""
        self.alive = {}

    def score(self, stage: int, attention: nn.Module, hidden: Tensor, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """Scores of the visual tokens in layer `stage`, `(images, cells)`."""
        raise NotImplementedError

    def choose(self, stage: int, scores: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens stay after layer `stage`.

        Args:
            scores (`Tensor` of shape `(images, cells)`): as from `score`.
            hidden (`Tensor` of shape `(prompts, length, dim)`): output of the layer.

        Returns:
            `tuple[Tensor, Tensor]`: the tokens that stay, `(images, cells)`, and the hidden states, changed or not.
        """
        raise NotImplementedError

    def seen(self, layer: int) -> Tensor:
        """Visual tokens that a layer sees, `(images, cells)`."""
        past = [stage for stage in self.alive if stage < layer]
        return self.alive[max(past)] if past else self.prompt.mask

    def visible(self, layer: int) -> Tensor:
        """Tokens of the prompts that a layer sees, `(prompts, length)`."""
        return self.prompt.visible & ~self.prompt.spread(self.prompt.mask & ~self.seen(layer))

    def hooks(self) -> Iterator[Any]:
        """Register all hooks."""
        for stage in self.stages:
            yield self.layers[stage].self_attn.register_forward_pre_hook(self._scoring(stage), with_kwargs=True)
        for index, layer in enumerate(self.layers):
            yield layer.register_forward_pre_hook(self._entering(index), with_kwargs=True)

    def _prompts(self, states: Tensor) -> Tensor:
        """The prompts of a batch in which each may stand several times (beams), without what was generated."""
        copies = len(states) // len(self.prompt.visible)
        return states[::copies, : self.prompt.visible.shape[1]]

    def _scoring(self, stage: int) -> Any:
        @torch.no_grad()
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            hidden = keywords["hidden_states"]
            if hidden.shape[1] >= self.prompt.visible.shape[1]:
                cos, sin = (self._prompts(part) for part in keywords["position_embeddings"])
                self.scores = self.score(stage, module, self._prompts(hidden), (cos, sin))

        return hook

    def _entering(self, index: int) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
            hidden = arguments[0]
            if hidden.shape[1] >= self.prompt.visible.shape[1]:
                hidden = self._read_prompt(index, hidden)
            elif len(self.alive) < len(self.stages):
                raise ValueError("the prompt must be read in one forward pass, without a cache that holds its start")
            if any(stage < index for stage in self.alive):
                keywords = keywords | {"attention_mask": self._attention_mask(index, hidden, keywords)}
            return (hidden, *arguments[1:]), keywords

        return hook

    def _read_prompt(self, index: int, hidden: Tensor) -> Tensor:
        """Drop what goes after the layer before `index`, and note what stays."""
        if index == 0:
            self.begin(self._prompts(hidden))
            self.record.tokens = torch.empty(0, len(self.prompt.row), dtype=torch.long)
        if index - 1 in self.stages:
            copies = len(hidden) // len(self.prompt.visible)
            stays, prompts = self.choose(index - 1, self.scores, self._prompts(hidden))
            self.alive[index - 1] = stays
            length = self.prompt.visible.shape[1]
            hidden = torch.cat([prompts.repeat_interleave(copies, 0), hidden[:, length:]], 1)
        self.record.tokens = torch.cat([self.record.tokens, self.seen(index).sum(1)[None].cpu()])
        return hidden

    def _attention_mask(self, index: int, hidden: Tensor, keywords: dict[str, Any]) -> Tensor:
        """The layer's mask, with what was dropped masked too; `(batch, 1, queries, keys)`."""
        mask, cache, queries = keywords.get("attention_mask"), keywords.get("past_key_values"), hidden.shape[1]
        if mask is None:  # transformers leaves out a mask that is merely causal
            keys = queries + (0 if cache is None else cache.get_seq_length(index))
            places = torch.arange(keys, device=hidden.device)
            mask = (places <= places[keys - queries :, None])[None, None]  # (1, 1, queries, keys)
            if self.implementation == "eager":
                mask = torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device).masked_fill(
                    ~mask, torch.finfo(hidden.dtype).min
                )
        dropped = self.prompt.spread(self.prompt.mask & ~self.seen(index)).to(mask.device)  # (prompts, length)
        dropped = dropped.repeat_interleave(len(hidden) // len(dropped), 0)
        dropped = nn.functional.pad(dropped, (0, mask.shape[-1] - dropped.shape[1]))[:, None, None]
        return mask & ~dropped if mask.dtype == torch.bool else mask.masked_fill(dropped, torch.finfo(mask.dtype).min)


class _FastV(_Pruner):
    """Ranks visual tokens by the attention that the prompt's last token pays them."""

    def score(self, stage: int, attention: nn.Module, hidden: Tensor, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        visible = self.visible(stage)
        places = torch.arange(visible.shape[1], device=visible.device)
        last = torch.where(self.prompt.visible, places, -1).amax(1)  # (prompts,)
        first = int(last.min())
        rows = attention_rows(attention, hidden, embeddings, visible, first)
        received = rows[torch.arange(len(rows), device=rows.device), last - first]  # (prompts, length)
        return received[self.prompt.row].gather(1, self.prompt.columns)

    def choose(self, stage: int, scores: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return top_cells(scores, self.prompt.mask, self.budgets), hidden


class _SparseVLM(_Pruner):
    """Ranks visual tokens by what the question's visual words attend to, in stages, and recycles the best pruned."""

    def __init__(self, *arguments: Any, schedule: Sequence[float]):
        super().__init__(*arguments)
        if len(schedule) < len(self.stages):
            raise ValueError(f"found a schedule of {len(schedule)} entries for {len(self.stages)} layers")
        self.schedule = dict(zip(self.stages, schedule, strict=False))

    def begin(self, hidden: Tensor) -> None:
        super().begin(hidden)
        prompt = self.prompt
        visual = hidden[prompt.row[:, None], prompt.columns].float()  # (images, cells, dim)
        text = prompt.text[prompt.row]  # (images, length)
        logits = visual @ hidden[prompt.row].float().transpose(1, 2)
        shares = logits.masked_fill(~text[:, None], -torch.inf).softmax(-1)  # (images, cells, length)
        rating = (shares * prompt.mask[..., None]).sum(1) / prompt.mask.sum(1, keepdim=True)  # (images, length)
        mean = rating.sum(1, keepdim=True) / text.sum(1, keepdim=True)
        raters = text & (rating > mean)
        # Equal ratings rate nobody out.
        self.raters = torch.where(raters.any(1, keepdim=True), raters, text)

    def score(self, stage: int, attention: nn.Module, hidden: Tensor, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        first = int(self.raters.any(0).nonzero()[0])
        rows = attention_rows(attention, hidden, embeddings, self.visible(stage), first)
        raters = self.raters[:, first:].to(rows)  # (images, queries)
        received = torch.einsum("iq,iqk->ik", raters, rows[self.prompt.row]) / raters.sum(1, keepdim=True)
        return received.gather(1, self.prompt.columns)

    def choose(self, stage: int, scores: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        prompt, alive = self.prompt, self.seen(stage)
        count, native = alive.sum(1), prompt.mask.sum(1)
        wanted = (self.schedule[stage] * self.budgets).round().long().clamp(min=1)
        wanted = torch.where(self.budgets == native, native, wanted)
        kept = top_cells(scores, alive, torch.minimum(wanted, count))
        pruned = alive & ~kept
        pruned_count = pruned.sum(1)
        recycled = torch.minimum((pruned_count * 3) // 10 + 1, pruned_count)  # the best 30 % of the pruned
        candidates = top_cells(scores, pruned, recycled)
        clusters = torch.where(recycled > 0, recycled // 10 + 1, 0)
        tokens = hidden[prompt.row[:, None], prompt.columns]  # (images, cells, dim)
        centers = density_peaks(tokens, candidates, clusters)
        is_center = candidates & (centers == torch.arange(centers.shape[1], device=centers.device))
        member = candidates[..., None] & (centers[..., None] == torch.arange(centers.shape[1], device=centers.device))
        member = member.to(torch.float32)  # (images, tokens, centres)
        sums = member.transpose(1, 2) @ tokens.float()
        means = sums / member.sum(1).clamp(min=1)[..., None]
        hidden = hidden.clone()
        rows = prompt.row[:, None].expand_as(prompt.columns)
        hidden[rows[is_center], prompt.columns[is_center]] = means[is_center].to(hidden)
        return kept | is_center, hidden


def sparsevlm_layers(depth: int) -> list[int]:
    """SparseVLM's layers 2, 6 and 15 of 32 in proportion to a model's depth, all different; fewer in a shallow one."""
    layers: list[int] = []
    for layer in SPARSEVLM_LAYERS:
        lowest = layers[-1] + 1 if layers else 0
        layers.append(max(lowest, round(layer * depth / SPARSEVLM_DEPTH)))
    return [layer for layer in layers if layer < depth - 1]


@contextmanager
def pruned_language_model(
    model: Any,
    inputs: Mapping[str, Any],
    name: str,
    budgets: Tensor,
    layer: int = 2,
    layers: Sequence[int] | None = None,
    schedule: Sequence[float] = SPARSEVLM_SCHEDULE,
) -> Iterator[PruningRecord]:
    """Inside the block, forward passes and `generate` of these prompts drop visual tokens as a published method does.

    ```python
    inputs = processor(images=images, text=text, return_tensors="pt")  # native
    with pruned_language_model(model, inputs, "fastv", torch.tensor([100])) as record:
        model.generate(**inputs)
    ```

    FastV keeps K tokens from layer number `layer` on (the first is 0): those that the prompt's last token attends to
    most in the layer before. SparseVLM (v1.5) drops tokens after each of `layers`: text tokens that see more than
    their share of the image in the embeddings are raters, and what they attend to stays, `schedule` times K of it; the
    best 30 % of the others are recycled as the means of a tenth as many clusters, each in the place of its centre.
    With the published schedule K is a mean over the layers, to which recycled tokens add a few.

    Args:
        model: an ARR-COC model with a language-modelling head, of attention implementation `"sdpa"` or `"eager"`.
        inputs: the processor's output at native budget.
        name (`str`): `"fastv"` or `"sparsevlm"`.
        budgets (`Tensor` of shape `(images,)`): visual tokens K of each image.
        layer (`int`): FastV's first layer that sees K tokens.
        layers (`Sequence[int]`, *optional*): SparseVLM's layers; `sparsevlm_layers(depth)` if not given.
        schedule (`Sequence[float]`): tokens that SparseVLM keeps after each, in units of K.

    Yields:
        [`PruningRecord`], filled by the forward pass that reads the prompts.

    Raises:
        ValueError: if there is no such method or layer, a budget lies outside 1 to an image's cells, or the attention
            implementation takes no masks.
    """
    find_peer(name, "language_model")
    merge_size = model.config.vision_config.spatial_merge_size
    grids = inputs["image_grid_thw"][:, 1:] // merge_size
    counts = grids.prod(1)
    budgets = budgets.to(counts)
    if len(budgets) != len(grids) or ((budgets < 1) | (budgets > counts)).any():
        raise ValueError(
            f"found token budgets {budgets.tolist()}; expected one an image, from 1 to the native counts "
            f"{counts.tolist()}"
        )
    prompt = Prompt.of(inputs["input_ids"], inputs.get("attention_mask"), grids, model.config.image_token_id)
    depth = len(model.model.language_model.layers)
    pruner: _Pruner
    if name == "fastv":
        pruner = _FastV(model, prompt, budgets, [layer - 1])
    else:
        layers = sparsevlm_layers(depth) if layers is None else layers
        pruner = _SparseVLM(model, prompt, budgets, layers, schedule=schedule)
    handles = list(pruner.hooks())
    try:
        yield pruner.record
    finally:
        for handle in handles:
            handle.remove()
