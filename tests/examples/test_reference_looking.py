"""What the relevance of the reference model is taught, and from which documents."""

from dataclasses import replace

import pytest
import torch
from reference.answering import Turn, asked_turns
from reference.cache import Drawing, draw, shards
from reference.features import Seen, glance_view, information_view, places
from reference.model import HOSTS
from reference.plan import Plan, Reference
from reference.stage_budgets import Questions, answer_at_budget
from reference.stage_looking import ENOUGH, NAMED, Glances, looking_step, wanted_cells


def test_named_words_are_wanted_less_than_the_answer():
    turn = Turn("A?", "b", "key_value", ((32, 0, 80, 32),), named=((0, 0, 48, 36),))
    evidence, wanted = wanted_cells(turn, (128, 64), (2, 4))
    assert evidence.tolist() == [0, 1, 0.5, 0, 0, 0, 0, 0]
    assert wanted.tolist() == pytest.approx(
        [NAMED, 1, min(1, 0.5 / ENOUGH), 0, *(NAMED * share / ENOUGH for share in (0.125, 0.0625)), 0, 0]
    )
    assert wanted_cells(replace(turn, named=()), (128, 64), (2, 4))[1].tolist() == [
        0,
        1,
        min(1, 0.5 / ENOUGH),
        *[0] * 5,
    ]


def test_relevance_learns_from_small_print_besides(root, preset):
    """Every other batch is of other pages at their own size, and holds as many cells."""
    larger = Drawing("train", 1024, ("form",), 1, 1, plain=True)
    draw([larger], root)
    glances = Plan(replace(preset, glances=4, small_print=(larger,)), root, Reference("micro")).stages()[3].batch
    first, second = glances(0), glances(1)
    assert first["information"].shape == (4, 256) and first["features"].shape[:2] == (4, 64)
    assert second["information"].shape == (1, 1024) and second["features"].shape[:2] == (1, 256)
    assert len(second["wanted"]) == 1024 * len(second["document"]) and second["evidence"].max() > 0.5


def test_large_pages_are_seen_as_large(root, preset):
    """The same print in the same size: relevance and language model learn from more cells in fewer pages."""
    large = Drawing("train", 384, ("form",), 1, 2, plain=True, clear=True)
    draw([large], root)
    options = {"glances": 4, "chats": 4, "questions": 4, "workers": 2, "large_pages": (large,)}
    looking, together = Plan(replace(preset, **options), root, Reference("micro")).stages(["looking", "together"])
    looked = [looking.batch(number)["information"].shape for number in range(4)]
    assert looked == [(4, 256), (4, 256), (1, 576), (1, 576)]
    # Two processes are at a step together, which should be of one size; two of three pairs are large.
    whole = [together.batch(number) for number in range(6)]
    assert [len(batch["pages.grids"]) for batch in whole] == [2, 2, 1, 1, 1, 1]
    assert [batch["pages.grids"][0].tolist() for batch in whole[1:3]] == [[1, 32, 32], [1, 48, 48]]
    assert {len(batch["budgets.image_grid_thw"]) for batch in whole[2:]} == {1}
    assert {int(batch["budgets.image_information"].numel()) for batch in whole[2:]} & {576}


def test_looking_again_is_of_the_tower_as_it_is_then(root, preset):
    """A stage that looks keeps the features of its first batch; the last one must not have those of the one before."""
    reference = Reference("micro")
    first, budgets, again = Plan(preset, root, reference).stages(["looking", "budgets", "looking again"])
    before = first.batch(0)["features"]
    with torch.no_grad():
        for parameter in reference.model.model.visual.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    after = again.batch(0)["features"]
    assert before.shape == after.shape and not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(first.batch(0)["features"], before)
    assert set(first.rates) == set(again.rates) == {"model.model.arrcoc.relevance"}
    assert not any("arrcoc" in name for name in budgets.rates)  # it stands still while the model learns to answer


@pytest.mark.parametrize("host", HOSTS)
def test_the_glance_of_the_training_is_the_models(root, preset, host):
    """Relevance is trained on features that the model will give it."""
    torch.manual_seed(0)
    reference = Reference("micro", host).eval()
    plan = Plan(preset, root, reference)
    found = places(shards(preset.pages, root))[:2]
    asked = [(place, asked_turns(*place)[0]) for place in found]
    batch = Questions(plan.writer, found, 512, 2).collate(asked, 0.25)
    relevance = reference.model.model.arrcoc.relevance
    heard = []
    handle = relevance.register_forward_hook(lambda module, inputs, outputs: heard.append(inputs))
    with torch.no_grad():
        answer_at_budget(reference.model, batch)
        cells, grids, question, mask, known = heard.pop()
        tower = reference.model.model.visual
        glance = Seen(found, glance_view(tower, 1), 512, "glance", tower)
        information = Seen(found, information_view, 512, "information")
        glances = Glances(plan.writer, glance, information, 2)
        looking_step(reference.model, glances.collate([(place, [turn]) for place, turn in asked]))
    handle.remove()
    for found_value, expected in zip(heard[0][:4], (cells, grids, question, mask), strict=True):
        torch.testing.assert_close(found_value.float(), expected.float(), atol=0.05, rtol=0.05)
    torch.testing.assert_close(heard[0][4]["information"], known["information"])
