"""Shortened prompts, against lists of tokens that are shortened one by one."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from arrcoc.compaction import compact_placeholders


IMAGE, PAD = 99, 0
PLACEHOLDERS, BUDGETS = [4, 3, 1, 5], [2, 3, 1, 1]
# Two images, one image, none, one image; the tokens of text differ.
ROWS = [
    [1, 2, *[IMAGE] * 4, 3, *[IMAGE] * 3, 4, 5],
    [6, *[IMAGE] * 1, 7],
    [8, 9, 10],
    [11, *[IMAGE] * 5, 12, 13, 14, 15],
]
SHORT = [
    [1, 2, *[IMAGE] * 2, 3, *[IMAGE] * 3, 4, 5],
    [6, *[IMAGE] * 1, 7],
    [8, 9, 10],
    [11, *[IMAGE] * 1, 12, 13, 14, 15],
]


def pad(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    padded = [
        [PAD] * (length - len(row)) + row if side == "left" else row + [PAD] * (length - len(row)) for row in rows
    ]
    return torch.tensor(padded), (torch.tensor(padded) != PAD).long()


def compaction(ids: torch.Tensor, mask: torch.Tensor | None):
    return compact_placeholders(ids == IMAGE, torch.tensor(PLACEHOLDERS), torch.tensor(BUDGETS), mask)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_shortened_and_padded_anew(side: str) -> None:
    ids, mask = pad(ROWS, side)
    expected, expected_mask = pad(SHORT, side)
    found = compaction(ids, mask)
    attended = found.attended
    assert torch.equal(attended, expected_mask.bool())
    assert torch.equal(found.compact(ids)[attended], expected[attended])
    assert (found.compact(ids)[~attended] != IMAGE).all()
    assert found.removed == ids.shape[1] - expected.shape[1] == 2
    values = torch.rand(*ids.shape, 3)
    assert torch.equal(found.compact(values)[attended], values[found.kept])
    # The token after an image follows the same placeholder as before.
    columns = [column for column in range(ids.shape[1]) if ids[0, column] == 3]
    assert all(bool(found.kept[0, column - 1]) for column in columns)


@pytest.mark.parametrize("side", ["left", "right"])
def test_results_are_put_back_where_the_tokens_were(side: str) -> None:
    ids, mask = pad(ROWS, side)
    found = compaction(ids, mask)
    short = found.compact(ids)
    back = found.expand(short)
    assert torch.equal(back[found.kept], ids[found.kept])
    assert (back[~found.kept] == 0).all()
    text = (ids != IMAGE) & mask.bool()
    assert torch.equal(back[text], ids[text])
    hidden = torch.rand(*short.shape, 3, requires_grad=True)
    found.expand(hidden).sum().backward()
    assert torch.equal(hidden.grad, found.attended[..., None].float().expand_as(hidden))


def test_all_outputs_are_put_back() -> None:
    ids, mask = pad(ROWS, "left")
    found = compaction(ids, mask)
    batch, length = found.attended.shape
    hidden = torch.rand(batch, length, 3)
    attention = torch.rand(batch, 2, length, length)
    outputs = found.expand_outputs(
        BaseModelOutputWithPast(last_hidden_state=hidden, hidden_states=(hidden, 2 * hidden), attentions=(attention,))
    )
    assert torch.equal(outputs.last_hidden_state, found.expand(hidden))
    assert torch.equal(outputs.hidden_states[1], 2 * found.expand(hidden))
    for row in range(batch):
        kept, attended = found.kept[row].nonzero()[:, 0], found.attended[row].nonzero()[:, 0]
        square = outputs.attentions[0][row]
        assert torch.equal(square[:, kept][:, :, kept], attention[row][:, attended][:, :, attended])
        assert float(square.sum()) == pytest.approx(float(attention[row][:, attended][:, :, attended].sum()), rel=1e-5)


def test_rows_without_padding_are_padded_on_the_left() -> None:
    ids = torch.tensor([[1, *[IMAGE] * 4, 2, 3], [4, 5, *[IMAGE] * 3, 6, 7]])
    found = compact_placeholders(ids == IMAGE, torch.tensor([4, 3]), torch.tensor([1, 2]))
    assert found.compact(ids).tolist() == [[1, 1, 1, IMAGE, 2, 3], [4, 5, IMAGE, IMAGE, 6, 7]]
    assert found.attended.tolist() == [[False, False, True, True, True, True], [True] * 6]


def test_a_prompt_that_is_short_already_is_left_alone() -> None:
    ids, mask = pad(SHORT, "left")
    assert compaction(ids, mask) is None
    none = torch.zeros(0, dtype=torch.long)
    assert compact_placeholders(torch.zeros(2, 3, dtype=torch.bool), none, none) is None


def test_another_prompt_is_refused() -> None:
    ids, mask = pad(ROWS, "left")
    with pytest.raises(ValueError, match=r"images of \[4, 3, 1\] placeholders .* expected \[4, 3, 1, 5\]"):
        compaction(ids[:3], mask[:3])
    for wrong in (mask[:, None, None], mask[:, 1:]):
        with pytest.raises(ValueError, match="`attention_mask` of the shape"):
            compaction(ids, wrong)
    with pytest.raises(ValueError, match="found dict"):
        compaction(ids, {"full_attention": mask})
