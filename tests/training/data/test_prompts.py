"""Rows as conversations, for the processor and for TRL."""

import pytest

from arrcoc.training.data import Row, from_trl, read_rows, to_trl, trl_dataset
from arrcoc.training.data.prompts import completion_text, prompt_text
from tests.helpers.tiny_processors import tiny_processor
from tests.training.data.helpers import make_rows, picture, save_picture


def test_texts():
    processor = tiny_processor("qwen3_vl")
    row = Row("r", "Why?", ("Because.",), (picture(), picture()), history=(("What?", "That."),))
    prompt = prompt_text(row, processor)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert prompt == (
        f"<|im_start|>user\n{image}{image}What?<|im_end|>\n<|im_start|>assistant\nThat.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert completion_text(row, prompt, processor) == "Because.<|im_end|>"


def test_templates_that_put_something_between_are_refused():
    processor = tiny_processor("qwen3_vl")
    processor.chat_template = processor.chat_template.replace(
        "'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'"
    )
    row = make_rows(1)[0]
    with pytest.raises(ValueError, match="straight after the prompt"):
        completion_text(row, prompt_text(row, processor), processor)


def test_trl_form_and_back(tmp_path):
    path = save_picture(tmp_path / "a.png")
    row = Row(
        id="r",
        question="Why?",
        answers=("Because.", "because"),
        images=(path, path),
        evidence=(None, ((1.0, 2.0, 3.0, 4.0),)),
        evidence_mode="any",
        task="t",
        set="s",
        difficulty="hard",
        token_budget=(3, 4),
        suggested_budget=64,
        history=(("What?", "That."),),
    )
    example = to_trl(row)
    assert example["images"] == [str(path), str(path)]
    assert [part["type"] for part in example["prompt"][0]["content"]] == ["image", "image", "text"]
    assert example["completion"] == [{"role": "assistant", "content": [{"type": "text", "text": "Because."}]}]
    assert from_trl(example) == row


def test_examples_of_others():
    example = {
        "prompt": [{"role": "user", "content": "What?"}],
        "completion": [{"role": "assistant", "content": "That."}],
        "image": picture(),
    }
    row = from_trl(example)
    assert (row.question, row.answers, len(row.images)) == ("What?", ("That.",), 1)
    with pytest.raises(ValueError, match="found \\['system'\\] and 1 turns"):
        from_trl(example | {"prompt": [{"role": "system", "content": "Be brief."}]})


def test_datasets_for_trl(tmp_path):
    """Paths and pictures become one column of images; all rows come back from the data set."""
    pytest.importorskip("datasets")
    path = save_picture(tmp_path / "a.png", 64, 32)
    files = make_rows(3, images=lambda number: (path,) * number, token_budget=lambda number: 4 + number)
    for rows in (files, make_rows(2)):
        dataset = trl_dataset(rows)
        assert {"prompt", "completion", "images"} <= set(dataset.column_names)
        for row, example in zip(rows, dataset, strict=True):
            back = from_trl(example)
            assert (back.id, back.question, back.answers) == (row.id, row.question, row.answers)
            assert back.image_budgets == row.image_budgets
            assert [image.size for image in back.images] == row.image_sizes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # trl 1.16 knows the old name
def test_plain_trl_trains_on_rows(tmp_path):
    """TRL's own trainer and collator take the data set as it is."""
    trl = pytest.importorskip("trl")
    from tests.helpers.tiny_models import tiny_arrcoc_model

    processor = tiny_processor("qwen3_vl", token_budget=4)
    arguments = trl.SFTConfig(
        str(tmp_path), report_to=[], use_cpu=True, max_steps=1, max_length=None, save_strategy="no", disable_tqdm=True
    )
    trainer = trl.SFTTrainer(
        tiny_arrcoc_model("qwen3_vl", tie_word_embeddings=False),
        arguments,
        train_dataset=trl_dataset(make_rows(8)),
        processing_class=processor,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch["image_token_budgets"].tolist()) == {4}
    trainer.train()


def test_stored_images_go_to_trl():
    datasets = pytest.importorskip("datasets")
    source = datasets.Dataset.from_list([{"image": picture(), "question": "Q?", "answers": ["A"]}])
    (example,) = trl_dataset(read_rows(source))
    assert example["images"][0].size == (96, 64)
