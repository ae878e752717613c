"""Whole pages that are read in pairs of cells."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference.answering import asked_turns
from reference.cache import shards
from reference.features import places
from reference.model import HOSTS
from reference.plan import Plan, Reference
from reference.reading import FIRST, cell_texts
from reference.stage_budgets import CODE, Questions
from reference.stage_pairs import PairedPages, paired_cells, paired_step, random_windows, through_windows
from reference.tokenizer import CELL


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("rows", [4, 5])
def test_pairs_are_the_loop(rows, offset):
    found = paired_cells(2, rows, 3, offset)
    leaves = []
    for top in range(-offset, rows, 2):
        leaves += [[max(top, 0), x, min(top + 2, rows), x + 1] for x in range(3)]
    assert found.boxes.tolist() == leaves * 2 and found.budgets.tolist() == [len(leaves)] * 2
    for image in range(2):
        for y in range(rows):
            for x in range(3):
                top, left, bottom, right = found.boxes[found.cell_to_leaf[(image * rows + y) * 3 + x]].tolist()
                assert top <= y < bottom and left <= x < right
                assert found.cell_to_leaf[(image * rows + y) * 3 + x] // len(leaves) == image


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_pair_is_read_as_its_cells_are(root, preset, seed):
    """The letters of a pair are those of its two cells."""
    pages = PairedPages(places(shards(preset.pages, root)), 512, 1, warped=0.0, seed=seed)
    batch = pages(0)
    offset = int(batch["offset"])
    dice = np.random.default_rng((seed, 0))
    dice.integers(2)
    shard, index = pages.places[dice.integers(len(pages.places))]
    centers, codes, starts = shard.letters(index)
    single = cell_texts(centers * 512 / shard.pixels.shape[1], codes, starts, 16, 16)
    pairs = paired_cells(1, 16, 16, offset)
    assert len(batch["texts"]) == len(pairs.boxes)

    def letters(texts):
        return sorted(texts[texts > FIRST].tolist())

    for leaf, text in enumerate(batch["texts"]):
        cells = single[(pairs.cell_to_leaf == leaf).numpy()]
        if (cells[:, -1] == 0).all() and text[-1] == 0:  # no cell is too full
            assert letters(text) == letters(torch.from_numpy(cells))
    assert len(batch["values"]) == (512 // CELL) ** 2 * 4


@pytest.mark.parametrize("host", HOSTS)
def test_tower_and_reader_learn_from_pairs(root, preset, host):
    reference = Reference("micro", host)
    batch = PairedPages(places(shards(preset.pages, root)), 256, 2)(1)
    loss, metrics = paired_step(reference.model, reference.reader, batch)
    loss.backward()
    assert 0 <= metrics["read"] <= 1 and loss > 1
    for weights in (reference.reader.cell_head.weight, reference.model.model.visual.blocks[0].attn.qkv.weight):
        assert weights.grad.abs().max() > 0


def test_a_model_without_pairs_reads_none(root, preset):
    (stage,) = Plan(preset, root, Reference("micro", pair_worth=None)).stages(["together"])
    loss, metrics = stage.loss(stage.batch(0))
    assert torch.isfinite(loss)
    assert {name.split(".")[0] for name in metrics} == {"pages", "budgets", "print"}


def test_some_questions_are_those_of_the_longest_answer(root, preset):
    reference = Reference("micro")
    plan = Plan(preset, root, reference)
    found = places(shards(preset.pages, root))

    def answers(share):
        labels = Questions(plan.writer, found, 256, 8, long=share)(0)["labels"]
        return (labels >= 0).sum(1)

    assert answers(1.0).float().mean() > answers(0.0).float().mean()


def test_some_questions_are_those_of_codes(root, preset):
    writer = Plan(preset, root, Reference("micro")).writer
    found = places(shards(preset.pages, root))
    with_codes = [place for place in found if any(CODE.fullmatch(turn.answer) for turn in asked_turns(*place))]

    def answers(share):
        labels = Questions(writer, with_codes, 256, 16, codes=share)(0)["labels"]
        return [writer.tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in labels]

    assert with_codes and all(CODE.fullmatch(answer) for answer in answers(1.0))
    assert not all(CODE.fullmatch(answer) for answer in answers(0.0))


@pytest.mark.parametrize(
    ("answer", "is_code"),
    [("17-OCT-2024", True), ("AB-1234", True), ("2024", False), ("TOTAL", False), ("A1", False), ("Tue 12", False)],
)
def test_codes_are_of_capitals_and_digits(answer, is_code):
    assert bool(CODE.fullmatch(answer)) == is_code


@pytest.mark.parametrize(("rows", "offset"), [(6, 0), (6, 1), (5, 0), (5, 1)])
def test_windows_show_what_is_in_them_alone(rows, offset):
    dice = np.random.default_rng(rows + offset)
    begins = random_windows(dice.uniform(0, rows, 8), rows, offset, dice)
    allocation = paired_cells(1, rows, rows, offset)
    assert torch.equal(torch.from_numpy(begins.repeat(rows) >= 0), allocation.sizes[:, 0] == 2)
    drawn = replace(allocation, windows=torch.from_numpy(begins.repeat(rows)).float()).drawn[::rows].numpy()
    places = dice.uniform(0, rows * CELL, (200, 2))
    for (across, down), (x, y) in zip(places, through_windows(places, begins, offset), strict=True):
        shown = [number for number, box in enumerate(drawn) if box[0] <= down / CELL < box[2]]
        assert x == across and (y == pytest.approx((shown[0] - drawn[shown[0], 0]) * CELL + down) if shown else y < 0)


@pytest.mark.parametrize("seed", range(4))
def test_a_window_is_about_a_letter_of_its_row(seed):
    dice = np.random.default_rng(seed)
    letters = np.array([0.7, 2.4, 5.1])
    begins = random_windows(letters, 8, 0, dice)
    assert (np.abs(begins[:3] + 0.5 - (0.7, 0.5, 1.1)) < 0.25).all()  # the second is as high as it can be
    assert 0 <= begins[3] <= 1 and np.array_equal(begins * CELL, np.round(begins * CELL))


@pytest.mark.parametrize("host", HOSTS)
def test_tower_and_reader_learn_from_windows(root, preset, host):
    reference = Reference("micro", host, pair_drawing="window")
    found = places(shards(preset.pages, root))
    batch = PairedPages(found, 256, 2, windows=True)(0)
    assert len(batch["windows"]) * 20 == batch["texts"].numel()
    loss, metrics = paired_step(reference.model, reference.reader, batch)
    loss.backward()
    assert 0 <= metrics["read"] <= 1
    assert reference.model.model.visual.blocks[0].attn.qkv.weight.grad.abs().max() > 0
