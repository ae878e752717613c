"""Whether the model looks at all: features of different pages that are alike, answers that no page changes."""

import warnings

import numpy as np
import torch

from arrcoc.training.monitors import pairwise_cosine

from .answering import IGNORED, asked_turns, exact_of
from .loop import Metrics, to_device
from .model import Model
from .pictures import BLIND, blind_picture
from .stage_budgets import Questions, answer_at_budget


MOST_ALIKE, MOST_SAME = 0.995, 0.9  # pages are paper for the most part: those of a tower that reads have 0.98


def watch(model: Model, questions: Questions, documents: int = 16) -> Metrics:
    """Look at some pages, and at pictures without anything to read, with the same questions.

    Args:
        model: in evaluation mode.
        questions: of which the first documents with a printed answer are taken.
        documents: at least two.

    Returns:
        `alike`: mean cosine between the mean visual tokens of different pages; `same@noise` and so on: share of the
        questions whose answers are the same for the picture and for the page, each token given the right ones before
        it. A warning is given where they show that the model does not look.
    """
    asked = []
    for place in questions.places:
        if printed := [turn for turn in asked_turns(*place) if turn.letters is not None]:
            asked.append((place, printed[0]))
        if len(asked) == documents:
            break
    batch = to_device(questions.collate(asked, 1.0), model.device)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        seen = model.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
    metrics = {"alike": pairwise_cosine(list(seen.pooler_output))}
    logits, _ = answer_at_budget(model, batch)
    said = batch["labels"].clone()
    said[:, 1:][said[:, 1:] != IGNORED] = logits.argmax(-1)
    for name in BLIND:
        dice = np.random.default_rng(0)
        instead = {number: blind_picture(name, questions.side, dice) for number in range(len(asked))}
        shown = to_device(questions.collate(asked, 1.0, instead=instead), model.device)
        logits, _ = answer_at_budget(model, shown)
        metrics[f"same@{name}"] = sum(same for (same,) in exact_of(logits, said)) / len(asked)
    limits = {name: MOST_ALIKE if name == "alike" else MOST_SAME for name in metrics}
    for name, value in metrics.items():
        if value > limits[name]:
            warnings.warn(f"the model hardly looks: {name} is {value:.3f}, more than {limits[name]}", stacklevel=2)
    return metrics
