"""Stage 3: the language model alone, on what a tower that stands still has seen: to find words, and to copy them.

To answer, a token must look at the cell of the letter that it writes. With the answer as the only teacher a small
model learns this very slowly, so some heads are told: one layer where the last letter was, of a question too where its
words are printed, later ones where the next letter is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc.outputs import ArrCocImageFeatures

from .answering import (
    ANSWER_BEGINS,
    IGNORED,
    PrintedWord,
    Turn,
    Writer,
    answer_logits,
    answer_loss,
    asked_turns,
    distinct_turns,
    mixed_turns,
    printed_words,
    reading_turns,
)
from .features import Seen
from .loop import Metrics
from .model import Model
from .tokenizer import CELL


UNKNOWN = -1
MULTIPLE = 64  # of the lengths: memory freed at one length is hardly used again at others, and grows by gigabytes


@dataclass(frozen=True)
class Window:
    """A share of the batches of a step.

    Args:
        cells: side of what is seen of a page, in cells.
        size: pages of a batch.
        share: of the batches, relative to the others.
    """

    cells: int
    size: int
    share: float


@dataclass(frozen=True)
class Widening:
    """Windows that grow to whole pages.

    Args:
        rows: of a page, in cells.
        size: pages of a batch of whole pages.
        steps: of the stage.
    """

    rows: int
    size: int
    steps: int

    def __call__(self, step: int) -> list[Window]:
        done = step / self.steps
        little, half = Window(self.rows * 3 // 8, 3 * self.size, 1.0), Window(self.rows // 2, 2 * self.size, 1.0)
        page = Window(self.rows, self.size, 1.0 if done < 0.5 else 6.0)
        return [little, half] if done < 0.25 else [half, page]


def looked_at(turn: Turn, zoom: float, left: int, top: int, cells: int) -> tuple[NDArray, NDArray, NDArray]:
    """Cells of a window: of the printed characters of a question, and of its answer the letter before each character
    and the character itself.

    Args:
        turn: the question.
        zoom: pixels of the picture for each of the document.
        left, top, cells: place of the window in the picture and its side, in cells.

    Returns:
        Three arrays, `(characters,)` of the question and twice of the answer, `UNKNOWN` where nothing is known.
    """

    def cells_of(letters: NDArray) -> NDArray:
        columns, rows = (np.floor(letters * (zoom / CELL)) - (left, top)).T  # NaN is in no cell
        inside = (columns >= 0) & (columns < cells) & (rows >= 0) & (rows < cells)
        return np.where(inside, rows * cells + columns, UNKNOWN).astype(np.int64)

    def known(text: str, letters: NDArray | None) -> NDArray:
        return np.full(len(text), UNKNOWN) if letters is None or not text.isascii() else cells_of(letters)

    following = known(turn.answer, turn.letters)
    before = np.concatenate([[UNKNOWN], following[:-1]])
    if turn.letters is not None and turn.before is not None:
        before[:1] = cells_of(turn.before[None])
    return known(turn.question, turn.spoken), before, following


@dataclass(frozen=True)
class Glimpses:
    """Batches of windows of pages as features, with questions about what is in them.

    Args:
        writer: of chats.
        pages: what the tower has seen.
        windows: of a step, so that little may be seen first.
        turns: of a chat, at most.
        reading: share of the turns about whole pages that read on from a word.
        seed: of the randomness.
    """

    writer: Writer
    pages: Seen
    windows: Callable[[int], Sequence[Window]]
    turns: int = 6
    reading: float = 0.3
    seed: int = 1

    def __call__(self, step: int) -> dict[str, Tensor]:
        dice = np.random.default_rng((self.seed, step))
        windows = self.windows(step)
        shares = np.array([window.share for window in windows])
        window = windows[dice.choice(len(windows), p=shares / shares.sum())]
        features, chats, looks = [], [], []
        while len(chats) < window.size:
            shard, index = self.pages.places[dice.integers(len(self.pages.places))]
            left, top = dice.integers(self.pages.rows - window.cells + 1, size=2).tolist()
            words = self._inside(printed_words(shard, index), left, top, window.cells)
            if window.cells == self.pages.rows:
                turns = mixed_turns(asked_turns(shard, index), words, self.turns, self.reading, dice)
            else:
                turns = distinct_turns(reading_turns(words, 3 * self.turns, dice), self.turns)
            if turns:
                chats.append(turns)
                looks.append([looked_at(turn, self.pages.zoom, left, top, window.cells) for turn in turns])
                features.append(self.pages.window(shard, index, left, top, window.cells))
        inputs = self.writer.batch(chats, [window.cells**2] * len(chats), multiple=MULTIPLE)
        before, following = guidance_targets(self.writer, inputs, chats, looks)
        side = 2 * window.cells
        return {
            **inputs,
            "before": before,
            "following": following,
            "features": torch.from_numpy(np.concatenate(features)),
            "grids": torch.tensor([[1, side, side]] * len(chats)),
        }

    def _inside(self, words: list[PrintedWord], left: int, top: int, cells: int) -> list[PrintedWord]:
        """Words wholly inside of a window."""
        if cells == self.pages.rows:
            return words
        low = np.array([left, top]) * (CELL / self.pages.zoom)
        high = low + cells * CELL / self.pages.zoom
        margin = CELL / 4 / self.pages.zoom
        return [w for w in words if (w.centers >= low + margin).all() and (w.centers < high - margin).all()]


def guidance_targets(
    writer: Writer, inputs: dict[str, Tensor], chats: Sequence[list[Turn]], looks: Sequence[list]
) -> tuple[Tensor, Tensor]:
    """Where in the input the cells stand that are to be looked at when a token is written `(chats, length)`.

    "Before" are also the letters of a question: after each of them, the same head looks at where it is printed.
    """
    before, following = (torch.full_like(inputs["labels"], UNKNOWN) for _ in range(2))
    first = int(inputs["mm_token_type_ids"][0].argmax())  # all chats begin alike
    turning = len(writer.encode(ANSWER_BEGINS))
    for row, (turns, found) in enumerate(zip(chats, looks, strict=True)):
        labels = inputs["labels"][row]
        starts = ((labels[1:] != IGNORED) & (labels[:-1] == IGNORED)).nonzero()[:, 0] + 1
        for start, turn, cells in zip(starts.tolist(), turns, found, strict=True):
            asked = start - turning - len(turn.question) + 1  # what is written after its first character
            targets = ((before, asked), (before, start), (following, start))
            for (target, begin), values in zip(targets, cells, strict=True):
                place = torch.from_numpy(np.where(values == UNKNOWN, UNKNOWN, values + first))
                target[row, begin : begin + len(values)] = place
    return before, following


def listen(model: Model, batch: dict[str, Any]) -> Any:
    """The language model's output on features, with its attention."""
    base = model.model
    counts = (batch["grids"][:, 1] * batch["grids"][:, 2] // 4).tolist()
    pooled, *deepstack = (layer.float().split(counts) for layer in batch["features"].unbind(1))  # (cells, dim) a page
    seen = ArrCocImageFeatures(pooler_output=pooled, deepstack_features=deepstack or None)
    return base(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        mm_token_type_ids=batch["mm_token_type_ids"],
        image_grid_thw=batch["grids"],
        mm_encoder_outputs={"image": seen},
        use_cache=False,
        output_attentions=True,
    )


def guided_layers(depth: int) -> dict[str, range]:
    """Layers whose first head is told where the last letter was, and where the next one is.

    Args:
        depth: layers of the language model.
    """
    middle = depth // 2
    return {"before": range(1, middle), "following": range(middle, middle + 2)}


def looking_loss(attention: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of where a layer's first head looks, and how often most of its weight is there.

    Args:
        attention: `(chats, heads, length, length)`.
        target: `(chats, length)` where it should look when each token is written, or `UNKNOWN`.
    """
    known = target[:, 1:] != UNKNOWN
    weights = attention[:, 0, :-1][known].float()  # (known, length)
    there = weights.gather(1, target[:, 1:][known][:, None])[:, 0]
    if len(there) == 0:
        return attention.sum() * 0, attention.new_zeros(())
    return -(there + 1e-4).log().mean(), (there > 0.5).float().mean()


def listening_step(model: Model, guidance: float, batch: dict[str, Any]) -> tuple[Tensor, Metrics]:
    """Loss of a batch's answers, and of where heads look for them, weighted with `guidance`."""
    with torch.autocast(batch["features"].device.type, dtype=torch.bfloat16):
        found = listen(model, batch)
    logits = answer_logits(model, found.last_hidden_state, batch["labels"])
    loss, metrics = answer_loss(logits, batch["labels"])
    for name, layers in guided_layers(len(found.attentions)).items():
        for layer in layers:
            looking, share = looking_loss(found.attentions[layer], batch[name])
            loss = loss + guidance * looking
            metrics[f"{name}{layer}"] = share.item()
    return loss, metrics
