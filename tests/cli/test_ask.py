import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from arrcoc.cli.checkpoints import chat_inputs, checkpoint_folder, load_model, load_processor
from arrcoc.pretrained import reference_folder


@pytest.fixture(scope="session")
def wrapped_folder(stock_folder, tmp_path_factory):
    """The stock checkpoint wrapped with a default budget of 20 tokens."""
    folder = tmp_path_factory.mktemp("wrapped") / stock_folder.name
    load_model(stock_folder).save_pretrained(folder)
    load_processor(stock_folder, token_budget=20).save_pretrained(folder)
    return folder


def ask(model, picture, *more):
    return (
        "ask",
        "--model",
        model,
        "--image",
        picture,
        "--question",
        "What is the total?",
        "--max-new-tokens",
        6,
        *more,
    )


def test_answer_is_that_of_the_model(run, wrapped_folder, picture):
    status, text, err = run(*ask(wrapped_folder, picture, "--token-budget", 24, "--json", "--device", "cpu"))
    assert status == 0, err
    report = json.loads(text)
    model = AutoModelForImageTextToText.from_pretrained(wrapped_folder, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(wrapped_folder)
    with Image.open(picture) as image:
        inputs = chat_inputs(processor, image.convert("RGB"), "What is the total?", 24)
    generated = model.generate(**inputs, max_new_tokens=6)
    prompt = inputs["input_ids"].shape[1]
    assert report["answer"] == processor.decode(generated[0, prompt:], skip_special_tokens=True).strip()
    assert (report["visual_tokens"], report["prompt_tokens"]) == (24, prompt)
    assert 1 <= report["generated_tokens"] == generated.shape[1] - prompt <= 6
    assert report["native_tokens"] == int(inputs["image_grid_thw"].prod()) // 4
    assert report["seconds"] > 0 and report["picture"] is None


def test_text_output_and_picture(run, wrapped_folder, picture, tmp_path):
    shown = tmp_path / "shown.png"
    status, text, err = run(*ask(wrapped_folder, picture, "--token-budget", "0.25", "--show", shown))
    assert status == 0, err
    lines = text.rstrip("\n").splitlines()
    assert "visual tokens 2" in lines[-2] and lines[-2].endswith(" s") and lines[-1] == f"picture {shown}"
    with Image.open(shown) as drawn:
        assert drawn.width > 300


def test_the_bundled_checkpoint_is_used_when_none_is_named(run, picture):
    assert [checkpoint_folder(f"arrcoc-{name}") for name in ("tiny", "twin")] == [
        *map(reference_folder, ("tiny", "twin"))
    ]
    question = ("--image", picture, "--question", "What is the total?", "--max-new-tokens", 4, "--json")
    default, named = (json.loads(run("ask", *more, *question)[1]) for more in ((), ("--model", "arrcoc-tiny")))
    assert default["answer"] == named["answer"] and default["visual_tokens"] == default["native_tokens"] >= 256


def test_budget_defaults_to_the_checkpoints_own(run, wrapped_folder, picture):
    assert json.loads(run(*ask(wrapped_folder, picture, "--json"))[1])["visual_tokens"] == 20


def test_stock_folder_answers_at_native_budget(run, stock_folder, picture, tmp_path):
    report = json.loads(run(*ask(stock_folder, picture, "--json", "--show", tmp_path / "o.png"))[1])
    assert report["visual_tokens"] == report["native_tokens"] > 50


def test_note_when_the_image_has_fewer_tokens(run, wrapped_folder, picture):
    status, text, err = run(*ask(wrapped_folder, picture, "--token-budget", 4000, "--json"))
    report = json.loads(text)
    assert status == 0 and report["visual_tokens"] == report["native_tokens"]
    assert "arrcoc: note: the image has only" in err


def test_unknown_device(fails, wrapped_folder, picture):
    assert "'nonsense'" in fails(*ask(wrapped_folder, picture, "--device", "nonsense"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_absent_device(fails, wrapped_folder, picture):
    assert "'cuda'" in fails(*ask(wrapped_folder, picture, "--device", "cuda"))


def test_mistakes_are_one_line_and_draw_nothing(fails, wrapped_folder, picture, tmp_path):
    shown = tmp_path / "shown.png"
    assert "nothing.png" in fails(*ask(wrapped_folder, tmp_path / "nothing.png", "--show", shown))
    assert "no checkpoint folder" in fails(*ask(tmp_path / "nothing", picture, "--show", shown))
    assert "no config.json" in fails(*ask(tmp_path, picture, "--show", shown))
    assert not shown.exists()


def test_inspect_with_a_model_uses_its_maps(run, wrapped_folder, picture, tmp_path):
    out = tmp_path / "out.png"
    arguments = ["--image", picture, "--question", "What?", "--token-budget", 30, "--out", out, "--json"]
    status, text, err = run("inspect", *arguments, "--model", wrapped_folder)
    assert status == 0, err
    report = json.loads(text)
    assert report["model"] == str(wrapped_folder) and report["tokens"] == 30 and out.exists()

    status, text, _ = run("inspect", *arguments, "--model", wrapped_folder, "--policy", "uniform")
    assert status == 0 and json.loads(text)["boxes"] != report["boxes"]
