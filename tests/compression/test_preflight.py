"""`arrcoc preflight`: the report against tokens computed by hand, its verdicts, and what a user can get wrong."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import arrcoc_cli
from arrcoc.cli import preflight as command
from arrcoc.host_statistics import HostStatistics
from tests.compression.learned import perturb
from tests.helpers.tiny_models import tiny_arrcoc_model, tiny_stock_model
from tests.helpers.tiny_processors import CELL_SIZE, tiny_processor, write_stock_processor_folder


@pytest.fixture
def call(capsys):
    """Run `arrcoc preflight`; returns exit status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = arrcoc_cli.main(["preflight", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def data(host, tmp_path) -> Path:
    """Three images of 20 x 16, 12 x 12 and 16 x 20 cells; the first has two questions."""
    generator = torch.Generator().manual_seed(0)
    side, records = CELL_SIZE[host], []
    (tmp_path / "images").mkdir()
    for index, (rows, cols) in enumerate([(20, 16), (12, 12), (16, 20)]):
        coarse = torch.randint(0, 256, (rows * 2, cols * 2, 3), generator=generator, dtype=torch.uint8)
        name = f"images/{index}.png"
        Image.fromarray(coarse.numpy()).resize((cols * side, rows * side), Image.BILINEAR).save(tmp_path / name)
        records.append({"image": name, "question": f"What is in picture {index}?", "answers": ["nothing"]})
    records.insert(1, {**records[0], "question": "What else?"})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + "\n")
    return path


def save(model, host, folder: Path) -> Path:
    model.save_pretrained(folder)
    return write_stock_processor_folder(folder, host)


@pytest.fixture
def checkpoint(host, tmp_path) -> Path:
    model = tiny_arrcoc_model(host, arrcoc_config={"compressor": "experts", "adapter": "quality"})
    return save(model, host, tmp_path / "model")


def test_report_is_what_tokens_say(host, call, data, checkpoint):
    status, out, _ = call("--model", checkpoint, "--data", data, "--json")
    report = json.loads(out)
    assert status == 0
    assert (report["images"], report["budgets"], report["stage"]) == (3, [64, 400], "features")
    assert (report["compressor"], report["adapter"]) == ("experts", "quality")

    model, processor = tiny_arrcoc_model(host), tiny_processor(host)  # untrained: plain pooling
    own, tokens, levels, cosines = [], [], [], []
    for index, native in enumerate((320, 144, 320)):
        picture = Image.open(data.parent / f"images/{index}.png")
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"What is in picture {index}?"}]}
        ]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        for budget in (64, min(400, native)):
            inputs = processor(images=[picture], text=[text], token_budget=budget, return_tensors="pt")
            with torch.no_grad():
                stock = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output[
                    0
                ]
                encoded = model.encode_images(**inputs)
            allocation, found = encoded.allocation, encoded.pooler_output[0]
            assert len(stock) == native and len(found) == budget
            tokens.append(found)
            levels.append((allocation.levels + 0.5).floor())
            for leaf in range(budget):
                cells = stock[allocation.cell_to_leaf == leaf]
                cosines.append(torch.stack([torch.cosine_similarity(found[leaf], cell, 0) for cell in cells]).mean())
        own.append(stock)
    own, tokens, levels, cosines = torch.cat(own), torch.cat(tokens), torch.cat(levels), torch.stack(cosines)

    assert report["host"]["tokens"] == len(own)
    assert report["host"]["mean"] == pytest.approx(float(own.mean()), abs=1e-5)
    assert report["host"]["std"] == pytest.approx(float(own.var(0, correction=0).mean().sqrt()), abs=1e-5)
    assert set(report["levels"]) == {str(int(level)) for level in levels.unique()} >= {"0", "1", "2"}
    for level, values in report["levels"].items():
        part = levels == int(level)
        mean, variance = tokens[part].mean(0), tokens[part].var(0, correction=0)
        ratio = variance / own.var(0, correction=0)
        shift = (mean - own.mean(0)).square() / own.var(0, correction=0)
        divergence = ((ratio - ratio.log() - 1 + shift) / 2).mean()
        assert values["tokens"] == int(part.sum())
        assert values["mean"] == pytest.approx(float(mean.mean()), abs=1e-5)
        assert values["std"] == pytest.approx(float(variance.mean().sqrt()), abs=1e-5)
        assert values["divergence"] == pytest.approx(float(divergence), abs=1e-3)
        assert values["cosine"] == pytest.approx(float(cosines[part].mean()), abs=1e-3)
        assert values["diverges"] is (bool(divergence > 0.5) if part.sum() >= 32 else None)
    assert report["levels"]["0"]["cosine"] == 1.0


def test_verdicts(host, call, data, checkpoint, tmp_path):
    """An adapter that throws tokens off is flagged at the coarse levels; full detail is never."""
    model = tiny_arrcoc_model(host, arrcoc_config={"adapter": "quality", "adapter_blocks": 1})
    perturb(model.model.arrcoc.adapter, scale=2.0)
    folder = save(model, host, tmp_path / "perturbed")
    status, out, _ = call("--model", folder, "--data", data, "--json")
    report = json.loads(out)
    assert status == 0 and report["verdict"] == "adapt"
    assert report["levels"]["1"]["diverges"] and report["levels"]["1"]["divergence"] > 0.5
    assert report["levels"]["0"]["diverges"] is False

    status, out, _ = call("--model", folder, "--data", data)
    lines = out.splitlines()
    assert status == 0 and lines[0].split() == ["tokens", "mean", "std", "divergence", "cosine"]
    assert [line.split()[0] for line in lines[1:]] == ["host", *["level"] * len(report["levels"]), "adapt:"]
    assert "diverges" in lines[3] and "diverges" not in lines[2]

    def judged(**diverges):
        return command.verdict({level[1:]: {"diverges": value} for level, value in diverges.items()})

    assert judged(_0=False, _1=False, _2=None) == "ready"
    assert judged(_0=False, _1=True) == "adapt"
    assert judged(_0=False, _1=None) == "undecided"


def test_statistics_are_saved_with_the_checkpoint(host, data, checkpoint, capsys):
    """They are those of the host's own tokens of the same images, and training finds them."""
    weights = (checkpoint / "model.safetensors").read_bytes()
    command.preflight(str(checkpoint), data, save=checkpoint, as_json=True)
    report = json.loads(capsys.readouterr().out)
    model, processor = tiny_arrcoc_model(host), tiny_processor(host)
    statistics = HostStatistics.from_pretrained(checkpoint, model)
    pictures = [Image.open(data.parent / f"images/{index}.png") for index in range(3)]
    batches = [processor.image_processor(images=[picture], return_tensors="pt") for picture in pictures]
    expected = HostStatistics.measure(model, batches)
    assert int(statistics.layers["tokens"].count) == report["host"]["tokens"] == 320 + 144 + 320
    assert list(statistics.layers) == list(expected.layers)
    for name, layer in expected.layers.items():
        torch.testing.assert_close(statistics.layers[name].mean, layer.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(statistics.layers[name].variance, layer.variance, rtol=1e-4, atol=1e-6)
    assert (checkpoint / "model.safetensors").read_bytes() == weights
    assert not [path for path in checkpoint.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["stock", "pixels"])
def test_other_checkpoints(host, call, data, tmp_path, name):
    """Stock ones, which are pooled, and those of stage `pixels`."""
    model = tiny_stock_model(host) if name == "stock" else tiny_arrcoc_model(host, arrcoc_config={"stage": "pixels"})
    folder = save(model, host, tmp_path / name)
    status, out, _ = call("--model", folder, "--data", data, "--images", 1, "--json")
    report = json.loads(out)
    assert status == 0 and report["images"] == 1 and report["host"]["tokens"] == 320
    assert report["stage"] == {"stock": "features", "pixels": "pixels"}[name]
    assert sum(values["tokens"] for values in report["levels"].values()) == 64 + 320


def test_records(data):
    records = command.read_records(data, 2)
    assert [(path.name, question) for path, question in records] == [
        ("0.png", "What is in picture 0?"),
        ("1.png", "What is in picture 1?"),
    ]
    assert len(command.read_records(data, 99)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no images"),
        ('{"image": "images/0.png", "question": "?"}\n{"image"', "line 2 is no JSON"),
        ('{"question": "?"}', "line 1 has no field 'image'"),
        ('{"image": "images/0.png"}', "line 1 has no field 'question'"),
        ("[]", "line 1 has no field 'image'"),
        ('{"image": "images/nowhere.png", "question": "?"}', "nowhere.png"),
    ],
)
def test_what_is_no_data_is_one_line(call, data, checkpoint, text, message):
    data.write_text(text)
    status, out, err = call("--model", checkpoint, "--data", data)
    lines = [line for line in err.splitlines() if line.startswith("arrcoc")]
    assert status == 2 and out == "" and len(lines) == 1 and message in lines[0]


def test_missing_files_are_one_line(call, data, checkpoint, tmp_path):
    for arguments, name in (
        (("--model", checkpoint, "--data", tmp_path / "none.jsonl"), "none.jsonl"),
        (("--model", tmp_path / "none", "--data", data), "no checkpoint folder"),
    ):
        status, out, err = call(*arguments)
        assert status == 2 and out == "" and name in err
