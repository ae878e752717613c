"""The training of the reference model, at a size that costs seconds: its targets, its stages, its resuming."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc import ArrCocQwen3VLForConditionalGeneration
from arrcoc.synthetic import bundled_face, generate


EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from reference import reading  # noqa: E402
from reference.answering import PrintedWord, Turn, Writer, exact_answers, reading_turns  # noqa: E402
from reference.cache import Drawing, Shard, draw, shards  # noqa: E402
from reference.loop import Trainer  # noqa: E402
from reference.model import build_model, quicken  # noqa: E402
from reference.pictures import Cut, patches  # noqa: E402
from reference.presets import PRESETS, Plan, Reference  # noqa: E402
from reference.stage_answering import Exam, places  # noqa: E402
from reference.tokenizer import ROLES, SPECIAL_TOKENS, build_processor, build_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def preset():
    kinds = ("form", "receipt")
    return replace(
        PRESETS["quick"],
        model="micro",
        small=Drawing("train", 256, kinds, 1, 6, plain=True),
        large=Drawing("train", 512, kinds, 1, 4, plain=True),
        validation=Drawing("validation", 256, kinds, 1, 4, plain=True),
        large_validation=Drawing("validation", 512, kinds, 1, 2, plain=True),
        reading=2,
        listening=2,
        answering=4,
        looking=2,
        budgets=2,
        crops=2,
        chats=2,
        questions=2,
        exam=4,
        goal=2.0,
        validate_every=100,
    )


@pytest.fixture(scope="module")
def root(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    draw([preset.small, preset.large, preset.validation, preset.large_validation], folder)
    return folder


def train(preset, root, folder, stop_after=float("inf"), stages=slice(None), reference=None):
    torch.manual_seed(0)
    reference = reference or Reference(preset.model)
    plan = Plan(preset, root, reference)
    trainer = Trainer(reference, plan.stages()[stages], folder, log_every=1, save_every=0)
    return reference, trainer.run(stop_after)


def as_text(classes):
    return "".join("\n" if value == 1 else chr(value - 2 + 32) for value in classes.tolist() if value)


def test_tokenizer_writes_every_text_and_qwens_chat():
    tokenizer = build_tokenizer()
    text = "Größe: 3 × 4 µm, user's assistant\n\ttotal €12"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert all(len(tokenizer.tokenize(token)) == 1 for token in (*SPECIAL_TOKENS, *ROLES))
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Total?"}]}
    chat = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert chat == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Total?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_batches_are_what_the_processor_makes(root, preset):
    shard = shards(preset.small, root)[0]
    picture, question = shard.pixels[0], "What is the total?"
    processor = build_processor()
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    expected = processor(images=[Image.fromarray(picture)], text=[text], return_tensors="pt")

    values, grids = patches([picture], frames=2)
    ids, labels, (span,) = Writer(processor.tokenizer).chat([Turn(question, "4.50", "key_value")], 64)
    assert torch.equal(grids, expected["image_grid_thw"])
    torch.testing.assert_close(values, expected["pixel_values"], atol=1e-6, rtol=0)
    assert ids[: span[0]] == expected["input_ids"][0].tolist()
    assert processor.tokenizer.decode(labels[slice(*span)]) == "4.50<|im_end|>"


def test_a_cell_reads_its_lines_from_top_to_bottom():
    centers = np.array([(5, 20), (12, 21), (30, 20), (40, 20), (8, 6), (70, 5)], np.float32)
    codes, starts = np.array([*map(ord, "abcdEX")]), np.array([True, False, True, False, True, True])
    texts = reading.cell_texts(centers, codes, starts, 1, 2)
    assert [as_text(row) for row in texts] == [" E\n ab c", "d"]

    spots = reading.patch_letters(centers, codes, 1, 2).reshape(2, 2, 2, 2, 4)  # cell, patch row, col, bin row, col
    assert np.argwhere(spots).tolist() == [
        [0, 0, 0, 0, 2],  # E at (8, 6)
        [0, 1, 0, 0, 1],  # a at (5, 20)
        [0, 1, 0, 0, 3],  # b at (12, 21)
        [0, 1, 1, 0, 3],  # c at (30, 20)
        [1, 1, 0, 0, 2],  # d at (40, 20)
    ]


def test_a_shard_holds_its_documents_and_is_drawn_once(root, preset):
    (shard,) = shards(preset.small, root)
    document = generate(3, ("form", "receipt"), 256, faces=(bundled_face(),))
    centers, codes, starts = shard.letters(3)
    assert np.array_equal(shard.pixels[3], np.asarray(document.image))
    assert "".join(map(chr, codes)) == "".join(word.text for word in document.words)
    assert starts.sum() == len(document.words) and len(centers) == len(codes)
    assert [question["text"] for question in shard.questions[3]] == [q.text for q in document.questions]
    before = (shard.folder / "pixels.npy").stat().st_mtime_ns
    draw([preset.small], root)
    assert (shard.folder / "pixels.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("left, top", [(0, 0), (-9, 7), (40, 31)])
def test_a_cut_moves_letters_with_its_picture(root, preset, left, top):
    shard: Shard = shards(preset.large, root)[0]
    picture, texts, _ = Cut(shard, 1, left, top, 256).draw(256)
    page = shard.pixels[1]
    y, x = max(top, 0), max(left, 0)
    assert np.array_equal(picture[y - top :, x - left :], page[y : top + 256, x : left + 256])
    assert (texts > reading.FIRST).sum() == Cut(shard, 1, left, top, 256).letters()


def test_reading_on_asks_for_what_comes_next_line_by_line():
    words = [
        PrintedWord("Total", 10, 40, 50.0),
        PrintedWord("12.50", 90, 120, 51.0),
        PrintedWord("Date", 10, 30, 70.0),
        PrintedWord("Fee", 50, 60, 50.5),
        PrintedWord("x" * 40, 40, 60, 70.5),
    ]
    turns = reading_turns(words, 9, np.random.default_rng(0))
    assert {(turn.question, turn.answer) for turn in turns} == {
        ("Read on from Total", "Fee 12.50 Date"),  # no longer than LONGEST_ANSWER
        ("Read on from Fee", "12.50 Date"),
        ("Read on from 12.50", "Date " + "x" * 40),
        ("Read on from Date", "x" * 40),
    }


def test_an_answer_is_exact_if_all_its_tokens_are():
    labels = torch.tensor([[-100, -100, 5, 6, -100, 7, 8]])
    predicted = torch.tensor([[0, 5, 6, 0, 7, 9, 0]])
    assert exact_answers(predicted, labels) == [[True, False]]


def test_the_quick_tower_is_the_stock_tower():
    torch.manual_seed(0)
    stock = build_model("micro", build_tokenizer()).model.visual
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    quick = build_model("micro", build_tokenizer()).model.visual
    quick.load_state_dict(stock.state_dict())
    quicken(quick)
    assert quick.state_dict().keys() == stock.state_dict().keys()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    for size in (2, 1):
        both, grids = patches(pictures[:size], frames=2)
        one, _ = patches(pictures[:size])
        expected = stock(both, grid_thw=grids)
        for values in (both, one):
            found = quick(values, grid_thw=grids)
            torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-4, rtol=1e-4)
    gradients = []
    for tower, values in ((stock, both), (quick, one)):
        tower(values, grid_thw=grids).pooler_output.square().sum().backward()
        gradients.append(tower.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


def test_training_resumes_exactly_and_ends_in_a_checkpoint(root, preset, tmp_path):
    straight, finished = train(preset, root, tmp_path / "straight")
    assert finished
    stopped = False
    for _ in range(20):  # every piece is stopped after its first step
        reference, finished = train(preset, root, tmp_path / "pieces", stop_after=0)
        stopped |= not finished
        if finished:
            break
    assert stopped and finished
    for name, value in straight.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name

    from train_reference import save_checkpoint

    save_checkpoint(straight, tmp_path / "checkpoint")
    model = ArrCocQwen3VLForConditionalGeneration.from_pretrained(tmp_path / "checkpoint")
    assert type(model.model.visual.patch_embed).__name__ == "Qwen3VLVisionPatchEmbed"
    saved = straight.model.model.visual.patch_embed.proj.weight
    torch.testing.assert_close(model.model.visual.patch_embed.proj.weight.float(), saved, atol=1e-2, rtol=1e-2)


def test_stages_learn_what_they_are_shown(root, preset, tmp_path):
    """On six documents over and over, losses of reading and answering fall."""
    longer = replace(preset, reading=24, listening=24, answering=24, rate=6e-3)
    reference, _ = train(longer, root, tmp_path, stages=slice(3))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for stages, name in ((("reading",), "spotting"), (("listening", "answering"), "answer")):
        values = [line[name] for line in lines if line["stage"] in stages and name in line]
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:3]), name
    found = Exam(Writer(reference.tokenizer), places(shards(preset.validation, root)), (256, 128))(
        reference.eval().model
    )
    assert {"exact@256", "exact@128"} <= found.keys()
