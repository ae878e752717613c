"""Whole runs with a tiny checkpoint: kill and resume, processes, problems, and inputs that are cut instead of made."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from arrcoc.cli.checkpoints import load_model, load_processor
from arrcoc.cli.evaluate import evaluate, read_task
from arrcoc.evaluation.digest import checkpoint_digest
from arrcoc.evaluation.leaves import allocation_of, leaves_of
from arrcoc.evaluation.policies import (
    MODEL_POLICIES,
    Condition,
    ModelPolicies,
    conditions,
    shorten_prompts,
)
from arrcoc.evaluation.records import read_json, read_records
from arrcoc.evaluation.run import run_tasks
from arrcoc.evaluation.summary import write_summary
from arrcoc.evaluation.weightless import WeightlessPolicies
from arrcoc.training.data.prompts import prompt_text


RUN = {"budgets": (1.0, 0.25), "policies": ("arrcoc", "resize", "divprune"), "resamples": 50}


def items(folder):
    """Records of a run without what no two runs share."""
    return [{**record, "milliseconds": None} for record in read_records(folder)]


def figures(value):
    """A summary without the times in it."""
    if isinstance(value, dict):
        return {name: figures(part) for name, part in value.items() if name != "milliseconds"}
    return [figures(part) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_model(checkpoint).eval(), load_processor(checkpoint)


@pytest.fixture(scope="module")
def whole(checkpoint, pages, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    evaluate([str(pages)], folder, str(checkpoint), max_new_tokens=3, batch_size=3, **RUN)
    return folder


def test_a_run_has_every_item_once(whole):
    records = read_records(whole)
    assert len(records) == 8 * 4
    assert {(record["policy"], record["budget"]) for record in records} == {
        ("native", "1.0"),
        ("arrcoc", "0.25"),
        ("resize", "0.25"),
        ("divprune", "0.25"),
    }
    for record in records:
        assert record["tokens"] == {"1.0": 64, "0.25": 16}[record["budget"]] and record["native"] == 64
        assert record["milliseconds"] > 0 and record["error"] is None
        assert (record["policy"] == "arrcoc") == bool(record["leaves"])
    assert json.loads((whole / "header.json").read_text())["tasks"]["pages"]["rows"] == 8


def test_records_say_what_the_model_does(whole, loaded, pages):
    model, processor = loaded
    row = read_task(str(pages)).rows[6]
    found = {record["policy"]: record for record in read_records(whole) if record["row"] == 6}
    text = prompt_text(row, processor)
    inputs = processor(images=list(row.decoded().images), text=[text], token_budget=16, return_tensors="pt")
    encoded = model.encode_images(**inputs)
    generated = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert found["arrcoc"]["prediction"] == processor.decode(generated, skip_special_tokens=True).strip()
    assert found["arrcoc"]["leaves"] == [leaves_of(encoded.allocation)]
    again = allocation_of(found["arrcoc"]["leaves"][0])
    assert torch.equal(again.cell_to_leaf, encoded.allocation.cell_to_leaf)
    if row.evidence:
        assert found["native"]["coverage"] == {"full_detail": 1.0, "resolution": 1.0}
        assert found["resize"]["coverage"] == {"full_detail": 0.0, "resolution": 0.5}


def test_pictures_may_be_enlarged(whole, loaded, checkpoint, pages, tmp_path):
    """As much as `min_pixels` says, in all policies; the run says so and is no other run's."""
    _, processor = loaded
    cell = processor.image_processor.patch_size * processor.image_processor.merge_size
    folder, limits = tmp_path / "large", {"min_pixels": 144 * cell**2, "max_pixels": 200 * cell**2}
    evaluate([str(pages)], folder, str(checkpoint), max_new_tokens=3, batch_size=3, quiet=True, **limits, **RUN)
    for record in read_records(folder):
        assert 144 <= record["native"] <= 200
        share = record["tokens"] / record["native"]
        assert share == 1 if record["budget"] == "1.0" else 0.2 < share <= 0.25
    assert limits.items() <= read_json(folder / "header.json").items()
    assert not limits.keys() & read_json(whole / "header.json").keys()
    with pytest.raises(ValueError, match="other settings"):
        evaluate([str(pages)], folder, str(checkpoint), max_new_tokens=3, batch_size=3, **RUN)


def test_limits_that_cannot_be_are_refused(checkpoint, pages, tmp_path):
    with pytest.raises(ValueError, match="at least 90000 and at most 10000 pixels"):
        evaluate([str(pages)], tmp_path / "out", str(checkpoint), min_pixels=90000, max_pixels=10000)
    with pytest.raises(ValueError, match="expected --model"):
        evaluate([str(pages)], tmp_path / "out", min_pixels=90000)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [1, 17])
def test_a_torn_run_ends_with_the_same_items(whole, checkpoint, pages, tmp_path, cut):
    folder = tmp_path / "torn"
    folder.mkdir()
    (folder / "header.json").write_bytes((whole / "header.json").read_bytes())
    lines = (whole / "items-00000.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "items-00000.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:40])
    evaluate([str(pages)], folder, str(checkpoint), max_new_tokens=3, batch_size=3, quiet=True, **RUN)
    assert items(folder) == items(whole)
    assert (folder / "items-00000.jsonl").read_bytes().startswith(b"".join(lines[:cut]))


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_items(whole, checkpoint, pages, tmp_path):
    """The process itself is killed, as soon as it has written some items, and started again."""
    folder, root = tmp_path / "killed", Path(__file__).parents[2]
    code = (
        "import sys; from pathlib import Path; from arrcoc.cli.evaluate import evaluate; "
        f"evaluate([sys.argv[1]], Path(sys.argv[2]), sys.argv[3], max_new_tokens=3, batch_size=3, **{RUN!r})"
    )
    command = [sys.executable, "-c", code, str(pages), str(folder), str(checkpoint)]
    process = subprocess.Popen(command, cwd=root, env=dict(os.environ, OMP_NUM_THREADS="1"), stderr=subprocess.DEVNULL)
    log = folder / "items-00000.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(read_records(folder))
    assert 5 <= done < 32 and not (folder / "summary.json").exists()
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert items(folder) == items(whole)


def test_processes_share_the_work(whole, loaded, pages, tmp_path):
    task = read_task(str(pages))
    settings = read_json(whole / "header.json")
    wanted = conditions(RUN["policies"], RUN["budgets"], MODEL_POLICIES)
    for process in (1, 0):
        run_tasks([task], ModelPolicies(*loaded, 3), wanted, tmp_path / "shared", settings, 3, process, 2, False)
    assert items(tmp_path / "shared") == items(whole)
    shared = write_summary(tmp_path / "shared", RUN["resamples"])
    assert figures(shared) == figures(read_json(whole / "summary.json"))
    sizes = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "shared").glob("items-*"))]
    assert sizes == [20, 12]  # batches 0 and 2 of 3 + 2 rows, batch 1 of 3


@pytest.mark.slow
def test_started_processes_share_the_work(whole, checkpoint, pages, tmp_path):
    """Two processes on the CPU, which talk over gloo: the same items and the same summary as one."""
    root, folder = Path(__file__).parents[2], tmp_path / "shared"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "arrcoc_cli", "eval", "--data", str(pages), "--out", str(folder), "--model", str(checkpoint)]
    command += ["--budgets", ",".join(map(str, RUN["budgets"])), "--policies", ",".join(RUN["policies"])]
    command += ["--max-new-tokens", "3", "--batch-size", "3", "--resamples", str(RUN["resamples"])]
    alone = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    run = subprocess.run(command, cwd=root, env=alone, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("8 questions") == 1  # the first process prints
    assert items(folder) == items(whole)
    assert figures(read_json(folder / "summary.json")) == figures(read_json(whole / "summary.json"))
    assert all(path.stat().st_size > 0 for path in folder.glob("items-*")) and len(list(folder.glob("items-*"))) == 2


def test_other_settings_are_refused(whole, checkpoint, pages):
    with pytest.raises(ValueError, match="max_new_tokens: found 3, now 4"):
        evaluate([str(pages)], whole, str(checkpoint), max_new_tokens=4, batch_size=3, **RUN)
    with pytest.raises(ValueError, match="conditions: found"):
        evaluate([str(pages)], whole, str(checkpoint), max_new_tokens=3, batch_size=3, **{**RUN, "budgets": (0.25,)})


def test_problems_are_counted_and_listed(checkpoint, pages, tmp_path, capsys):
    rows = [json.loads(line) for line in pages.read_text().splitlines()[:3]]
    for row in rows:
        row["image"] = str(pages.parent / row["image"])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows.insert(1, {**rows[0], "id": "broken", "image": "broken.png", "width": 9, "height": 9, "evidence": None})
    rows.append({**rows[0], "id": "gone", "image": "gone.png"})
    rows.append({"id": "blind", "question": "What?", "answers": ["this"]})
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*map(json.dumps, rows), "{no row"]))
    options = {"budgets": (0.25,), "policies": ("arrcoc", "resize"), "batch_size": 4, "resamples": 50}
    evaluate([str(file)], tmp_path / "run", str(checkpoint), max_new_tokens=2, **options)
    task = read_json(tmp_path / "run" / "summary.json")["tasks"]["rows"]
    assert (
        "1 rows of the file could not be read" in capsys.readouterr().out and "rows.jsonl:7" in task["unreadable"][0]
    )
    for figures in task["conditions"]:
        assert figures["items"] == 6
        assert figures["problems"]["error"] == ["broken", "gone", "blind"]
        assert figures["problems"]["over_long"] == [rows[0]["id"], rows[2]["id"], rows[3]["id"]]
    errors = [record for record in read_records(tmp_path / "run") if record["error"]]
    assert all(record["score"] == 0 and record["prediction"] is None for record in errors)
    assert "broken.png" in errors[0]["error"]


def test_empty_answers_are_counted(loaded, pages, monkeypatch, tmp_path):
    model, processor = loaded
    end = model.generation_config.eos_token_id

    def ends_at_once(**kwargs):
        prompt = kwargs["input_ids"]
        return torch.cat([prompt, torch.full_like(prompt[:, :1], end)], 1)

    monkeypatch.setattr(model, "generate", ends_at_once)
    task = read_task(str(pages)).subset(2)
    run_tasks([task], ModelPolicies(model, processor, 3), [Condition("arrcoc", 0.25)], tmp_path / "run", {})
    assert all(record["empty"] and not record["over_long"] for record in read_records(tmp_path / "run"))


@pytest.mark.parametrize("budget", [7, 0.5, 1.0])
def test_prompts_are_cut_as_the_processor_writes_them(loaded, pages, budget):
    model, processor = loaded
    rows = [row.decoded() for row in read_task(str(pages)).rows[:3]]
    small = Image.new("RGB", (96, 64), "red")
    texts = [prompt_text(row, processor) for row in rows]
    texts[1] = texts[1].replace("<|vision_start|>", "<|vision_start|><|image_pad|><|vision_end|><|vision_start|>", 1)
    pictures = [rows[0].images[0], small, rows[1].images[0], rows[2].images[0]]
    arguments = {"images": pictures, "text": texts, "padding": True, "return_tensors": "pt"}
    native = processor(**arguments, token_budget=1.0)
    expected = processor(**arguments, token_budget=budget)
    counts, wanted = native["image_token_budgets"].tolist(), expected["image_token_budgets"].tolist()
    pad = processor.tokenizer.pad_token_id
    found = shorten_prompts(native, counts, wanted, model.config.image_token_id, pad)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_conditions():
    found = conditions(["arrcoc", "random"], [1.0, 0.5, 8, "auto"], MODEL_POLICIES)
    assert [(c.policy, c.label) for c in found] == [
        ("native", "1.0"),
        ("arrcoc", "0.5"),
        ("random", "0.5"),
        ("arrcoc", "8"),
        ("random", "8"),
        ("arrcoc", "auto"),
    ]
    with pytest.raises(ValueError, match="'prumerge'.*visionzip"):
        conditions(["prumerge"], [0.5], MODEL_POLICIES)
    with pytest.raises(ValueError, match="differ"):
        conditions(["arrcoc"], [0.5, 0.5], MODEL_POLICIES)


@pytest.mark.parametrize("policy", ["arrcoc-uniform", "arrcoc-topk", "random", "fastv", "native"])
def test_every_kind_of_policy_answers_and_leaves_the_model_as_it_was(loaded, pages, policy):
    model, processor = loaded
    rows = read_task(str(pages)).rows[:2]
    task = read_task(str(pages))
    before = model.config.arrcoc_config.to_dict()
    budget = 1.0 if policy == "native" else 0.25
    ((_, answers),) = ModelPolicies(model, processor, 2).answers(task, rows, [Condition(policy, budget)])
    assert model.config.arrcoc_config.to_dict() == before
    assert all(answer.native == 64 and not answer.leaves for answer in answers)
    for answer, row in zip(answers, rows, strict=True):
        if policy == "fastv":
            assert 16 < answer.tokens < 64 and answer.coverage is None
        else:
            assert answer.tokens == (64 if policy == "native" else 16)
            assert (answer.coverage is not None) == bool(row.evidence)


def test_variants_answer_as_models_of_their_own(checkpoint, pages, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    variants = [("flat", {"information_weight": 0, "policy": "uniform"}), ("same", {"model": str(copy)})]
    options = {"budgets": (0.25,), "max_new_tokens": 3, "resamples": 50}
    evaluate([str(pages)], tmp_path / "all", str(checkpoint), policies=None, variants=variants, **options)
    found = {}
    for record in read_records(tmp_path / "all"):
        found.setdefault(record["policy"], []).append((record["prediction"], record["coverage"]))
    assert found["arrcoc:same"] == found["arrcoc"] != found["arrcoc:flat"]
    evaluate([str(pages)], tmp_path / "own", str(checkpoint), policies=("arrcoc-uniform",), **options)
    own = [(record["prediction"], record["coverage"]) for record in read_records(tmp_path / "own")]
    assert found["arrcoc:flat"] == own
    header = json.loads((tmp_path / "all" / "header.json").read_text())
    assert header["reference"] == "arrcoc" and header["variants"]["flat"]["block"] == variants[0][1]
    assert header["variants"]["same"]["weights"] == header["weights"]


def test_variants_that_cannot_be_are_refused(checkpoint, pages, tmp_path):
    def refused(*variants, model=str(checkpoint)):
        evaluate([str(pages)], tmp_path / "run", model, budgets=(0.25,), variants=variants)

    with pytest.raises(ValueError, match="two variants 'a'"):
        refused(("a", {"query_weight": 0}), ("a", {"query_weight": 1}))
    with pytest.raises(ValueError, match="'depth'"):
        refused(("a", {"depth": 0}))
    with pytest.raises(ValueError, match="of no model"):
        refused(("a", {"query_weight": 0}), model=None)
    assert not (tmp_path / "run").exists()


def test_a_random_choice_differs_between_items_and_not_between_runs(loaded, pages):
    rows = read_task(str(pages)).rows[:2]  # of the same picture
    chosen = []
    for part in (rows, rows[1:]):
        policies = ModelPolicies(*loaded, 1)
        ((_, answers),) = policies.answers(read_task(str(pages)), part, [Condition("random", 0.5)])
        chosen.append([answer.prediction for answer in answers])
    assert chosen[0][1] == chosen[1][0]


def test_digest_of_a_checkpoint(checkpoint, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert checkpoint_digest(copy) == checkpoint_digest(checkpoint)
    config = read_json(copy / "processor_config.json")
    (copy / "processor_config.json").write_text(json.dumps(config | {"auto_strategy": "two_mode"}))
    assert checkpoint_digest(copy) == checkpoint_digest(checkpoint)  # given budgets do not depend on it
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert checkpoint_digest(copy) != checkpoint_digest(checkpoint)
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    del header["__metadata__"]
    last = max(header, key=lambda name: header[name]["data_offsets"])
    assert checkpoint_digest(copy, (last,)) == checkpoint_digest(checkpoint, (last,))
    assert checkpoint_digest(copy, (min(header.keys() - {last}),)) != checkpoint_digest(checkpoint)


def test_digest_knows_a_checkpoint_of_which_one_part_was_trained(tmp_path):
    weights = {f"part{number}": torch.zeros(2048) for number in range(400)}
    save_file(weights, tmp_path / "model.safetensors")
    found = {checkpoint_digest(tmp_path)}
    for number in (3, 101, 250, 399):
        save_file(weights | {f"part{number}": torch.ones(2048)}, tmp_path / "model.safetensors")
        found.add(checkpoint_digest(tmp_path))
    assert len(found) == 5


def test_digest_of_pickled_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(5000))
    found = checkpoint_digest(tmp_path)
    assert checkpoint_digest(tmp_path) == found
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(4999) + b"1")
    assert checkpoint_digest(tmp_path) != found


def test_without_a_model_evidence_is_measured(pages, tmp_path, capsys):
    evaluate([str(pages)], tmp_path / "run", budgets=(1.0, 0.25), resamples=50)
    summary = read_json(tmp_path / "run" / "summary.json")
    task = summary["tasks"]["pages"]
    blind = sum(json.loads(line)["evidence"] is None for line in pages.read_text().splitlines())
    assert task["without_evidence"] == blind and task["conditions"][0]["items"] == 8 - blind
    score = {(figures["policy"], figures["budget"]): figures["scores"] for figures in task["conditions"]}
    assert score["native", "1.0"] == {"full_detail": 1.0, "resolution": 1.0}
    assert score["resize", "0.25"] == {"full_detail": 0.0, "resolution": 0.5}
    assert score["arrcoc-lod", "0.25"]["resolution"] > 0
    assert "resolution [95 %]" in capsys.readouterr().out


def test_weightless_policies_place_what_inspect_places(pages):
    from arrcoc.cli.inspect import allocate_pixels
    from arrcoc.configuration_arrcoc import ArrCocConfig

    task = read_task(str(pages))
    row = next(row for row in task.rows if row.evidence)
    ((_, (answer,)),) = WeightlessPolicies().answers(task, [row], [Condition("arrcoc", 20)])
    expected = allocate_pixels(row.decoded().images[0], row.question, 20, "qwen3_vl", ArrCocConfig())
    assert answer.leaves == [leaves_of(expected)] and answer.tokens == 20
    with pytest.raises(ValueError, match="host"):
        WeightlessPolicies("gpt")


def test_tasks_by_name(pages, tmp_path):
    assert read_task(str(pages), "exact_match").metric == "exact_match"
    assert {row.set for row in read_task("synthetic:2,kinds=table,size=256").rows} == {"synthetic_table"}
    assert {row.images[0].index for row in read_task("synthetic:2,kinds=table,size=256", seed=8).rows} == {8, 9}
    with pytest.raises(ValueError, match="'blurred'"):
        read_task("synthetic:2,blurred")
    with pytest.raises(FileNotFoundError, match="rrc.cvc.uab.es"):
        read_task(f"docvqa={tmp_path}")
    with pytest.raises(ValueError, match="docvqa"):
        read_task("docwqa=/somewhere")
