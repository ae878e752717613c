"""Rows as conversations: chat messages, prompt and completion texts, and the form that TRL reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .rows import Row, StoredImage, row_from_dict


Message = dict[str, Any]

_KEPT = ("task", "set", "difficulty", "evidence", "evidence_mode", "token_budget", "suggested_budget")


def prompt_messages(row: Row) -> list[Message]:
    """The conversation up to the question, the images in its first turn."""
    messages: list[Message] = []
    for question, answer in row.history:
        messages += [_message("user", question), _message("assistant", answer)]
    messages.append(_message("user", row.question))
    messages[0]["content"] = [{"type": "image"} for _ in row.images] + messages[0]["content"]
    return messages


def completion_messages(row: Row) -> list[Message]:
    """The answer that training teaches, as the assistant's turn.

    Raises:
        ValueError: The row has no answer.
    """
    if not row.answers:
        raise ValueError(f"row {row.id!r} has no answer to train on")
    return [_message("assistant", row.answers[0])]


def prompt_text(row: Row, processor: Any) -> str:
    """The prompt as the model sees it when it answers: chat markup, one placeholder an image, an open turn."""
    return processor.apply_chat_template(prompt_messages(row), tokenize=False, add_generation_prompt=True)


def completion_text(row: Row, prompt: str, processor: Any) -> str:
    """What the model is to write after the prompt: the answer and the end of the turn.

    Raises:
        ValueError: The row has no answer, or the chat template does not put the answer straight after the prompt.
    """
    whole = processor.apply_chat_template(prompt_messages(row) + completion_messages(row), tokenize=False)
    if not whole.startswith(prompt):
        raise ValueError(
            f"the chat template must write an answer straight after the prompt, but row {row.id!r} gives the prompt "
            f"{prompt[-80:]!r} and the conversation {whole[-160:]!r}"
        )
    completion = whole[len(prompt) :]
    end = completion.rfind(processor.tokenizer.eos_token)
    return completion if end < 0 else completion[: end + len(processor.tokenizer.eos_token)]


def to_trl(row: Row) -> dict[str, Any]:
    """The row as TRL's `SFTTrainer` reads it.

    Args:
        row (`Row`): the row, with an answer.

    Returns:
        `prompt` and `completion` (chat messages) and `images` (Pillow images, or paths as texts), which plain TRL
        reads, and the fields that `ArrCocCollator` reads besides.
    """
    decoded = [image.value() if isinstance(image, StoredImage) else image for image in row.images]
    example: dict[str, Any] = {
        "prompt": prompt_messages(row),
        "completion": completion_messages(row),
        "images": [str(image) if isinstance(image, Path) else image for image in decoded],
        "id": row.id,
        "answers": list(row.answers),
    }
    for name in _KEPT:
        value = getattr(row, name)
        example[name] = _as_lists(value)
    return example


def from_trl(example: Mapping[str, Any]) -> Row:
    """The row of a prompt–completion example, whether `to_trl` made it or not.

    Args:
        example (`Mapping`): `prompt` and `completion` as chat messages, `images` or `image`, and optionally fields
            of `row_from_dict`.

    Raises:
        ValueError: The messages are no questions and answers in turn, or a field is malformed.
    """
    texts = [_content_text(message["content"]) for message in example["prompt"]]
    speakers = [message["role"] for message in example["prompt"]]
    if speakers != ["user", "assistant"] * (len(texts) // 2) + ["user"] or len(example["completion"]) != 1:
        raise ValueError(
            "prompt must hold user and assistant turns and end with the user's, completion the assistant's answer; "
            f"found {speakers} and {len(example['completion'])} turns"
        )
    taught = _content_text(example["completion"][0]["content"])
    fields = {
        **example,
        "question": texts[-1],
        "answers": example.get("answers") or [taught],
        "history": list(zip(texts[:-1:2], texts[1::2], strict=True)),
    }
    return row_from_dict(fields, name="")


def trl_dataset(rows: Sequence[Row]) -> Any:
    """Rows as a `datasets.Dataset` for TRL, which takes no other kind; files are decoded when they are read.

    Args:
        rows (`Sequence[Row]`): with answers; `token_budget`, where given, of one type in all rows.

    Returns:
        `datasets.Dataset` of the examples of `to_trl`.
    """
    from datasets import Dataset, Image, List

    dataset = Dataset.from_list([to_trl(row) for row in rows])
    return dataset.cast_column("images", List(Image()))


def _message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _as_lists(value: Any) -> Any:
    return [_as_lists(entry) for entry in value] if isinstance(value, tuple) else value
