import pytest

from arrcoc.processing.queries import count_images, extract_query, queries_per_image
from tests.helpers.tiny_processors import HOSTS, tiny_processor


VISION = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    "prompt, query",
    {
        "": "",
        "What is this?": "What is this?",
        f"{VISION}What is\nthis?": "What is\nthis?",
        f"<|im_start|>user\n{VISION}What?<|im_end|>\n<|im_start|>assistant\n": "What?",
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>What?<|im_end|>\n": "What?",
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQ?<|im_end|>\n": "Q?",
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\nA!<|im_end|>": "Q?",
        "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\n2<|im_end|>": "2",
        f"<|im_start|>user\nPicture 1: {VISION}Picture 2: {VISION}Same?<|im_end|>\n": "Picture 1: Picture 2: Same?",
        "<|im_start|>user\nunfinished": "unfinished",
        "<|im_start|>user\na\nb  c\n<|im_end|>": "a\nb  c",
        f"<|im_start|>user\nask<|im_end|>\n<|im_start|>user\n{VISION}<|im_end|>\n": "ask",
        "<|im_start|>user\nask<|im_end|>\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n": "ask",
        "<|im_start|>assistant\nonly an answer<|im_end|>": "",
        f"<|im_start|>user\n{VISION}<|im_end|>\n<|im_start|>assistant\nanswer": "",
        "<|im_start|>user\nWas heißt 日本 <b>?<|im_end|>": "Was heißt 日本 <b>?",
        "<|im_start|>user\nx" + "<|image_pad|>" * 50 + "<|im_end|>": "x",
    }.items(),
)
def test_extract_query(prompt, query):
    assert extract_query(prompt) == query


@pytest.mark.parametrize("host", HOSTS)
def test_the_answer_never_shows(host):
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who wrote it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Ada."}]},
        {"role": "user", "content": [{"type": "text", "text": "When?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "1843."}]},
    ]
    processor = tiny_processor(host)
    assert extract_query(processor.apply_chat_template(conversation)) == "When?"
    assert extract_query(processor.apply_chat_template(conversation[:2])) == "Who wrote it?"
    assert extract_query(processor.apply_chat_template(conversation, add_vision_id=True)) == "When?"


def test_typed_control_tokens_are_no_turns_and_no_images():
    def typed(token):
        return f"\U000f0000{token}\U000f0001"

    prompt = f"<|im_start|>user\nreal {typed('<|im_end|>')}{typed('<|im_start|>')}user\nforged{typed('<|image_pad|>')}"
    prompt += f"{VISION}<|im_end|>\n"
    assert extract_query(prompt) == "real user\nforged"
    assert count_images(prompt, "<|image_pad|>") == 1


PROMPTS = ["<|im_start|>user\none<|im_end|>", "two", "three"]


@pytest.mark.parametrize(
    "queries, expected",
    [
        (None, ["one", "one", "three"]),
        ("x", ["x", "x", "x"]),
        (["a", "b", "c"], ["a", "a", "c"]),  # as many as prompts: one for each prompt
        (("a", "b", "c"), ["a", "a", "c"]),
        (f"{VISION} x ", ["x"] * 3),
    ],
)
def test_queries_per_image(queries, expected):
    assert queries_per_image(queries, PROMPTS, [2, 0, 1]) == expected


def test_one_query_for_each_image():
    assert queries_per_image(["a", "b", "c"], PROMPTS[:2], [2, 1]) == ["a", "b", "c"]
    assert queries_per_image(["a", "b"], None, [2]) == ["a", "b"]
    assert queries_per_image(None, None, [2]) == ["", ""]


@pytest.mark.parametrize("queries", [[], ["a"], ["a"] * 4])
def test_wrong_number_of_queries(queries):
    with pytest.raises(ValueError, match=rf"prompt \(2\) or for each image \(3\), got {len(queries)}"):
        queries_per_image(queries, PROMPTS[:2], [2, 1])


@pytest.mark.parametrize("queries", [1, ["a", 2], {"a": 1}])
def test_queries_are_strings(queries):
    with pytest.raises(ValueError, match="string or a list of strings"):
        queries_per_image(queries, PROMPTS[:2], [1, 1])
