"""Learned relevance: its scorers against loops over cells and tokens, its start, its bounds, and what it can learn."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from arrcoc.layers import AxialAttention
from arrcoc.quadtree import packed_grid
from arrcoc.relevance import balance_maps
from arrcoc.scorers import BALANCES, HEADS, LearnedRelevance, token_positions
from tests.learned.test_scout import naive_block


DIM, CELL_DIM, EMBEDDING_DIM = 16, 12, 20
WEIGHTS = {"information": 1.0, "salience": 1.0, "query": 1.0}
GRIDS, LENGTHS = torch.tensor([(3, 4), (1, 1), (5, 2)]), [4, 1, 0]
CELLS = int(GRIDS.prod(1).sum())


def learned(weights=WEIGHTS, floor=0.05, scale=0.3, cell_dim=CELL_DIM, dim=DIM, is_axial=False) -> LearnedRelevance:
    """Random weights, `scale` away from where a block starts."""
    torch.manual_seed(0)
    module = LearnedRelevance(dim, cell_dim, EMBEDDING_DIM, weights, floor, is_axial)
    with torch.no_grad():
        for part in module.modules():
            if hasattr(part, "initialize"):
                part.initialize()
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return module


def problem(grids=GRIDS, lengths=LENGTHS, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(int(grids.prod(1).sum()), CELL_DIM, generator=generator)
    question = torch.randn(len(grids), max(lengths), EMBEDDING_DIM, generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    known = {"information": torch.rand(len(cells), generator=generator)}
    return cells, grids, question, mask, known


def naive_axial(layer: AxialAttention, picture: torch.Tensor) -> torch.Tensor:
    """One image `(rows, cols, dim)`: cell by cell, head by head, over its row and its column."""
    rows, cols, dim = picture.shape
    width = dim // HEADS
    normed, out = layer.norm(picture), torch.empty_like(picture)

    def attend(projected, slopes, here):
        query, found = projected[here, :dim], []
        keys, values = projected[:, dim : 2 * dim], projected[:, 2 * dim :]
        for head in range(HEADS):
            part, logits = slice(head * width, (head + 1) * width), []
            for place in range(len(projected)):
                fall = slopes[head, 0] if place < here else slopes[head, 1]
                logits.append(query[part] @ keys[place, part] / width**0.5 - fall * abs(place - here))
            found.append(torch.stack(logits).softmax(0) @ values[:, part])
        return torch.cat(found)

    for y in range(rows):
        for x in range(cols):
            along = attend(layer.along(normed[y]), layer.slopes[0], x)
            across = attend(layer.across(normed[:, x]), layer.slopes[1], y)
            out[y, x] = picture[y, x] + layer.join(torch.cat([along, across]))
    return out


def naive_relevance(module: LearnedRelevance, cells, grids, question, mask, known):
    """Image by image, cell by cell, token by token."""
    results, maps, balances, start = [], {"salience": [], "query": []}, [], 0
    for image, (rows, cols) in enumerate(grids.tolist()):
        here = slice(start, start + rows * cols)
        start += rows * cols
        seen = module.embed(module.cell_norm(cells[here]))  # (cells, dim)
        words = question[image, mask[image].bool()]
        tokens = module.question.embed(module.question.embedding_norm(words))
        if len(tokens):
            placed = (tokens + token_positions(torch.arange(len(tokens)), DIM))[None]
            tokens = naive_block(module.question.block, placed)[0]
        asked = tokens.mean(0) if len(tokens) else torch.zeros(DIM)

        mixed = torch.cat([seen.mean(0), asked])[None]
        balance = module.balance.balance(F.gelu(module.balance.hidden(module.balance.norm(mixed)))).sigmoid()[0]
        balances.append(balance)

        picture = naive_block(module.salience.block, seen.view(rows, cols, DIM))
        salience = module.salience.score(module.salience.norm(picture)).flatten()

        scorer = module.query
        candidates = scorer.token_norm(torch.cat([scorer.nothing[None], tokens]))
        found = []
        for cell in seen:
            heads = []
            for head in range(HEADS):
                part = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
                query = scorer.query(scorer.cell_norm(cell))[part]
                logits = torch.stack([query @ scorer.key(token)[part] for token in candidates]) / (DIM / HEADS) ** 0.5
                values = torch.stack([scorer.value(token)[part] for token in candidates])
                heads.append((logits.softmax(0)[:, None] * values).sum(0))
            found.append(scorer.found(torch.cat(heads)))
        found = torch.stack(found) + scorer.asked(asked)
        fused = F.gelu(scorer.fuse(torch.cat([seen, found, seen * found], 1))).view(rows, cols, DIM)
        for number, block in enumerate(scorer.blocks):
            if scorer.axial is not None:
                fused = naive_axial(scorer.axial[number], fused)
            fused = naive_block(block, fused)
        query = scorer.score(scorer.norm(fused)).flatten()

        maps["salience"].append(salience.sigmoid())
        maps["query"].append(query.sigmoid())
        power, explore = 3 ** (2 * balance[0] - 1), 3 ** (2 * balance[2] - 1)
        information = (known["information"][here] ** explore).view(rows, cols)
        smooth = torch.empty(rows, cols)
        for y in range(rows):
            for x in range(cols):
                smooth[y, x] = information[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean()
        product = smooth.flatten() * (2 * salience.sigmoid()) ** explore * (2 * query.sigmoid()) ** (1 / explore)
        floor = 0.05 ** (1.5 - balance[1])
        results.append(floor + (1 - floor) * (product / product.max()) ** power)
    return torch.cat(results), {name: torch.cat(values) for name, values in maps.items()}, torch.stack(balances)


@pytest.mark.parametrize("is_axial", [False, True])
def test_against_the_reference_in_values_and_gradients(is_axial):
    module, inputs = learned(is_axial=is_axial), problem()
    relevance, maps, balance = module(*inputs)
    expected, expected_maps, expected_balance = naive_relevance(module, *inputs)
    torch.testing.assert_close(relevance, expected)
    for name, values in expected_maps.items():
        torch.testing.assert_close(maps[name], values)
    torch.testing.assert_close(maps["information"], inputs[-1]["information"])
    torch.testing.assert_close(torch.stack([balance[name] for name in BALANCES], 1), expected_balance)
    probe = torch.randn(CELLS)
    parameters = list(module.parameters())
    ours, theirs = (torch.autograd.grad((out * probe).sum(), parameters) for out in (relevance, expected))
    for found_gradient, expected_gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found_gradient, expected_gradient, rtol=1e-3, atol=1e-5)
        assert found_gradient.abs().max() > 0


@pytest.mark.parametrize("is_axial", [False, True])
def test_padding_and_other_images_have_no_say(is_axial):
    module = learned(is_axial=is_axial)
    cells, grids, question, mask, known = problem()
    relevance, maps, balance = module(cells, grids, question, mask, known)
    noise = torch.randn(len(grids), 3, EMBEDDING_DIM)
    padded = torch.cat([torch.where(mask[..., None] > 0, question, 9.0), noise], 1)
    longer = F.pad(mask, (0, 3))
    torch.testing.assert_close(module(cells, grids, padded, longer, known)[0], relevance)
    start = 0
    for image, count in enumerate(grids.prod(1).tolist()):
        here, one = slice(start, start + count), slice(image, image + 1)
        start += count
        alone = module(cells[here], grids[one], question[one], mask[one], {"information": known["information"][here]})
        torch.testing.assert_close(alone[0], relevance[here])
        assert all(torch.allclose(alone[1][name], values[here]) for name, values in maps.items())
        assert all(torch.allclose(alone[2][name], values[one]) for name, values in balance.items())


def test_axial_attention_changes_nothing_until_it_is_trained():
    plain, axial = learned(scale=0.0), learned(scale=0.0, is_axial=True)
    with torch.no_grad():
        for module in (plain.query, axial.query):  # scores start at zero, whatever leads to them
            module.score.weight.fill_(0.3)
    assert not axial.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    assert torch.equal(axial(*problem())[0], plain(*problem())[0])


def test_a_cell_learns_from_a_label_far_away_in_its_row_or_column():
    """Which convolutions of nine cells in all do not reach."""
    grids = torch.tensor([(1, 12), (12, 1)])
    cells, _, question, mask, _ = problem(grids, [3, 3])
    other = cells.clone()
    other[[0, 12]] *= -1  # the first cell of each
    for is_axial in (False, True):
        module = learned(is_axial=is_axial)
        moved = module(cells, grids, question, mask)[1]["query"] - module(other, grids, question, mask)[1]["query"]
        assert moved.view(2, 12)[:, 0].abs().min() > 1e-3
        assert (moved.view(2, 12)[:, -1].abs().min() > 1e-4) == is_axial


def test_the_order_of_words_matters():
    module = learned()
    cells, grids, question, mask, known = problem(lengths=[4, 4, 4])
    assert not torch.allclose(
        module(cells, grids, question, mask, known)[1]["query"],
        module(cells, grids, question.flip(1), mask, known)[1]["query"],
        atol=1e-4,
    )


@pytest.mark.parametrize("names", [("information",), ("information", "query"), ("information", "salience", "query")])
def test_an_untrained_block_is_the_training_free_relevance(names):
    module = learned(scale=0.0)
    cells, grids, question, mask, _ = problem()
    known = {name: torch.rand(CELLS) for name in names}
    known["information"][:3] = 0  # nothing at all, and as much as there can be
    known[names[-1]][3:6] = 1
    weights = {name: WEIGHTS[name] for name in names}
    relevance, maps, balance = module(cells, grids, question, mask, known)
    torch.testing.assert_close(relevance, balance_maps(known, weights, 0.05, grids), rtol=1e-4, atol=1e-4)
    assert all((values == 0.5).all() for values in balance.values())
    for name, values in maps.items():
        expected = known.get(name, torch.full((CELLS,), 0.5))
        torch.testing.assert_close(values, expected, rtol=0, atol=2e-6)


def test_maps_of_weight_zero_have_no_scorer():
    for name in WEIGHTS:
        module = learned({**WEIGHTS, name: 0.0})
        maps = module(*problem())[1]
        assert set(maps) == set(WEIGHTS) - {name}
        assert getattr(module, name, None) is None


@settings(max_examples=30, deadline=None)
@given(scale=st.sampled_from([0.1, 1.0, 30.0]), floor=st.sampled_from([1e-3, 0.05, 0.5, 1.0]), seed=st.integers(0, 99))
def test_bounds(scale, floor, seed):
    """Whatever the weights: finite, above the least floor, at most 1, and 1 somewhere in every image."""
    module = learned(floor=floor, scale=scale)
    cells, grids, question, mask, known = problem(seed=seed)
    relevance, maps, balance = module(cells * 10, grids, question, mask, known)
    assert relevance.isfinite().all()
    assert relevance.min() >= floor**1.5 * 0.999
    assert relevance.max() <= 1.0001
    image = packed_grid(*grids.unbind(1)).image
    highest = torch.zeros(len(grids)).scatter_reduce(0, image, relevance, "amax")
    torch.testing.assert_close(highest, torch.ones(len(grids)))
    assert all(((values >= 0) & (values <= 1)).all() for values in [*maps.values(), *balance.values()])


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e6])
@pytest.mark.parametrize("tokens", [0, 1, 500])
@pytest.mark.parametrize("is_axial", [False, True])
def test_no_nan_for_flat_pictures_and_any_question(value, tokens, is_axial):
    module, grids = learned(is_axial=is_axial), torch.tensor([(4, 6), (1, 1)])
    cells = torch.full((25, CELL_DIM), value, requires_grad=True)
    question, mask = torch.randn(2, tokens, EMBEDDING_DIM), torch.ones(2, tokens)
    for information in (torch.zeros(25), torch.ones(25)):
        relevance, maps, balance = module(cells, grids, question, mask, {"information": information})
        assert all(values.isfinite().all() for values in (relevance, *maps.values(), *balance.values()))
        relevance.sum().backward()
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_float32_under_autocast_and_for_low_precision_inputs():
    module = learned()
    cells, grids, question, mask, known = problem()
    cells, question = cells.bfloat16(), question.bfloat16()
    expected = module(cells.float(), grids, question.float(), mask, known)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(cells, grids, question, mask, known)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(values, expected[1][name]) for name, values in found[1].items())
    assert all(torch.equal(values, expected[2][name]) for name, values in found[2].items())


def test_the_balances_do_what_their_names_say():
    """Each balance at its ends, everything else alike."""
    module, inputs = learned(), problem(torch.tensor([(6, 6)]), [4])
    with torch.no_grad():
        module.balance.balance.weight.zero_()
        module.balance.balance.bias.zero_()

    def relevance(name: str, value: float) -> torch.Tensor:
        with torch.no_grad():
            module.balance.balance.bias.zero_()[BALANCES.index(name)] = value
            return module(*inputs)[0]

    flat, sharp = relevance("compress_particularize", -9), relevance("compress_particularize", 9)
    assert flat.mean() > sharp.mean() and flat.std() / flat.mean() < sharp.std() / sharp.mean()
    focused, diverse = relevance("focus_diversify", -9), relevance("focus_diversify", 9)
    assert (focused <= diverse + 1e-6).all()
    bound = torch.tensor([0.05**1.5, 0.05**0.5])
    assert focused.min() >= bound[0] and diverse.min() >= bound[1]


def test_exploiting_follows_the_question_and_exploring_the_picture():
    module, (*inputs, known) = learned(floor=1e-9), problem(torch.tensor([(6, 6)]), [4])
    known = {"information": torch.ones_like(known["information"])}
    with torch.no_grad():
        module.balance.balance.weight.zero_()
        for bias, explore in ((-20.0, 1 / 3), (0.0, 1.0), (20.0, 3.0)):
            module.balance.balance.bias.zero_()[BALANCES.index("exploit_explore")] = bias
            relevance, maps, _ = module(*inputs, known)
            expected = explore * maps["salience"].log() + maps["query"].log() / explore
            torch.testing.assert_close(relevance.log(), expected - expected.max(), rtol=1e-3, atol=1e-3)


def words(generator: torch.Generator, mixing: torch.Tensor, images: int = 32):
    """Pictures of 6 x 6 cells that each show two random tokens, and questions that contain the two of one cell."""
    first, second = (torch.randn(images, 36, EMBEDDING_DIM, generator=generator) for _ in range(2))
    cells = (first @ mixing[0] + second @ mixing[1]).flatten(0, 1)  # (cells, CELL_DIM)
    target = torch.randint(36, (images,), generator=generator)
    question = torch.randn(images, 8, EMBEDDING_DIM, generator=generator) * 0.1
    place = torch.randint(7, (images,), generator=generator)
    for image in range(images):
        question[image, place[image]] = first[image, target[image]]
        question[image, place[image] + 1] = second[image, target[image]]
    return cells, torch.tensor([(6, 6)] * images), question, torch.ones(images, 8), target


def test_words_that_the_question_names_are_spotted():
    """Open vocabulary: every picture and question has words of its own, none is seen twice."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, EMBEDDING_DIM, CELL_DIM, generator=generator) / EMBEDDING_DIM**0.5
    module = learned(scale=0.02, dim=64)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(400):
        *inputs, target = words(generator, mixing)
        scores = module(*inputs)[1]["query"].logit(eps=1e-6).view(-1, 36)
        loss = F.cross_entropy(scores, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    *inputs, target = words(generator, mixing, images=128)
    with torch.no_grad():
        scores = module(*inputs)[1]["query"].view(-1, 36)
    best = scores.topk(4, 1).indices
    assert (best == target[:, None]).any(1).float().mean() > 0.8  # at random: 0.11
