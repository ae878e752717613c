"""Calibration: which budget is said to suffice, and that `"auto"` spends it."""

import random

import pytest
from PIL import Image

from arrcoc.cli.calibrate import calibrate
from arrcoc.cli.checkpoints import load_model, load_processor
from arrcoc.evaluation.calibration import calibrate_kind, calibrate_run, least_images
from arrcoc.evaluation.records import read_json, read_records
from arrcoc.processing import resolve_token_budgets
from tests.evaluation.test_summary import item
from tests.helpers.tiny_processors import tiny_processor


def losing(native, share, seed=0):
    """Scores of which a share is lost."""
    dice = random.Random(seed)
    return [score * (dice.random() >= share) for score in native]


def test_least_images_by_hand():
    assert least_images(0.98, 0.95) == 149  # 0.98**148 > 0.05 >= 0.98**149
    assert 0.98**149 <= 0.05 < 0.98**148
    assert least_images(0.9, 0.95) == 29
    for keep, confidence in ((1.0, 0.95), (0.0, 0.95), (0.9, 0.5), (0.9, 1.0)):
        with pytest.raises(ValueError, match="expected keep"):
            least_images(keep, confidence)


def test_the_smallest_budget_that_holds_is_found():
    native = [1.0] * 400
    scores = [("0.5", 50.0, native), ("0.25", 25.0, losing(native, 0.02)), ("0.1", 10.0, losing(native, 0.3))]
    found = calibrate_kind("look", native, scores, range(400), keep=0.9, resamples=500)
    assert found.budget == "0.25" and not found.reason
    assert [step.budget for step in found.steps] == ["0.5", "0.25", "0.1"]
    assert found.steps[0].margin == pytest.approx(0.1) and found.steps[2].margin < 0
    assert calibrate_kind("look", native, scores, range(400), keep=0.985, resamples=500).budget == "0.5"


def test_a_smaller_budget_after_one_that_failed_is_not_taken():
    native = [1.0] * 200
    scores = [("0.5", 50.0, losing(native, 0.3)), ("0.25", 25.0, native)]
    found = calibrate_kind("look", native, scores, range(200), keep=0.9, resamples=500)
    assert found.budget is None and "0.5, fails" in found.reason and len(found.steps) == 1


def test_the_bound_counts_and_not_the_mean():
    """Of 40 items one lost: 2.5 % on average, but 5 % may well be."""
    native = [1.0] * 40
    scores = [("0.5", 50.0, [0.0] + native[1:])]
    assert calibrate_kind("look", native, scores, range(40), keep=0.93, resamples=2000).budget is None
    assert calibrate_kind("look", native * 10, [("0.5", 50.0, scores[0][2] * 10)], range(400), 0.93).budget == "0.5"


def test_what_cannot_be_known_is_native():
    few = calibrate_kind("look", [1.0] * 28, [("0.5", 1.0, [1.0] * 28)], range(28), keep=0.9)
    assert few.budget is None and "28 images, at least 29" in few.reason
    one_page = calibrate_kind("look", [1.0] * 100, [("0.5", 1.0, [1.0] * 100)], [0] * 100, keep=0.9)
    assert one_page.budget is None and "1 images" in one_page.reason
    blind = calibrate_kind("look", [0.0] * 50, [("0.5", 1.0, [0.0] * 50)], range(50), keep=0.9)
    assert blind.budget is None and blind.reason == "no native score to keep"
    assert calibrate_kind("look", [], [], [], keep=0.9).budget is None


def test_kinds_of_questions_are_calibrated_apart():
    questions = {"Is there a stamp?": 1.0, "What is the amount due?": 0.0}  # whether half of the tokens suffice
    records = []
    for row in range(80):
        question, kept = list(questions.items())[row % 2]
        for policy, budget, score in (("native", "1.0", 1.0), ("arrcoc", "0.5", kept), ("resize", "0.5", 1.0)):
            records.append(item(row, policy, budget, score, question=question, image=row))
    found = {kind.kind: kind for kind in calibrate_run(records, keep=0.9, resamples=200)}
    assert found["look"].budget == "0.5" and found["look"].questions == 40
    assert found["reading"].budget is None and "fails" in found["reading"].reason
    assert found["whole"].questions == 0 and found["whole"].budget is None


def test_runs_that_say_nothing_are_refused():
    native = [item(0, "native", "1.0", 1.0)]
    with pytest.raises(ValueError, match="needs the budget 1.0"):
        calibrate_run(native)
    with pytest.raises(ValueError, match="shares or all"):
        calibrate_run([*native, item(0, "arrcoc", "0.5", 1.0), item(0, "arrcoc", "64", 1.0)])


def test_command_saves_what_auto_then_spends(checkpoint, pages, tmp_path, capsys):
    folder = tmp_path / "model"
    load_model(checkpoint).save_pretrained(folder)
    load_processor(checkpoint).save_pretrained(folder)
    options = {"budgets": (0.5,), "metric": "exact_match", "max_new_tokens": 2, "batch_size": 4, "resamples": 50}
    calibrate(folder, [str(pages)], tmp_path / "run", keep=0.5, **options)
    printed = capsys.readouterr().out
    assert "native" in printed and str(folder / "processor_config.json") in printed
    assert len(read_records(tmp_path / "run")) == 16
    processor = load_processor(folder)
    assert processor.auto_strategy == "calibrated"
    assert processor.calibrated_budgets == {"look": None, "fact": None, "reading": None, "whole": None}
    kinds = read_json(tmp_path / "run" / "calibration.json")["kinds"]
    assert {kind["kind"] for kind in kinds} == set(processor.calibrated_budgets)

    found = dict.fromkeys(processor.calibrated_budgets, None) | {"look": 0.25, "fact": 7}
    processor.calibrated_budgets = found
    processor.save_pretrained(folder)
    processor = load_processor(folder)
    page, text = Image.new("RGB", (256, 128)), "<|vision_start|><|image_pad|><|vision_end|>"
    for question, tokens in (("Is there a stamp?", 8), ("Who is the author?", 7), ("What is the amount due?", 32)):
        inputs = processor(images=[page], text=[text], queries=question, token_budget="auto", return_tensors="pt")
        assert inputs["image_token_budgets"].tolist() == [tokens]

    calibrate(folder, [str(pages)], tmp_path / "run", keep=0.5, as_json=True, **options)  # nothing is run again
    assert len(read_records(tmp_path / "run")) == 16


def test_calibrated_budgets_of_a_processor():
    budgets = {"look": 0.25, "fact": 7}
    arguments = {"calibrated_budgets": budgets, "auto_strategy": "calibrated"}
    questions = ["Is there a stamp?", "Who is the author?", "What is the amount due?", "Summarise the page."]
    assert resolve_token_budgets("auto", [32] * 4, questions, **arguments) == [8, 7, 32, 32]
    assert resolve_token_budgets("auto:calibrated", [5], questions[1:2], calibrated_budgets=budgets) == [5]
    with pytest.raises(ValueError, match="arrcoc calibrate"):
        resolve_token_budgets("auto:calibrated", [5], questions[:1])
    processor = tiny_processor("qwen3_vl", token_budget="auto", **arguments)
    counts = processor._get_num_multimodal_tokens(image_sizes=[(128, 256)], queries="Is there a stamp?")
    assert counts.num_image_tokens == [8]
    for wrong, match in (
        ({"glance": 3}, "'glance'"),
        ({"look": "auto"}, "'auto'"),
        ({"look": 0}, "token_budget must"),
    ):
        with pytest.raises(ValueError, match=match):
            tiny_processor("qwen3_vl", calibrated_budgets=wrong)
    with pytest.raises(ValueError, match="with calibrated_budgets"):
        tiny_processor("qwen3_vl", auto_strategy="calibrated")


def test_a_stock_checkpoint_is_refused(checkpoint, tmp_path):
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="arrcoc wrap"):
        calibrate(tmp_path, [], tmp_path / "run")
