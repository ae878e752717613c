"""The question that asks about an image, read from a rendered prompt.

The allocation may depend on what the user asks, never on the answer, which in training stands in the same prompt. So
the question is the text of the last user turn and nothing else.
"""

import re
from collections.abc import Sequence


# transformers encloses control tokens that a user typed in these two characters (`sanitize_control_tokens=True`).
_MARK, _UNMARK = "\U000f0000", "\U000f0001"
_MARKED = re.compile(f"{_MARK}.*?{_UNMARK}", re.DOTALL)
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?=<\|im_end\|>|<\|im_start\|>|\Z)", re.DOTALL)
_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>")
_TOOL_RESPONSE = re.compile(r"<tool_response>.*?(?:</tool_response>|\Z)", re.DOTALL)


def extract_query(prompt: str) -> str:
    """The user's question in a prompt.

    In a ChatML prompt (`<|im_start|>user\\n...<|im_end|>`) it is the text of the last user turn that has any;
    what tools sent back, which the format puts into user turns, is no text of the user. A prompt without turns is a
    question as a whole. Special tokens (`<|vision_start|>`, `<|image_pad|>`, ...) are dropped, the rest is kept as it
    is ("Picture 1:" included).

    Args:
        prompt: The prompt with or without chat markup, placeholders expanded or not.

    Returns:
        The question; `""` if there is none.
    """
    prompt = _MARKED.sub("", prompt)
    turns = _TURN.findall(prompt)
    if not turns:
        return _without_special_tokens(prompt)
    asked = [_without_special_tokens(_TOOL_RESPONSE.sub("", text)) for role, text in turns if role == "user"]
    return next((text for text in reversed(asked) if text), "")


def count_images(prompt: str, image_token: str) -> int:
    """Image placeholders of a prompt; those that a user typed do not count."""
    return _MARKED.sub("", prompt).count(image_token)


def queries_per_image(
    queries: str | Sequence[str] | None, prompts: Sequence[str] | None, images_per_prompt: Sequence[int]
) -> list[str]:
    """The question about each image of a batch.

    Args:
        queries: Questions to take instead of those in the prompts: one for everything, one for each prompt, or one for
            each image (in a batch with as many prompts as images the entries belong to the prompts). `None` reads them
            from the prompts.
        prompts: The prompts; `None` if there is no text.
        images_per_prompt: Images of each prompt, in order; without prompts one entry with all images.

    Returns:
        `(images,)` questions in the order of the images.

    Raises:
        ValueError: If `queries` is neither a string nor a list of strings of one of the two lengths.
    """
    images = sum(images_per_prompt)
    if queries is None:
        per_prompt = [""] * len(images_per_prompt) if prompts is None else [extract_query(text) for text in prompts]
    elif isinstance(queries, str):
        return [_without_special_tokens(queries)] * images
    elif not isinstance(queries, list | tuple) or not all(isinstance(query, str) for query in queries):
        raise ValueError(f"queries must be a string or a list of strings, got {queries!r}")
    elif len(queries) == len(images_per_prompt):
        per_prompt = [_without_special_tokens(query) for query in queries]
    elif len(queries) == images:
        return [_without_special_tokens(query) for query in queries]
    else:
        raise ValueError(
            f"queries must have one entry for each prompt ({len(images_per_prompt)}) or for each image ({images}), "
            f"got {len(queries)}"
        )
    return [query for query, count in zip(per_prompt, images_per_prompt, strict=True) for _ in range(count)]


def _without_special_tokens(text: str) -> str:
    return _SPECIAL.sub("", text).strip()
