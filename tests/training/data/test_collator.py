"""Batches: what is trained on, what the allocation may see, evidence on the model's grid."""

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc.training.data import AUXILIARY_KEYS, ArrCocCollator, Row, evidence_cells, to_trl
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.helpers.tiny_processors import CELL_SIZE, HOSTS, tiny_processor
from tests.training.data.helpers import make_rows, picture, save_picture


@pytest.fixture(params=HOSTS)
def host(request):
    return request.param


@pytest.fixture
def processor(host):
    return tiny_processor(host)


def mixed_rows(host) -> list[Row]:
    """One image, text alone, two images with a history."""
    cell = CELL_SIZE[host]
    return [
        Row(
            id="one",
            question="What is the total?",
            answers=("twelve", "12"),
            images=(picture(4 * cell, 3 * cell),),
            evidence=(((0, 0, cell, cell), (2 * cell, cell, 4 * cell, 2 * cell)),),
            task="key_value",
            token_budget=5,
        ),
        Row(id="text", question="2 + 2?", answers=("4",), task="math"),
        Row(
            id="two",
            question="And now, is it the same?",
            answers=("no",),
            images=(picture(2 * cell, 2 * cell, 1), picture(3 * cell, 2 * cell, 2)),
            evidence=(None, ((0, 0, 3 * cell, cell),)),
            history=(("Is it the same?", "yes"),),
            token_budget=(2, 3),
            suggested_budget=64,
        ),
    ]


def decoded(processor, ids) -> str:
    return processor.tokenizer.decode(ids)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_labels_are_the_answer_and_the_end_of_the_turn(host, processor, padding_side):
    batch = ArrCocCollator(processor, padding_side=padding_side)(mixed_rows(host))
    length = batch["input_ids"].shape[1]
    for ids, mask, labels, answer in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"], ("twelve", "4", "no"), strict=True
    ):
        kept = labels != -100
        assert decoded(processor, labels[kept]) == f"{answer}<|im_end|>"
        assert torch.equal(ids[kept], labels[kept])
        assert decoded(processor, ids[~kept & mask.bool()]).endswith("<|im_start|>assistant\n")
        assert (ids[mask == 0] == processor.tokenizer.pad_token_id).all()
        inside = mask.nonzero().flatten()
        assert inside.tolist() == list(range(int(inside[0]), int(inside[-1]) + 1))
        assert int(inside[-1] if padding_side == "left" else inside[0]) == (
            length - 1 if padding_side == "left" else 0
        )
    placeholders = batch["input_ids"] == processor.image_token_id
    assert placeholders.sum(1).tolist() == [5, 0, 5]
    assert (batch["labels"][placeholders] == -100).all()
    assert torch.equal(batch["mm_token_type_ids"], placeholders.long())


def test_sequence_is_what_generation_sees(host, processor):
    """The prompt's tokens are those of a prompt alone, whatever the answer begins with."""
    for answer in ("no", "\nno", " no"):
        row = make_rows(1, answers=(answer,), token_budget=4)[0]
        batch = ArrCocCollator(processor)([row])
        text = processor.apply_chat_template(to_trl(row)["prompt"], add_generation_prompt=True)
        prompt = processor(images=list(row.images), text=[text], token_budget=4, return_tensors="pt")
        length = prompt["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][:, :length], prompt["input_ids"])
        for name in ("pixel_values", "image_grid_thw", "image_information", "image_query_ids", "image_query_mask"):
            torch.testing.assert_close(batch[name], prompt[name])


def test_the_allocation_never_sees_the_answer(host, processor):
    """Another answer changes nothing but the sequence and its labels; another question does."""
    rows = mixed_rows(host)
    collator = ArrCocCollator(processor)
    first = collator(rows)
    others = [Row(**{**vars(row), "answers": ("entirely different",)}) for row in rows]
    second = collator(others)
    sequence = {"input_ids", "attention_mask", "mm_token_type_ids", "labels"}
    for name in first.keys() - sequence:
        if isinstance(first[name], torch.Tensor):
            assert torch.equal(first[name], second[name]), name
        else:
            assert first[name] == second[name]
    questions = [
        decoded(processor, ids[mask.bool()])
        for ids, mask in zip(first["image_query_ids"], first["image_query_mask"], strict=True)
    ]
    assert questions == ["What is the total?", *["And now, is it the same?"] * 2]


def test_evidence_lies_on_the_models_grid(host, processor):
    batch = ArrCocCollator(processor)(mixed_rows(host))
    merge = processor.image_processor.merge_size
    cells = (batch["image_grid_thw"].prod(1) // merge**2).tolist()
    assert cells == [12, 4, 6]
    first, second, third = batch["evidence"].split(cells)
    assert first.view(3, 4).tolist() == [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert second.tolist() == [0] * 4
    assert third.view(2, 3).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert batch["has_evidence"].tolist() == [True, False, True]
    assert batch["suggested_budgets"].tolist() == [12, 4, 6]  # 256, 64 and 64, but there are no more cells
    assert batch["task"] == ["key_value", "math", ""]
    assert batch["row_ids"] == ["one", "text", "two"]
    assert "teacher" not in batch
    extra = batch.keys() & set(AUXILIARY_KEYS)
    assert extra == set(AUXILIARY_KEYS) - {"teacher", "has_teacher"}


def test_boxes_follow_an_image_that_is_resized(host, processor):
    """What the boxes surround is what the cells with evidence show, after the image processor's resizing."""
    cell = CELL_SIZE[host]
    size = (10 * cell + 11, 6 * cell - 9)  # no multiples of a cell: the processor resizes
    box = (3 * cell, 2 * cell, 6 * cell + 5, 4 * cell)
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 0
    row = Row("r", "Where?", ("there",), (Image.fromarray(pixels),), evidence=((box,),), token_budget=8)
    batch = ArrCocCollator(processor)([row])
    grid = (batch["image_grid_thw"][0, 1:] // 2).tolist()
    assert grid != [size[1] / cell, size[0] / cell]
    values = batch["pixel_values"].unflatten(1, (3, 2, -1))[:, 0, 0].mean(1)  # (patches,) lightness of red
    darkness = (values.max() - values) / (values.max() - values.min())
    shown = darkness.view(-1, 4).mean(1)  # (cells,) patches of a cell stand together
    torch.testing.assert_close(shown, batch["evidence"], atol=0.03, rtol=0)
    annotated = Row(**{**vars(row), "sizes": ((2 * size[0], 2 * size[1]),)})
    doubled = Row(**{**vars(annotated), "evidence": ((tuple(2 * side for side in box),),)})
    assert torch.equal(ArrCocCollator(processor)([doubled])["evidence"], batch["evidence"])
    assert torch.equal(batch["evidence"], evidence_cells([box], size, tuple(grid)))


def test_budgets_of_rows_collator_and_processor(host):
    plain, budgeted = tiny_processor(host), tiny_processor(host, token_budget=3)
    unset, own = make_rows(1)[0], make_rows(1, token_budget=2)[0]
    assert "image_token_budgets" not in ArrCocCollator(plain)([unset, unset])
    mixed = ArrCocCollator(plain)([unset, own])
    native = int(mixed["image_grid_thw"][0].prod() // 4)
    assert mixed["image_token_budgets"].tolist() == [native, 2]
    assert ArrCocCollator(budgeted)([unset, own])["image_token_budgets"].tolist() == [3, 2]
    assert ArrCocCollator(budgeted, token_budget=4)([unset, own])["image_token_budgets"].tolist() == [4, 2]
    half = ArrCocCollator(plain, token_budget=0.5)([unset])
    assert half["image_token_budgets"].tolist() == [round(native / 2)]


def test_a_batch_of_text_alone(host, processor):
    batch = ArrCocCollator(processor, token_budget=4)([mixed_rows(host)[1]] * 2)
    assert "pixel_values" not in batch
    assert batch["evidence"].shape == (0,)
    assert batch["has_evidence"].shape == batch["suggested_budgets"].shape == (0,)
    assert not batch["mm_token_type_ids"].any()


def test_teacher(host, processor):
    rows = mixed_rows(host)
    batch = ArrCocCollator(processor, teacher={"two": torch.arange(10, dtype=torch.float16)})(rows)
    assert batch["has_teacher"].tolist() == [False, True, True]
    assert batch["teacher"].dtype == torch.float32
    assert batch["teacher"].tolist() == [0.0] * 12 + list(range(10))
    with pytest.raises(ValueError, match=r"row 'one': the teacher saw \(3,\) cells, the images have 12"):
        ArrCocCollator(processor, teacher={"one": torch.zeros(3)})(rows)


def test_lengths(host, processor):
    rows = make_rows(2, answers=("a" * 50,), token_budget=2)
    whole = ArrCocCollator(processor)(rows)["input_ids"].shape[1]
    cut = ArrCocCollator(processor, max_length=whole - 20)(rows)
    assert cut["input_ids"].shape[1] == whole - 20
    assert (cut["labels"] != -100).sum(1).tolist() == [50 + 1 - 20] * 2
    with pytest.raises(ValueError, match=r"row 'r0': the prompt has \d+ tokens .* max_length=20"):
        ArrCocCollator(processor, max_length=20)(rows)
    padded = ArrCocCollator(processor, pad_to_multiple_of=64)(rows)
    assert padded["input_ids"].shape[1] % 64 == 0
    with pytest.raises(ValueError, match="padding_side"):
        ArrCocCollator(processor, padding_side="middle")
    with pytest.raises(ValueError, match="row 'r0' has no answer"):
        ArrCocCollator(processor)(make_rows(1, answers=()))


def test_rows_as_in_files_and_as_trl_has_them(host, processor, tmp_path):
    save_picture(tmp_path / "a.png")
    fields = {"id": "x", "image": tmp_path / "a.png", "question": "Q?", "answers": ["A", "B"], "token_budget": 3}
    fields |= {"evidence": [[0, 0, 50, 50]], "task": "t"}
    collator = ArrCocCollator(processor)
    row = Row("x", "Q?", ("A", "B"), (tmp_path / "a.png",), evidence=(((0, 0, 50, 50),),), task="t", token_budget=3)
    expected = collator([row])
    for form in (fields, to_trl(row)):
        found = collator([form])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value


def test_the_model_takes_the_batch(host, processor):
    """The loss over the batch is that of its rows one by one, weighted by their labels."""
    model = tiny_arrcoc_model(host, tie_word_embeddings=False).eval()
    rows = mixed_rows(host)
    losses, counts = [], []
    with torch.no_grad():
        for part in ([rows[0]], [rows[1]], [rows[2]], rows):
            batch = ArrCocCollator(processor)(part)
            inputs = {name: value for name, value in batch.items() if name not in AUXILIARY_KEYS}
            losses.append(float(model(**inputs).loss))
            counts.append(int((batch["labels"] != -100).sum()))
    assert losses[3] == pytest.approx(np.average(losses[:3], weights=counts[:3]), abs=1e-4)
