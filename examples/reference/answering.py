"""Questions as chats: tokens, labels and positions of answers, batched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .cache import Shard


IGNORED = -100
LONGEST_ANSWER = 48  # characters; longer answers are not asked for
READ_ON = 4  # words at most


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Args:
        question: text.
        answer: text.
        kind: of the question.
        evidence: boxes in pixels of the document; empty where none is known.
    """

    question: str
    answer: str
    kind: str
    evidence: tuple[tuple[float, float, float, float], ...] = ()


def asked_turns(shard: Shard, index: int, kinds: frozenset[str] | None = None) -> list[Turn]:
    """The generator's questions about a document, of the given kinds, with answers of a sane length."""
    return [
        Turn(question["text"], question["answers"][0], question["kind"], tuple(map(tuple, question["evidence"])))
        for question in shard.questions[index]
        if (kinds is None or question["kind"] in kinds) and len(question["answers"][0]) <= LONGEST_ANSWER
    ]


@dataclass(frozen=True)
class PrintedWord:
    """A word and the centres of its first and last letter."""

    text: str
    left: float
    right: float
    y: float


def printed_words(shard: Shard, index: int) -> list[PrintedWord]:
    """Words of a document in drawing order."""
    centers, codes, starts = shard.letters(index)
    first = np.flatnonzero(starts)
    bounds = [*first.tolist(), len(codes)]
    return [
        PrintedWord(
            "".join(map(chr, codes[begin:end])),
            float(centers[begin, 0]),
            float(centers[end - 1, 0]),
            float(centers[begin:end, 1].mean()),
        )
        for begin, end in zip(bounds, bounds[1:], strict=False)
    ]


def reading_turns(
    words: Sequence[PrintedWord], count: int, dice: np.random.Generator, longest: int = READ_ON
) -> list[Turn]:
    """Turns that ask to read on from a word: to find what is named and to copy what follows is most of answering.

    Lines are read one after another, each over the whole width of the page.

    Args:
        words: of `printed_words`.
        count: turns at most.
        dice: source of randomness.
        longest: words of an answer, at most.
    """
    texts = [word.text for word in words]
    lines: list[list[int]] = []
    for number in sorted(range(len(words)), key=lambda number: (words[number].y, words[number].left)):
        if lines and abs(words[number].y - words[lines[-1][-1]].y) <= 4:
            lines[-1].append(number)
        else:
            lines.append([number])
    order = [number for line in lines for number in sorted(line, key=lambda number: words[number].left)]
    follows = {number: order[place + 1 : place + 1 + longest] for place, number in enumerate(order[:-1])}
    unique = [number for number in follows if texts.count(texts[number]) == 1]
    turns = []
    for number in dice.permutation(unique)[:count].tolist():
        answer = " ".join(texts[following] for following in follows[number])
        while len(answer) > LONGEST_ANSWER and " " in answer:
            answer = answer.rsplit(" ", 1)[0]
        if 0 < len(answer) <= LONGEST_ANSWER:
            turns.append(Turn(f"Read on from {texts[number]}", answer, "read_on"))
    return turns


@dataclass(frozen=True)
class Writer:
    """Writes turns as tokens.

    Args:
        tokenizer: of `build_tokenizer`.
    """

    tokenizer: PreTrainedTokenizerBase

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def chat(self, turns: Sequence[Turn], tokens: int) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """A chat about one picture.

        Args:
            turns: in their order; the picture stands before the first question.
            tokens: visual tokens of the picture.

        Returns:
            Token ids, labels of equal length (`IGNORED` but for answers), and where each answer's labels are.
        """
        ids, labels, answers = [], [], []
        for number, turn in enumerate(turns):
            picture = f"<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>" if number == 0 else ""
            prompt = self.encode(f"<|im_start|>user\n{picture}{turn.question}<|im_end|>\n<|im_start|>assistant\n")
            answer = self.encode(f"{turn.answer}<|im_end|>")
            if number:
                prompt = self.encode("\n") + prompt
            ids += prompt
            labels += [IGNORED] * len(prompt)
            answers.append((len(ids), len(ids) + len(answer)))
            ids += answer
            labels += answer
        return ids, labels, answers

    def batch(self, chats: Sequence[Sequence[Turn]], tokens: Sequence[int]) -> dict[str, Tensor]:
        """Model inputs of several chats, padded on the right.

        Args:
            chats: turns of each picture.
            tokens: visual tokens of each picture.

        Returns:
            `input_ids, attention_mask, mm_token_type_ids, labels`, each `(chats, length)`.
        """
        written = [self.chat(turns, count) for turns, count in zip(chats, tokens, strict=True)]
        length = max(len(ids) for ids, _, _ in written)

        def padded(rows: list[list[int]], value: int) -> Tensor:
            return torch.tensor([row + [value] * (length - len(row)) for row in rows])

        input_ids = padded([ids for ids, _, _ in written], self.tokenizer.pad_token_id)
        image = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        return {
            "input_ids": input_ids,
            "attention_mask": padded([[1] * len(ids) for ids, _, _ in written], 0),
            "mm_token_type_ids": (input_ids == image).long(),
            "labels": padded([labels for _, labels, _ in written], IGNORED),
        }


def exact_answers(predicted: Tensor, labels: Tensor) -> list[list[bool]]:
    """Of each chat, whether each answer is right in all its tokens, each token given those before it.

    The first answer of a chat is right exactly if greedy decoding gives it.

    Args:
        predicted: `(chats, length)` most likely next tokens.
        labels: `(chats, length)`.
    """
    right = (predicted[:, :-1] == labels[:, 1:]) | (labels[:, 1:] == IGNORED)
    asked = labels[:, 1:] != IGNORED
    found = []
    for row_right, row_asked in zip(right.cpu().numpy(), asked.cpu().numpy(), strict=True):
        edges: NDArray = np.flatnonzero(np.diff(row_asked.astype(np.int8), prepend=0, append=0))
        found.append([bool(row_right[begin:end].all()) for begin, end in edges.reshape(-1, 2)])
    return found
