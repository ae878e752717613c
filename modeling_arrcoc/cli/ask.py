"""`arrcoc ask`: ask a question about an image under a token budget."""

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from arrcoc.outputs import Allocation
from arrcoc.processing import ArrCocProcessor
from arrcoc.processing.images import load_image

from .checkpoints import BUNDLED, chat_inputs, checkpoint_folder, load_model, load_processor
from .files import save_picture
from .viewer import draw_report


def ask(
    image: Path,
    question: str,
    model: str = BUNDLED,
    token_budget: int | float | str | None = None,
    max_new_tokens: int = 128,
    device: str | None = None,
    show: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print the answer to a question about an image, the visual tokens spent and the time.

    Args:
        image (`Path`): the image.
        question (`str`): the question.
        model (`str`): checkpoint folder, wrapped or stock, or its name; the bundled one by default.
        token_budget (*optional*): visual tokens; defaults to the checkpoint's own budget, and to native without one.
        max_new_tokens (`int`): longest answer.
        device (`str`, *optional*): defaults to an accelerator if there is one.
        show (`Path`, *optional*): picture to write, of where the tokens went.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the image or the checkpoint cannot be read, or the device cannot be used.
    """
    picture = load_image(image)
    place = _device(device)
    folder = checkpoint_folder(model)
    network = load_model(folder).to(place).eval()
    processor = load_processor(folder)
    if token_budget is None and processor.token_budget is None:
        token_budget = 1.0

    reply = respond(network, processor, picture, question, token_budget, max_new_tokens)
    allocation = reply.allocation
    native = int(allocation.cells_per_image[0])
    if isinstance(token_budget, int) and token_budget > native:
        warnings.warn(f"the image has only {native} visual tokens, fewer than the budget {token_budget}", stacklevel=2)
    if show is not None:
        save_picture(draw_report(picture, allocation, question), show)
    report = {
        "answer": reply.answer,
        "visual_tokens": int(allocation.budgets[0]),
        "native_tokens": native,
        "prompt_tokens": reply.prompt_tokens,
        "generated_tokens": reply.generated_tokens,
        "seconds": round(reply.seconds, 3),
        "picture": None if show is None else str(show),
    }
    print(json.dumps(report, ensure_ascii=False) if as_json else describe(report))


@dataclass(frozen=True)
class Reply:
    """An answer, and what it took.

    Args:
        answer (`str`): text.
        allocation (`Allocation`): of the image.
        prompt_tokens, generated_tokens (`int`): counts.
        seconds (`float`): from the picture to the answer.
    """

    answer: str
    allocation: Allocation
    prompt_tokens: int
    generated_tokens: int
    seconds: float


def respond(
    network: Any,
    processor: ArrCocProcessor,
    picture: Image.Image,
    question: str,
    token_budget: int | float | str | None,
    max_new_tokens: int,
) -> Reply:
    """Let a loaded model answer a question about an image.

    Args:
        network: wrapped model, on its device.
        processor (`ArrCocProcessor`): of the model.
        picture (`PIL.Image.Image`): the image.
        question (`str`): the question.
        token_budget: visual tokens; `None` for the processor's own default.
        max_new_tokens (`int`): longest answer.
    """
    started = time.perf_counter()
    inputs = chat_inputs(processor, picture, question, token_budget).to(network.device)
    with tqdm(total=max_new_tokens, desc="answering", unit=" tokens", delay=2, leave=False) as bar, torch.no_grad():
        encoded = network.encode_images(**inputs)
        generated = network.generate(
            **inputs, encoded_images=encoded, max_new_tokens=max_new_tokens, streamer=_ProgressStreamer(bar)
        )
    seconds = time.perf_counter() - started
    prompt = inputs["input_ids"].shape[1]
    answer = processor.decode(generated[0, prompt:], skip_special_tokens=True).strip()
    return Reply(answer, encoded.allocation, prompt, generated.shape[1] - prompt, seconds)


def describe(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    lines = [
        report["answer"],
        f"visual tokens {report['visual_tokens']} of {report['native_tokens']}, "
        f"answer {report['generated_tokens']} tokens, {report['seconds']:.1f} s",
    ]
    if report["picture"] is not None:
        lines.append(f"picture {report['picture']}")
    return "\n".join(lines)


class _ProgressStreamer:
    """Advances a progress bar by one for each generated token; the prompt comes first and is not counted."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self.bar = bar
        self.prompt_seen = False

    def put(self, value: Any) -> None:
        if self.prompt_seen:
            self.bar.update(1)
        self.prompt_seen = True

    def end(self) -> None:
        pass


def _device(name: str | None) -> torch.device:
    """The device to compute on.

    Raises:
        ValueError: if there is no such device.
    """
    if name is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"the device {name!r} cannot be used: {error}") from None
