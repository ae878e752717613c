"""The stage in which all learns at once, from warped pages as pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference.answering import LEADS, Turn, led
from reference.cache import shards
from reference.features import enlarged, places, tower_view
from reference.loop import Trainer
from reference.model import HOSTS
from reference.pictures import Cut, patches
from reference.plan import Plan, Reference
from reference.stage_listening import guided_layers, listening_step
from reference.stage_reading import WarpedPages, measure_reading
from reference.stage_together import Sights, page_step
from reference.warps import LEAST_SCALE, MOST_SLANT, STRONG_SCALES, STRONG_SLANT, Warp, random_warp, strong_warp


SQUARE = 6


def page_with_a_square(size, center):
    page = np.full((size, size, 3), 250, np.uint8)
    x, y = np.round(center).astype(int)
    page[y - SQUARE : y + SQUARE, x - SQUARE : x + SQUARE] = 0
    return page


def darkest(picture):
    """Middle of what is dark, x and y in pixels."""
    rows, columns = np.nonzero(picture[..., 0] < 125)
    return np.array([columns.mean(), rows.mean()]) + 0.5


@pytest.mark.parametrize("make", [random_warp, strong_warp])
@pytest.mark.parametrize("seed", range(8))
def test_a_warp_moves_letters_with_the_page(seed, make):
    warp = make(256, np.random.default_rng(seed))
    for center in ((40, 50), (200, 60), (128, 220)):
        moved = 2 * warp.moved(np.array(center))
        is_inside = (moved > 2 * SQUARE).all() and (moved < 512 - 2 * SQUARE).all()
        assert is_inside or make is strong_warp
        if is_inside:
            assert np.abs(darkest(warp.draw(page_with_a_square(256, center), 512)) - moved).max() < 1.5


@pytest.mark.parametrize("seed", range(8))
def test_of_a_page_that_is_asked_about_all_is_still_seen(seed):
    corners = np.array([(0, 0), (256, 0), (0, 256), (256, 256)])
    corners = random_warp(256, np.random.default_rng(seed)).moved(corners)
    assert corners.min() > -1e-6 and corners.max() < 256 + 1e-6


def test_warps_are_as_far_as_they_may_be_and_no_farther():
    matrices = np.array([random_warp(256, np.random.default_rng(seed)).matrix for seed in range(200)])
    across, slant, down = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    assert across.min() >= LEAST_SCALE and across.max() == 1 and across.min() < 0.75
    assert down.min() >= LEAST_SCALE and (down == 1).any()
    assert -MOST_SLANT <= slant.min() < -0.2 and 0.2 < slant.max() <= MOST_SLANT and (slant == 0).any()


def test_strong_warps_are_stronger_and_leave_the_picture_full():
    matrices = np.array([strong_warp(256, np.random.default_rng(seed)).matrix for seed in range(200)])
    across, slant, down = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    least, most = STRONG_SCALES
    for scales in (across, down):
        assert least <= scales.min() < 0.75 and 1.2 < scales.max() <= most and (scales == 1).any()
    assert MOST_SLANT < np.abs(slant).max() <= STRONG_SLANT
    enlarged_ones = matrices[(across > 1) & (down > 1) & (slant == 0)]
    corners = enlarged_ones[:, :, :2] @ np.array([(0, 0), (256, 256)]).T + enlarged_ones[:, :, 2:]  # (warps, 2, 2)
    assert len(corners) > 5 and corners[..., 0].max() <= 1e-6 and corners[..., 1].min() >= 256 - 1e-6


def test_warped_pages_say_where_their_letters_are(root, preset, monkeypatch):
    still = Warp(np.eye(2, 3))
    monkeypatch.setattr("reference.stage_reading.strong_warp", lambda size, dice: still)
    found = places(shards(preset.pages, root))
    batch = WarpedPages(found, 512, 2)(3)
    dice = np.random.default_rng((19, 3))
    for number in range(2):
        shard, index = found[dice.integers(len(found))]
        picture, cells, letters = Cut(shard, index, 0, 0, 256).draw(512)
        for name, expected in (("cells", cells), ("letters", letters)):
            np.testing.assert_array_equal(batch[name].chunk(2)[number], expected)
        assert (batch["values"].chunk(2)[number] - patches([picture])[0]).abs().mean() < 0.02
    assert all(torch.equal(values, WarpedPages(found, 512, 2)(3)[name]) for name, values in batch.items())
    reference = Reference("micro")
    shares = measure_reading(reference.model.model.visual, reference.reader, {"warped": WarpedPages(found, 512, 2)}, 1)
    assert 0 <= shares["warped"] < 0.5


@pytest.mark.parametrize(("weight", "darker"), [(0.5, True), (-0.5, False)])
def test_a_warp_makes_strokes_heavier_or_lighter(weight, darker):
    still, page = np.eye(2, 3), page_with_a_square(64, (30, 30))
    plain, changed = (Warp(still, value).draw(page, 64).astype(float).mean() for value in (0.0, weight))
    assert (changed < plain) == darker
    np.testing.assert_array_equal(Warp(still).draw(page, 64), page)


def test_a_warped_question_keeps_what_is_not_known():
    warp = Warp(np.array([[0.5, 0.0, 10.0], [0.0, 1.0, 0.0]]))
    letters = np.array([[20.0, 30.0], [np.nan, np.nan]])
    turn = warp.turn(Turn("Fee?", "86", "key_value", letters=letters, spoken=letters))
    assert turn.before is None and turn.answer == "86"
    np.testing.assert_array_equal(turn.letters, [[20.0, 30.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(turn.spoken, turn.letters)


def test_pages_that_are_not_warped_are_those_of_the_stages_before(root, preset):
    """A step from pixels is one from the features of the same pages, and its gradient reaches the tower."""
    reference = Reference("micro")
    plan = Plan(preset, root, reference)
    tower = reference.model.model.visual
    sights = Sights(plan.writer, places(shards(preset.pages, root)), 512, 2, warped=0.0)
    batch = sights(3)
    loss, metrics = page_step(reference.model, reference.reader, 0.0, batch)
    pixels = batch["values"].shape[0] // 2
    assert pixels == 32**2 and batch["cells"].shape[0] == 2 * 16**2

    dice = np.random.default_rng((sights.seed, 3))
    shard, index = sights.places[dice.integers(len(sights.places))]
    features = tower_view(tower)([enlarged(shard.pixels[index], 512)])
    seen = tower(batch["values"], grid_thw=batch["grids"])
    torch.testing.assert_close(
        torch.from_numpy(features[0, :, 0]).float(), seen.pooler_output[: 16**2].float(), atol=0.05, rtol=0.05
    )
    stacked = torch.stack([seen.pooler_output, *seen.deepstack_features], 1)
    expected, _ = listening_step(reference.model, 0.0, {**batch, "features": stacked.detach()})
    torch.testing.assert_close(loss.detach(), expected.detach(), atol=0.02, rtol=0)
    loss.backward()
    assert tower.blocks[0].attn.qkv.weight.grad.abs().max() > 0
    assert {"answer", "reading", "read", "before1", "following2"} <= metrics.keys()


def test_words_before_a_question_move_its_letters():
    spoken = np.arange(8.0).reshape(4, 2)
    turn, dice = Turn("Fee?", "86", "key_value", spoken=spoken), np.random.default_rng(0)
    found = [led(turn, dice) for _ in range(400)]
    longer = [other for other in found if other is not turn]
    assert 30 < len(longer) < 90
    for other in longer:
        lead = other.question.removesuffix("Fee?")
        assert lead in LEADS and "simpl" not in lead
        assert np.isnan(other.spoken[: len(lead)]).all()
        np.testing.assert_array_equal(other.spoken[len(lead) :], spoken)
    assert {other.question for other in longer} == {lead + "Fee?" for lead in LEADS}


@pytest.mark.parametrize(("depth", "before", "following"), [(4, [1], [2, 3]), (5, [1], [2, 3]), (6, [1, 2], [3, 4])])
def test_layers_that_are_told_where_to_look(depth, before, following):
    found = guided_layers(depth)
    assert list(found["before"]) == before and list(found["following"]) == following


@pytest.mark.parametrize("host", HOSTS)
def test_all_but_the_embeddings_learns(root, preset, tmp_path, host):
    torch.manual_seed(0)
    reference = Reference("micro", host)
    stage = Plan(preset, root, reference).stages(["together"])[0]
    before = {name: weights.clone() for name, weights in reference.named_parameters()}
    Trainer(reference, [replace(stage, steps=4)], tmp_path).run()  # of resized pages relevance learns nothing
    moved = {name for name, weights in reference.named_parameters() if not torch.equal(weights, before[name])}
    for part in ("visual.blocks", "visual.merger", "language_model.layers", "arrcoc.relevance"):
        assert any(name.startswith(f"model.model.{part}") for name in moved), part
    still = {name for name in before if "embed_tokens" in name or "patch_embed" in name or "pos_embed" in name}
    assert still and not still & moved
