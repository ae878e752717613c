"""The whole way: chat messages and pictures through the processor, the model and transformers' pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.helpers.tiny_processors import CELL_SIZE, stock_processor, tiny_processor


def picture(host: str, rows: int = 5, columns: int = 7, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows * CELL_SIZE[host], columns * CELL_SIZE[host], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def chat(*images: Image.Image, question: str = "What is this?") -> list[dict]:
    content = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


@pytest.fixture
def folder(host, tmp_path):
    """A checkpoint folder with a model and a processor whose default budget is 6 tokens."""
    tiny_arrcoc_model(host, tie_word_embeddings=False).save_pretrained(tmp_path)
    tiny_processor(host, token_budget=6).save_pretrained(tmp_path)
    return tmp_path


def test_from_messages_to_text(host, model):
    """What the processor says about an image is what the model does with it."""
    processor = tiny_processor(host)
    inputs = processor.apply_chat_template(
        chat(picture(host), picture(host, 4, 4)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        token_budget=[9, 5],
    )
    with torch.no_grad():
        allocation = model(**inputs).allocation
    assert allocation.budgets.tolist() == [9, 5]
    assert allocation.grids.tolist() == [[5, 7], [4, 4]]
    assert torch.equal(allocation.maps["information"], inputs["image_information"])
    generated = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 5


@pytest.mark.parametrize("budget", [None, 1.0, 10_000])
def test_native_budget_is_the_stock_pair(host, model, stock, budget):
    """Processor and model together, at native budget, are the stock processor and model bit for bit."""
    messages = chat(picture(host), picture(host, 2, 3, seed=1))
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    ours = tiny_processor(host).apply_chat_template(messages, token_budget=budget, **options)
    theirs = stock_processor(host).apply_chat_template(messages, **options)
    with torch.no_grad():
        assert torch.equal(model(**ours).logits, stock(**theirs).logits)


def test_another_question_moves_the_tokens(host, model):
    """Same image, same budget, another question: other leaves."""
    processor, image = tiny_processor(host, token_budget=12), picture(host)
    boxes = []
    for question in ("What is this?", "Where is the total amount?"):
        inputs = processor.apply_chat_template(
            chat(image, question=question), tokenize=True, return_dict=True, return_tensors="pt"
        )
        boxes.append(model.encode_images(**inputs).allocation.boxes)
    assert boxes[0].shape == boxes[1].shape == (12, 4)
    assert not torch.equal(*boxes)


def test_pipeline(host, folder):
    """The pipeline answers what `generate` does, at the processor's budget."""
    pipe = pipeline("image-text-to-text", model=str(folder), device="cpu")
    options = {"max_new_tokens": 5, "do_sample": False}
    messages = chat(picture(host))
    (answer,) = pipe(text=messages, generate_kwargs=options, return_full_text=False)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["image_token_budgets"].tolist() == [6]
    new = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    assert answer["generated_text"] == processor.decode(new, skip_special_tokens=True)


def test_pipeline_with_objects_batches_and_budgets(host):
    """A model and a processor in memory, several chats in a batch, and a budget that is given with the call."""
    model, processor = tiny_arrcoc_model(host, tie_word_embeddings=False), tiny_processor(host, token_budget=6)
    pipe = pipeline("image-text-to-text", model=model, processor=processor, device="cpu")
    chats = [chat(picture(host)), chat(picture(host, 3, 4, seed=2), question="And what is in this one?")]
    options = {"generate_kwargs": {"max_new_tokens": 5, "do_sample": False}, "return_full_text": False}
    alone = [pipe(text=messages, **options)[0]["generated_text"] for messages in chats]
    together = [answer[0]["generated_text"] for answer in pipe(text=chats, batch_size=2, **options)]
    assert together == alone
    seen = []
    handle = model.model.visual.register_forward_hook(lambda *_: seen.append(1))
    other = pipe(text=chats[0], processor_kwargs={"token_budget": 30}, **options)[0]["generated_text"]
    handle.remove()
    assert len(seen) == 1
    assert other != alone[0]
