"""Questions as chats: tokens, labels and positions of answers, batched."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .cache import Shard
from .loop import Metrics


IGNORED = -100
LONGEST_ANSWER = 48  # characters; longer answers are not asked for
AROUND = ".,:;#*()_- "  # words, and no part of them
READ_ON = 4  # words at most
SAYS_EVIDENCE = ("locate_text", "exists")  # kinds of questions that quote their evidence
# Words before a question that ask for nothing; those of `benchmarks/robustness.py` are not among them.
LEADS = (
    "Please tell me: ",
    "In short: ",
    "Look closely. ",
    "I need to know: ",
    "Quick question: ",
    "Answer briefly. ",
    "According to this page: ",
    "Read the page, then answer: ",
    "Without details: ",
    "My question is this: ",
)
LED = 0.15  # share of the questions of a page that such words are put before
ANSWER_BEGINS = "<|im_end|>\n<|im_start|>assistant\n"  # between a question and its answer


@dataclass(frozen=True, eq=False)
class Turn:
    """A question and its answer.

    Args:
        question: text.
        answer: text.
        kind: of the question.
        evidence: boxes in pixels of the document; empty where none is known.
        letters: where each character of the answer stands `(characters, 2)`, x and y in pixels of the document; a
            blank where the letter before it does.
        before: where the letter stands that the answer follows.
        named: boxes of the printed words that the question names.
        spoken: where the characters of the question are printed `(characters, 2)`, as `letters`; NaN where none is.
    """

    question: str
    answer: str
    kind: str
    evidence: tuple[tuple[float, float, float, float], ...] = ()
    letters: NDArray | None = None
    before: NDArray | None = None
    named: tuple[tuple[float, float, float, float], ...] = ()
    spoken: NDArray | None = None


@dataclass(frozen=True, eq=False)
class PrintedWord:
    """A word and the centres of its letters `(letters, 2)`, x and y in pixels."""

    text: str
    centers: NDArray

    @property
    def left(self) -> float:
        return float(self.centers[0, 0])

    @property
    def y(self) -> float:
        return float(self.centers[:, 1].mean())


def printed_words(shard: Shard, index: int) -> list[PrintedWord]:
    """Words of a document in drawing order."""
    centers, codes, starts = shard.letters(index)
    first = np.flatnonzero(starts)
    bounds = [*first.tolist(), len(codes)]
    return [
        PrintedWord("".join(map(chr, codes[begin:end])), centers[begin:end])
        for begin, end in zip(bounds, bounds[1:], strict=False)
    ]


def reading_order(words: Sequence[PrintedWord]) -> list[PrintedWord]:
    """Words line by line, each line over the whole width of the page."""
    lines: list[list[PrintedWord]] = []
    for word in sorted(words, key=lambda word: (word.y, word.left)):
        if lines and abs(word.y - lines[-1][-1].y) <= 4:
            lines[-1].append(word)
        else:
            lines.append([word])
    return [word for line in lines for word in sorted(line, key=lambda word: word.left)]


def letters_of(words: Sequence[PrintedWord]) -> NDArray:
    """Where the characters of words stand that are written with blanks between, as of [`Turn`]."""
    blanks = [np.concatenate([word.centers, word.centers[-1:]]) for word in words]
    return np.concatenate(blanks)[:-1]


def words_in(words: Sequence[PrintedWord], boxes: Sequence[Sequence[float]]) -> list[PrintedWord]:
    """Those of some words whose middle is in a box."""
    edges = np.array(boxes, np.float32).reshape(-1, 4)
    middles = np.array([word.centers.mean(0) for word in words]).reshape(-1, 1, 2)
    inside = ((middles >= edges[:, :2]) & (middles <= edges[:, 2:])).all(2).any(1)
    return [word for word, is_in in zip(words, inside, strict=True) if is_in]


def spoken_letters(question: str, phrases: Sequence[Sequence[PrintedWord]]) -> NDArray:
    """Where the characters of a question are printed `(characters, 2)`, in either case; NaN where they are not.

    Of each word the first two letters are left out, if it has more: they do not say yet which word it is.

    Args:
        question: text.
        phrases: that it names, each of words in their order.
    """
    places, heard = np.full((len(question), 2), np.nan), question.lower()
    for words in phrases:
        end = 0
        for word in words:
            core = word.text.lower().strip(AROUND)
            begin = heard.find(core, end)
            if core and begin >= 0:
                end = begin + len(core)
                first = word.text.lower().index(core)
                places[begin:end] = word.centers[first : first + len(core)]
                places[begin : begin + min(2, len(core) - 1)] = np.nan
    return places


def anchor_of(phrases: Sequence[Sequence[PrintedWord]], letters: NDArray) -> NDArray | None:
    """Where the last letter stands of the named phrase that is nearest in height to an answer: a row's label, and not
    the column's; none if nothing is named.

    Args:
        phrases: that a question names.
        letters: of the answer.
    """
    ends = [words[-1].centers[-1] for words in phrases if words]
    return min(ends, key=lambda end: abs(end[1] - letters[0, 1])) if ends else None


def asked_turns(shard: Shard, index: int) -> list[Turn]:
    """The generator's questions about a document, with answers of a sane length.

    Where the words inside of the evidence are the answer, the turn says where its letters stand and which letter of
    what is named they follow, and always where the letters stand of what the question names.
    """
    words, turns = reading_order(printed_words(shard, index)), []
    for question in shard.questions[index]:
        answer = question["answers"][0]
        if len(answer) > LONGEST_ANSWER:
            continue
        found = words_in(words, question["evidence"])
        is_printed = bool(found) and " ".join(word.text for word in found) == answer
        letters = letters_of(found) if is_printed else None
        evidence, named = (tuple(map(tuple, question[name])) for name in ("evidence", "named"))
        kind, text = question["kind"], question["text"]
        phrases = [words_in(words, [box]) for box in named]
        before = anchor_of(phrases, letters) if letters is not None else None
        spoken = spoken_letters(text, [found] if kind in SAYS_EVIDENCE else phrases)
        turns.append(Turn(text, answer, kind, evidence, letters, before, named, spoken))
    return turns


def reading_turns(words: Sequence[PrintedWord], count: int, dice: np.random.Generator) -> list[Turn]:
    """Turns that ask to read on from a word: to find what is named and to copy what follows is most of answering.

    Args:
        words: of `printed_words`.
        count: turns at most.
        dice: source of randomness.
    """
    order = reading_order(words)
    texts = [word.text for word in order]
    unique = [place for place in range(len(order) - 1) if texts.count(texts[place]) == 1]
    turns: list[Turn] = []
    for place in dice.permutation(unique).tolist():
        following = order[place + 1 : place + 1 + READ_ON]
        while len(following) > 1 and sum(len(word.text) + 1 for word in following) > LONGEST_ANSWER:
            following = following[:-1]
        answer = " ".join(word.text for word in following)
        if len(answer) <= LONGEST_ANSWER and len(turns) < count:
            question, letters = f"Read on from {texts[place]}", letters_of(following)
            before, spoken = order[place].centers[-1], spoken_letters(question, [order[place : place + 1]])
            turns.append(Turn(question, answer, "read_on", (), letters, before, spoken=spoken))
    return turns


def distinct_turns(turns: Sequence[Turn], count: int) -> list[Turn]:
    """At most `count` turns, none of whose answers stands in a turn before it, where it would be copied from."""
    chosen: list[Turn] = []
    told: set[str] = set()
    for turn in turns:
        answered = set(turn.answer.split())
        asked = set(turn.question.replace('"', " ").split())
        if len(chosen) < count and not answered & told:
            chosen.append(turn)
            told |= answered | asked
    return chosen


def led(turn: Turn, dice: np.random.Generator) -> Turn:
    """A question of a page, now and then with words before it that ask for nothing."""
    if dice.random() >= LED:
        return turn
    lead = LEADS[dice.integers(len(LEADS))]
    spoken = turn.spoken
    if spoken is not None:
        spoken = np.concatenate([np.full((len(lead), 2), np.nan), spoken])
    return replace(turn, question=lead + turn.question, spoken=spoken)


def mixed_turns(
    asked: Sequence[Turn], words: Sequence[PrintedWord], count: int, reading: float, dice: np.random.Generator
) -> list[Turn]:
    """Turns about a page, some of them of its questions and some that read on from a word, in any order.

    Args:
        asked: its questions; some get words before them.
        words: of `printed_words`.
        count: turns at most.
        reading: share of the turns that read on; more do where questions are few.
        dice: source of randomness.
    """
    turns = reading_turns(words, 3 * count, dice)
    chosen = [led(asked[place], dice) for place in dice.permutation(len(asked))]
    read = int(dice.binomial(count, reading))
    first = distinct_turns([*turns[:read], *chosen, *turns[read:]], count)
    return distinct_turns([first[place] for place in dice.permutation(len(first))], count)


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
            prompt = self.encode(f"<|im_start|>user\n{picture}{turn.question}{ANSWER_BEGINS}")
            answer = self.encode(f"{turn.answer}<|im_end|>")
            if number:
                prompt = self.encode("\n") + prompt
            ids += prompt
            labels += [IGNORED] * len(prompt)
            answers.append((len(ids), len(ids) + len(answer)))
            ids += answer
            labels += answer
        return ids, labels, answers

    def batch(self, chats: Sequence[Sequence[Turn]], tokens: Sequence[int], multiple: int = 1) -> dict[str, Tensor]:
        """Model inputs of several chats, padded on the right.

        Args:
            chats: turns of each picture.
            tokens: visual tokens of each picture.
            multiple: of which the length is one.

        Returns:
            `input_ids, attention_mask, mm_token_type_ids, labels`, each `(chats, length)`.
        """
        written = [self.chat(turns, count) for turns, count in zip(chats, tokens, strict=True)]
        length = -(-max(len(ids) for ids, _, _ in written) // multiple) * multiple

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


def answer_logits(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """Logits `(labels, vocabulary)` of the tokens that are asked for, from states `(chats, length, dim)`."""
    with torch.autocast(hidden.device.type, dtype=torch.bfloat16):
        return model.lm_head(hidden[:, :-1][labels[:, 1:] != IGNORED]).float()


def exact_of(logits: Tensor, labels: Tensor) -> list[list[bool]]:
    """Of each chat, whether each answer is right; from logits of `answer_logits`."""
    predicted = torch.full_like(labels, -1)
    predicted[:, :-1][labels[:, 1:] != IGNORED] = logits.argmax(-1)
    return exact_answers(predicted, labels)


def answer_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Metrics]:
    """Loss of answers, and how many are right; from logits of `answer_logits`."""
    loss = F.cross_entropy(logits, labels[:, 1:][labels[:, 1:] != IGNORED])
    right = [good for chat in exact_of(logits, labels) for good in chat]
    return loss, {"answer": loss.item(), "exact": sum(right) / len(right)}
