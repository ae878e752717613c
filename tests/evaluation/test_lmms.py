"""The adapter for lmms-eval, on a tiny checkpoint; needs the package lmms-eval."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


pytest.importorskip("lmms_eval.api.model", exc_type=ImportError)

from lmms_eval.api.instance import Instance, unwrap_generation_output  # noqa: E402
from lmms_eval.models.registry_v2 import ModelRegistryV2  # noqa: E402

from arrcoc.cli.checkpoints import chat_inputs, load_processor  # noqa: E402
from arrcoc.evaluation.lmms import ArrCoc  # noqa: E402


QUESTIONS = ["What is the total?", "Who wrote this long letter?", "Is there a red mark?"]


def documents():
    sizes = [(256, 192), (128, 128), (192, 320)]
    return [
        {"question": question, "image": Image.effect_mandelbrot(size, (-2, -1, 1, 1), 20).convert("RGB")}
        for question, size in zip(QUESTIONS, sizes, strict=True)
    ]


def messages(document):
    content = [{"type": "image", "url": document["image"]}, {"type": "text", "text": document["question"]}]
    return [{"role": "user", "content": content}]


def requests(settings):
    return [
        Instance(
            request_type="generate_until",
            arguments=(question, messages, settings, number, "pages", "test"),
            idx=0,
            metadata={"task": "pages", "doc_id": number, "repeats": 1},
        )
        for number, question in enumerate(QUESTIONS)
    ]


def adapter(checkpoint, **options):
    found = ArrCoc.create_from_arg_string(f"pretrained={checkpoint},token_budget=12", {"device": "cpu", **options})
    found.task_dict = {"pages": {"test": documents()}}
    return found


@pytest.mark.parametrize("batch_size", [1, 2])
def test_answers_and_token_counts_are_those_of_the_model(checkpoint, batch_size):
    lm = adapter(checkpoint, batch_size=batch_size)
    results = lm.generate_until(requests({"max_new_tokens": 5, "temperature": 0, "until": ["\n\n"]}))
    assert len(results) == 3
    for document, result in zip(documents(), results, strict=True):
        text, counts = unwrap_generation_output(result)
        inputs = chat_inputs(lm.processor, document["image"], document["question"], 12)
        prompt = inputs["input_ids"].shape[1]
        generated = lm.model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, prompt:]
        assert text == lm.processor.decode(generated[0], skip_special_tokens=True)
        placeholders = (inputs["input_ids"] == lm.model.config.image_token_id).sum()
        assert placeholders == 12
        assert counts.input_tokens == prompt  # text, and the visual tokens that were kept
        assert counts.output_tokens == generated.shape[1]


def write_plugin(folder):
    """What an installed package that names the adapter leaves in a folder of the path."""
    info = folder / "plugin-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[lmms_eval.models]\narrcoc = arrcoc.evaluation.lmms:manifest\n")


def test_lmms_eval_finds_the_model_by_its_name(tmp_path, monkeypatch):
    write_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    assert registry.get_model_class("arrcoc") is ArrCoc


def test_text_without_images_and_videos(checkpoint):
    lm = adapter(checkpoint)
    lm.task_dict = {"pages": {"test": [{"text": "Hello"}]}}
    content = [{"type": "text", "text": "Hello"}]
    arguments = (
        "",
        lambda document: [{"role": "user", "content": content}],
        {"max_new_tokens": 2},
        0,
        "pages",
        "test",
    )
    metadata = {"task": "pages", "doc_id": 0, "repeats": 1}
    request = Instance(request_type="generate_until", arguments=arguments, idx=0, metadata=metadata)
    assert lm.generate_until([request])[0].token_counts.output_tokens <= 2
    content.append({"type": "video", "url": "clip.mp4"})
    with pytest.raises(ValueError, match="video"):
        lm.generate_until([request])


TASK = """
task: pages_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4}}
process_results: !function utils.process_results
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 0}}
"""
TASK_FUNCTIONS = """
from PIL import Image


def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def doc_to_text(doc, kwargs=None):
    return doc["question"]


def process_results(doc, results):
    return {"exact_match": float(results[0].strip() == doc["answer"])}
"""


@pytest.mark.slow
def test_command_line_on_a_local_task(checkpoint, pages, tmp_path):
    pytest.importorskip("lmms_eval.evaluator", exc_type=ImportError)
    pytest.importorskip("pytablewriter")
    write_plugin(tmp_path)
    task = tmp_path / "task"
    task.mkdir()
    rows = [json.loads(line) for line in pages.read_text().splitlines()]
    data = [
        {"image": str(pages.parent / row["image"]), "question": row["question"], "answer": row["answers"][0]}
        for row in rows
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, data)))
    (task / "pages_local.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    (task / "utils.py").write_text(TASK_FUNCTIONS)
    arguments = f"pretrained={checkpoint},token_budget=12,device=cpu"
    command = [sys.executable, "-m", "lmms_eval", "--model", "arrcoc", "--model_args", arguments]
    command += ["--tasks", "pages_local", "--include_path", str(task), "--batch_size", "2", "--log_samples"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = dict(os.environ, PYTHONPATH=path, HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    run = subprocess.run(
        [*command, "--output_path", str(tmp_path / "out")],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    (samples,) = (tmp_path / "out").rglob("*samples*.jsonl")
    found = {sample["doc_id"]: sample for sample in map(json.loads, samples.read_text().splitlines())}
    assert len(found) == len(rows)
    processor = load_processor(checkpoint)
    for number, row in enumerate(data):
        with Image.open(row["image"]) as image:
            prompt = chat_inputs(processor, image.convert("RGB"), row["question"], 12)["input_ids"]
        assert found[number]["token_counts"][0]["input_tokens"] == prompt.shape[1]
