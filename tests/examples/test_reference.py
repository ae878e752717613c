"""The training of the reference model, at a size that costs seconds: its targets, its stages, its resuming."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from reference import reading
from reference.answering import (
    AROUND,
    PrintedWord,
    Turn,
    Writer,
    anchor_of,
    asked_turns,
    distinct_turns,
    exact_answers,
    reading_turns,
    spoken_letters,
)
from reference.cache import Shard, draw, shards
from reference.features import Seen, enlarged, places, tower_view
from reference.loop import Trainer
from reference.model import HOSTS
from reference.pictures import Cut, patches
from reference.plan import Plan, Reference
from reference.stage_budgets import Questions
from reference.stage_listening import UNKNOWN, Glimpses, Window, looked_at, looking_loss
from reference.tokenizer import ROLES, SPECIAL_TOKENS, build_processor, build_tokenizer
from reference.watching import watch
from safetensors.torch import load_file

from arrcoc.synthetic import bundled_face, generate


def train(preset, root, folder, stop_after=float("inf"), stages=slice(None), host="qwen3_vl"):
    torch.manual_seed(0)
    reference = Reference(preset.model, host)
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
    shard = shards(preset.pages, root)[0]
    picture, question = enlarged(shard.pixels[0], 512), "What is the total?"
    processor = build_processor(least_cells=256)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    expected = processor(images=[Image.fromarray(shard.pixels[0])], text=[text], return_tensors="pt")

    values, grids = patches([picture], frames=2)
    ids, labels, (span,) = Writer(processor.tokenizer).chat([Turn(question, "4.50", "key_value")], 256)
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
    (shard,) = shards(preset.pages, root)
    document = generate(3, ("form", "receipt"), 256, faces=(bundled_face(),), clear=True)
    centers, codes, starts = shard.letters(3)
    assert np.array_equal(shard.pixels[3], np.asarray(document.image))
    assert "".join(map(chr, codes)) == "".join(word.text for word in document.words)
    assert starts.sum() == len(document.words) and len(centers) == len(codes)
    assert [question["text"] for question in shard.questions[3]] == [q.text for q in document.questions]
    before = (shard.folder / "pixels.npy").stat().st_mtime_ns
    draw([preset.pages], root)
    assert (shard.folder / "pixels.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("left, top", [(0, 0), (-9, 7), (40, 31)])
def test_a_cut_moves_letters_with_its_picture(root, preset, left, top):
    shard: Shard = shards(preset.print[1], root)[0]
    picture, texts, _ = Cut(shard, 1, left, top, 256).draw(256)
    page = shard.pixels[1]
    y, x = max(top, 0), max(left, 0)
    assert np.array_equal(picture[y - top :, x - left :], page[y : top + 256, x : left + 256])
    assert (texts > reading.FIRST).sum() == Cut(shard, 1, left, top, 256).letters()


def word(text, left, right, y):
    return PrintedWord(text, np.stack([np.linspace(left, right, len(text)), np.full(len(text), y)], 1))


WORDS = [
    word("Total", 10, 40, 50.0),
    word("12.50", 90, 120, 51.0),
    word("Date", 10, 30, 70.0),
    word("Fee", 50, 60, 50.5),
    word("x" * 40, 40, 60, 70.5),
]


def test_reading_on_asks_for_what_comes_next_line_by_line():
    turns = reading_turns(WORDS, 9, np.random.default_rng(0))
    assert {(turn.question, turn.answer) for turn in turns} == {
        ("Read on from Total", "Fee 12.50 Date"),  # no longer than LONGEST_ANSWER
        ("Read on from Fee", "12.50 Date"),
        ("Read on from 12.50", "Date " + "x" * 40),
        ("Read on from Date", "x" * 40),
    }
    for turn in turns:
        assert len(turn.letters) == len(turn.answer)
    (turn,) = (turn for turn in turns if turn.question == "Read on from Fee")
    assert turn.before.tolist() == [60, 50.5]
    assert turn.letters[0].tolist() == [90, 51] and turn.letters[6].tolist() == [10, 70]
    assert turn.letters[5].tolist() == [120, 51]  # a blank is where the letter before it is


def test_no_answer_is_told_before_it_is_asked_for():
    turns = [
        Turn(*texts, "key_value") for texts in (("A?", "b c"), ("b?", "d"), ("E?", "x c"), ("F?", "b"), ("d?", "g"))
    ]
    assert [turn.answer for turn in distinct_turns(turns, 9)] == ["b c", "d", "g"]
    assert len(distinct_turns(turns, 2)) == 2


def test_a_question_knows_where_its_answer_is_printed(root, preset):
    (shard,) = shards(preset.pages, root)
    known = 0
    for index in range(6):
        centers, codes, _ = shard.letters(index)
        for turn in asked_turns(shard, index):
            if turn.letters is not None:
                known += 1
                for sign, place in zip(turn.answer, turn.letters, strict=True):
                    if sign != " ":
                        assert chr(codes[np.abs(centers - place).sum(1).argmin()]) == sign
    assert known > 5


def test_a_window_says_in_which_cells_letters_are():
    turn = Turn("?", "ab c", "read_on", (), np.array([(20, 20), (40, 20), (40, 20), (9, 36)]), np.array([9, 20]))
    # Two pixels for each; a window of 3 x 3 cells from row 1 on.
    asked, before, following = looked_at(turn, 2.0, 0, 1, 3)
    assert following.tolist() == [1, 2, 2, 3]
    assert before.tolist() == [0, 1, 2, 2]
    assert asked.tolist() == [-1]
    _, _, following = looked_at(turn, 2.0, 1, 1, 2)
    assert following.tolist() == [0, 1, 1, -1]
    asked, before, following = looked_at(replace(turn, letters=None, spoken=np.array([(40, 36)])), 2.0, 0, 1, 3)
    assert (before == -1).all() and (following == -1).all() and asked.tolist() == [5]


def test_a_question_knows_where_the_words_that_it_names_are_printed():
    words = [word("NET", 10, 20, 50.0), word("Total:", 30, 40, 50.0), word("elsewhere", 0, 9, 90.0)]
    expected = {2: (0, 2), 6: (1, 2), 7: (1, 3), 8: (1, 4)}
    found = spoken_letters("net total of the net?", [words])
    assert np.isnan(found[[0, 1, 3, 4, 5]]).all() and np.isnan(found[9:]).all()  # what does not yet tell words apart
    for place, (number, letter) in expected.items():
        assert found[place].tolist() == words[number].centers[letter].tolist()
    phrases = spoken_letters("net total of the net?", [words[1:], words[:1]])  # in whatever order they are named
    np.testing.assert_array_equal(phrases, found)


def test_an_answer_follows_the_phrase_beside_it():
    column, row = [word("Price", 200, 20, 50.0)], [word("Green", 10, 20, 90.0), word("tea", 40, 20, 91.0)]
    answer = np.array([(200.0, 92.0), (208.0, 92.0)])
    assert anchor_of([column, row, []], answer).tolist() == row[1].centers[-1].tolist()
    assert anchor_of([[]], answer) is None


def test_questions_know_the_phrase_that_their_answer_follows(root, preset):
    (shard,) = shards(preset.pages, root)
    turns = [turn for index in range(6) for turn in asked_turns(shard, index)]
    keyed = [turn for turn in turns if turn.kind == "key_value" and turn.letters is not None]
    assert keyed
    for turn in keyed:
        assert any(left <= turn.before[0] <= right for left, _, right, _ in turn.named)
        assert any(top <= turn.before[1] <= bottom for _, top, _, bottom in turn.named)
    quoting = [turn for turn in turns if turn.kind == "locate_text"]
    assert quoting and all(turn.before is None and np.isfinite(turn.spoken).any() for turn in quoting)


def test_glimpses_point_at_the_letters_that_are_to_be_written(root, preset):
    """In the input, the token that is pointed at is the cell whose centre is nearest to the letter."""
    reference = Reference("micro")
    plan = Plan(preset, root, reference)
    places_ = places(shards(preset.pages, root))
    tower = reference.model.model.visual
    pages = Seen(places_, tower_view(tower), 512, "tower", tower)
    glimpses = Glimpses(plan.writer, pages, lambda step: [Window(16, 2, 1.0)], reading=1.0)
    batch = glimpses(3)
    image = reference.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    known = batch["following"] >= 0
    assert known.sum() > 20 and (batch["labels"][known] >= 0).all()
    assert (batch["input_ids"].gather(1, batch["following"].clamp(min=0))[known] == image).all()
    assert batch["features"].shape == (2 * 256, 2, 64)
    asked = (batch["before"] >= 0) & (batch["labels"] < 0)  # after a letter of the question
    assert (batch["input_ids"].gather(1, batch["before"].clamp(min=0))[asked] == image).all()
    heard = reference.tokenizer.decode(batch["input_ids"][:, :-1][asked[:, 1:]])
    written = reference.tokenizer.batch_decode(batch["input_ids"])
    named = [turn.split("<|im_end|>")[0] for text in written for turn in text.split("Read on from ")[1:]]
    cores = [name.strip(AROUND) for name in named]
    assert cores and all(core[min(2, len(core) - 1) :] in heard for core in cores)
    expected = pages.view([enlarged(places_[0][0].pixels[0], 512)])[0]
    np.testing.assert_allclose(pages.page(*places_[0]), expected, atol=0.02)  # in bfloat16, in another batch
    np.testing.assert_array_equal(pages.window(*places_[0], 2, 3, 4)[5], pages.page(*places_[0])[4 * 16 + 3])


def test_kept_features_are_those_of_the_tower_that_is_there(root, preset):
    (place, *_) = places(shards(preset.pages, root))
    found = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        tower = Reference("micro").model.model.visual
        found.append(Seen([place], tower_view(tower), 512, "tower", tower).page(*place))
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_threads_that_read_ahead_see_a_page_once(root, preset):
    """They shared the file that one was still writing."""
    (place, *_) = places(shards(preset.pages, root))
    seen = []

    def view(pages):
        seen.append(len(pages))
        time.sleep(0.05)  # so that the others arrive
        return np.stack([page.mean((0, 1)) for page in pages])

    pages = Seen([place], view, 256, "mean")
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: pages.page(*place), range(3)))
    assert sum(seen) == len(place[0].pixels)
    np.testing.assert_array_equal(found[0], found[2])


def test_heads_learn_from_where_they_should_look():
    attention = torch.tensor([[[[1.0, 0, 0], [0.2, 0.8, 0], [0.1, 0.3, 0.6]]]], requires_grad=True)
    loss, share = looking_loss(attention, torch.tensor([[UNKNOWN, 0, 0]]))  # written after tokens 0 and 1
    torch.testing.assert_close(loss, -(torch.tensor([1.0, 0.2]) + 1e-4).log().mean())
    assert share == 0.5
    loss, _ = looking_loss(attention, torch.full((1, 3), UNKNOWN))
    assert loss == 0


def test_an_answer_is_exact_if_all_its_tokens_are():
    labels = torch.tensor([[-100, -100, 5, 6, -100, 7, 8]])
    predicted = torch.tensor([[0, 5, 6, 0, 7, 9, 0]])
    assert exact_answers(predicted, labels) == [[True, False]]


def test_pages_are_read_at_the_size_of_the_answer_and_of_the_glance(root, preset):
    reference = Reference(preset.model)
    batch = Plan(preset, root, reference).stages()[1].batch
    sides = [batch(step)["grids"][0, 1:].tolist() for step in range(5)]
    assert sides == [[32, 32]] * 4 + [[16, 16]]
    # Of squares 9/16 of the cells, of as many pixels; every second one is a whole page, which is warped.
    assert [len(batch(step)["values"]) for step in range(5)] == [4 * size for size in (144, 256, 144, 256, 144)]


def test_pictures_without_print_are_unreadable(root, preset):
    found = places(shards(preset.pages, root))
    writer = Writer(build_tokenizer())
    blind = Questions(writer, found, 256, 8, blind=1.0)
    batch = blind(0)
    answers = [writer.tokenizer.decode(row[row != -100]).removesuffix("<|im_end|>") for row in batch["labels"]]
    assert set(answers) <= {"unreadable", "no"} and "unreadable" in answers and not batch["known"].any()
    pages = batch["pixel_values"].view(8, -1)
    assert all(page.unique().numel() == 1 or page.std() > 0.5 for page in pages)
    assert replace(blind, blind=0.0)(0)["known"].any()


def test_processes_that_wait_for_each_other_have_one_budget(root, preset):
    found = places(shards(preset.pages, root))
    questions = Questions(Writer(build_tokenizer()), found, 256, 2, (1.0, 0.5, 0.25), resized=0.3, together=2)
    batches = [questions(number) for number in range(12)]
    budgets = [batch["image_token_budgets"][0].item() for batch in batches]
    assert budgets[::2] == budgets[1::2] and len(set(budgets)) > 2
    assert not torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])


def test_a_blind_model_is_noticed(root, preset):
    reference = Reference(preset.model).eval()
    questions = Questions(Writer(reference.tokenizer), places(shards(preset.pages, root)), 256, 2)
    with torch.no_grad():
        found = watch(reference.model, questions, documents=4)
        assert found.keys() == {"alike", "same@noise", "same@white", "same@black"} and found["alike"] < 1
        for parameter in reference.model.model.visual.merger.parameters():
            parameter.zero_()
        for parameter in reference.model.model.visual.deepstack_merger_list.parameters():
            parameter.zero_()
        with pytest.warns(UserWarning, match="hardly looks: same@white is 1.000"):
            watch(reference.model, questions, documents=4)


@pytest.mark.parametrize(("least", "cells"), [(None, 4), (256, 256)])
def test_only_the_references_processor_enlarges_pages(least, cells):
    processor = build_processor() if least is None else build_processor(least_cells=least)
    image = Image.new("RGB", (64, 64), "white")
    grid = processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"][0]
    assert int(grid.prod()) == 4 * cells


@pytest.mark.parametrize("host", HOSTS)
def test_training_resumes_exactly_and_ends_in_a_checkpoint(root, preset, tmp_path, host):
    straight, finished = train(preset, root, tmp_path / "straight", host=host)
    assert finished
    stopped = False
    for _ in range(20):  # every piece is stopped after its first step
        reference, finished = train(preset, root, tmp_path / "pieces", stop_after=0, host=host)
        stopped |= not finished
        if finished:
            break
    assert stopped and finished
    for name, value in straight.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name

    from train_reference import save_checkpoint

    save_checkpoint(straight, tmp_path / "checkpoint", 512)
    _, model_class = HOSTS[host]
    model = model_class.from_pretrained(tmp_path / "checkpoint")
    stock = {"qwen3_vl": "Qwen3VLVisionPatchEmbed", "qwen2_5_vl": "Qwen2_5_VisionPatchEmbed"}[host]
    assert type(model.model.visual.patch_embed).__name__ == stock
    weights = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.model.arrcoc.relevance.parameters()} == {torch.float32}
    saved = straight.model.model.visual.patch_embed.proj.weight
    torch.testing.assert_close(model.model.visual.patch_embed.proj.weight.float(), saved, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("host", HOSTS)
def test_stages_learn_what_they_are_shown(root, preset, tmp_path, host):
    """On six documents over and over, losses of reading, answering and looking fall."""
    longer = replace(preset, reading=24, enlarged=0, listening=24, looking=60, rate=6e-3)
    reference, _ = train(longer, root, tmp_path, stages=slice(4), host=host)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    shares = (("reading", "spotting", 0.8), ("listening", "answer", 0.8), ("looking", "evidence", 0.9))
    for stage, name, share in shares:
        values = [line[name] for line in lines if line["stage"] == stage and name in line]
        assert np.mean(values[-5:]) < share * np.mean(values[:3]), name
    plan = Plan(preset, root, reference.eval())
    found = plan.exam(preset.validation)(reference.model)
    names = {"arrcoc@1.0", "arrcoc@0.25", "arrcoc@0.25 coverage", "resize@0.1", "arrcoc-random@0.05", "key_value"}
    assert names <= found.keys()
    assert all(0 <= value <= 1 for value in found.values())
    assert reference.model.config.arrcoc_config.policy == "foveated"
