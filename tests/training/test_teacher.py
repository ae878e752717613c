"""The teacher's maps against the attention that transformers returns, their files, and `arrcoc teach`."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from arrcoc.cli.teach import teach
from arrcoc.training.data import ArrCocCollator, Row, read_rows
from arrcoc.training.teacher import (
    TeacherCache,
    image_settings,
    middle_layers,
    teacher_maps,
    teacher_settings,
    write_shard,
)
from tests.helpers.tiny_models import tiny_arrcoc_model, tiny_stock_model
from tests.helpers.tiny_processors import CELL_SIZE, HOSTS, tiny_processor, write_stock_processor_folder


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


def picture(host: str, rows: int, columns: int, seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    side = CELL_SIZE[host]
    return Image.fromarray(
        torch.randint(0, 256, (rows * side, columns * side, 3), generator=generator, dtype=torch.uint8).numpy()
    )


def rows(host: str) -> list[Row]:
    """One image, two images, none; answers of different lengths."""
    return [
        Row("a", "What?", ("seven",), (picture(host, 4, 6, 0),)),
        Row("b", "Which of the two?", ("no",), (picture(host, 3, 5, 1), picture(host, 2, 4, 2))),
        Row("c", "Who?", ("I",)),
    ]


def reference(model, inputs, layers: list[int]) -> list[torch.Tensor]:
    """Token by token from `output_attentions` of the eager model."""
    arguments = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor) and name in NAMES}
    model.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        attentions = model(**arguments, output_attentions=True).attentions  # layers of (batch, heads, length, length)
    model.set_attn_implementation({"text_config": "sdpa"})
    maps = []
    for row, labels in enumerate(inputs["labels"]):
        visual = [i for i, token in enumerate(inputs["input_ids"][row]) if token == model.config.image_token_id]
        answer = [i for i, label in enumerate(labels) if label != -100]
        total = torch.zeros(len(visual))
        for place in answer:
            for layer in layers:
                for head in attentions[layer][row]:
                    total += head[place - 1, visual]
        maps.append(total / total.sum() if visual else total)
    return maps


NAMES = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("layers", [None, [0, 2]], ids=["middle", "chosen"])
def test_maps_are_the_attention_of_transformers(host, padding_side, layers):
    model = tiny_arrcoc_model(host)
    inputs = ArrCocCollator(tiny_processor(host), padding_side=padding_side)(rows(host))
    maps = teacher_maps(model, inputs, layers)
    assert [len(map) for map in maps] == [24, 15 + 8, 0]
    assert all(map.dtype == torch.float32 for map in maps)
    for found, expected in zip(maps, reference(model, inputs, layers or [1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert model.config.text_config._attn_implementation == "sdpa"  # as it was
    assert maps[0].sum() == pytest.approx(1) and maps[0].std() > 1e-3


def test_stock_and_wrapped_hosts_teach_the_same(host):
    inputs = ArrCocCollator(tiny_processor(host))(rows(host)[:2])
    stock, wrapped = (teacher_maps(model, inputs) for model in (tiny_stock_model(host), tiny_arrcoc_model(host)))
    assert all(torch.equal(a, b) for a, b in zip(stock, wrapped, strict=True))


def test_batches_are_singles(host):
    model, collator = tiny_arrcoc_model(host), ArrCocCollator(tiny_processor(host))
    together = teacher_maps(model, collator(rows(host)))
    for row, map in zip(rows(host)[:2], together, strict=False):
        torch.testing.assert_close(teacher_maps(model, collator([row]))[0], map, rtol=1e-4, atol=1e-6)


def test_middle_layers():
    assert [list(middle_layers(count)) for count in (1, 2, 3, 6)] == [[0], [0], [1], [2, 3]]
    assert middle_layers(36) == range(12, 24)


def test_what_is_no_lesson():
    model, processor = tiny_stock_model("qwen3_vl"), tiny_processor("qwen3_vl")
    row = rows("qwen3_vl")[0]
    with pytest.raises(ValueError, match="a teacher sees all cells"):
        teacher_maps(model, ArrCocCollator(processor, token_budget=4)([row]))
    inputs = ArrCocCollator(processor)([row])
    with pytest.raises(ValueError, match=r"rows \[0\] of the batch have no answer"):
        teacher_maps(model, inputs | {"labels": torch.full_like(inputs["labels"], -100)})
    model.model.language_model.layers[0].self_attn.q_proj.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="attention is not finite"):
        teacher_maps(model, inputs)


@pytest.fixture
def settings():
    model, processor = tiny_stock_model("qwen3_vl"), tiny_processor("qwen3_vl")
    return teacher_settings("some/host", model, processor)


def test_cache(tmp_path, settings):
    with pytest.raises(FileNotFoundError, match="holds no maps of a teacher; `arrcoc teach`"):
        TeacherCache(tmp_path)
    first, second = {"a": torch.rand(6), "b/ü": torch.rand(4)}, {"c": torch.rand(9)}
    assert write_shard(tmp_path, first, settings).name == "teacher-00000.safetensors"
    assert write_shard(tmp_path, second, settings).name == "teacher-00001.safetensors"
    cache = TeacherCache(tmp_path, settings, tiny_processor("qwen3_vl"))
    assert set(cache) == {"a", "b/ü", "c"} and len(cache) == 3 and cache.settings["model"] == "some/host"
    for row_id, map in (first | second).items():
        assert torch.equal(cache[row_id], map)
    assert cache.get("d") is None and "d" not in cache
    assert torch.equal(pickle.loads(pickle.dumps(cache))["c"], second["c"])  # in a worker
    assert not list(tmp_path.glob(".*"))


def test_another_cache_is_refused(tmp_path, settings):
    write_shard(tmp_path, {"a": torch.rand(6)}, settings)
    other = settings | {"model": "another/host", "hidden_size": 32}
    with pytest.raises(ValueError, match="model: found 'some/host', expected 'another/host'; hidden_size: found 64, "):
        TeacherCache(tmp_path, other)
    with pytest.raises(ValueError, match="do not fit: patch_size: found 16, expected 14; size: .*; image_mean"):
        TeacherCache(tmp_path, processor=tiny_processor("qwen2_5_vl"))
    processor = tiny_processor("qwen3_vl")
    processor.image_processor.size = {"shortest_edge": 4096, "longest_edge": 4096}
    with pytest.raises(ValueError, match="size: found .* expected"):
        TeacherCache(tmp_path, processor=processor)
    write_shard(tmp_path, {"b": torch.rand(6)}, other)
    with pytest.raises(ValueError, match="teacher-00001.safetensors do not fit"):
        TeacherCache(tmp_path)
    (tmp_path / "teacher-00001.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0")
    with pytest.raises(ValueError, match="teacher-00001.safetensors is damaged"):
        TeacherCache(tmp_path)


def test_the_collator_reads_it(tmp_path, host):
    model, processor = tiny_stock_model(host), tiny_processor(host)
    collator = ArrCocCollator(processor)
    taught = teacher_maps(model, collator(rows(host)[:1]))[0]
    write_shard(tmp_path, {"a": taught}, teacher_settings("it", model, processor))
    student = ArrCocCollator(processor, token_budget=4, teacher=TeacherCache(tmp_path, processor=processor))
    batch = student(rows(host))
    assert batch["has_teacher"].tolist() == [True, False, False]
    assert torch.equal(batch["teacher"], torch.cat([taught, torch.zeros(15 + 8)]))


@pytest.fixture
def folder(host, tmp_path) -> Path:
    tiny_stock_model(host).save_pretrained(tmp_path / "model")
    return write_stock_processor_folder(tmp_path / "model", host)


@pytest.fixture
def data(host, tmp_path) -> Path:
    """Five rows: the third has no image file, the last no image."""
    records = []
    for number, (height, width) in enumerate([(4, 6), (3, 5), (2, 2), (5, 4)]):
        name = f"{number}.png"
        if number != 2:
            picture(host, height, width, number).save(tmp_path / name)
        answers = [f"number {number}"]
        record = {"id": f"row {number}", "image": name, "question": "Which?", "answers": answers, "token_budget": 4}
        records.append(record)
    records.append({"id": "text", "question": "Why?", "answers": ["so"]})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_teach(host, folder, data, tmp_path, capsys):
    out = tmp_path / "maps"
    with pytest.warns(UserWarning, match="1 rows were left out; the first: row 'row 2'"):
        teach(str(folder), data, out, batch_size=2, shard_rows=2, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert {name: report[name] for name in ("rows", "measured", "found", "left_out", "layers")} == {
        "rows": 4,
        "measured": 3,
        "found": 0,
        "left_out": 1,
        "layers": [1],
    }
    processor = tiny_processor(host)
    cache = TeacherCache(out, processor=processor)
    assert cache.settings["model"] == str(folder)
    assert {name: len(map) for name, map in cache.items()} == {"row 0": 24, "row 1": 15, "row 3": 20}
    row = read_rows(data)[1]
    expected = teacher_maps(tiny_stock_model(host), ArrCocCollator(processor, token_budget=None)([native(row)]))[0]
    torch.testing.assert_close(cache["row 1"], expected, rtol=1e-4, atol=1e-6)
    with safe_open(out / "teacher-00000.safetensors", "pt") as file:
        assert list(file.keys()) == ["row 0", "row 1"]
        assert json.loads(file.metadata()["settings"])["images"] == json.loads(json.dumps(image_settings(processor)))


def native(row: Row) -> Row:
    return Row(row.id, row.question, row.answers, row.images)


def test_teach_goes_on_where_it_was_cut_off(folder, data, tmp_path, capsys):
    picture("qwen3_vl", 4, 4, 2).save(tmp_path / "2.png")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    teach(str(folder), data, whole, batch_size=1, shard_rows=1)
    assert capsys.readouterr().out == f"{whole}: 4 rows measured, 0 found, from layers 1-1 of {folder}\n"
    teach(str(folder), data, cut, batch_size=1, shard_rows=1)
    for name in ("teacher-00001.safetensors", "teacher-00003.safetensors"):
        (cut / name).unlink()
    capsys.readouterr()
    teach(str(folder), data, cut, batch_size=1, shard_rows=1, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["measured"], report["found"]) == (2, 2)
    expected, found = TeacherCache(whole), TeacherCache(cut)
    assert set(expected) == set(found) and len(found) == 4
    assert all(torch.equal(found[name], map) for name, map in expected.items())


def test_teach_refuses(folder, data, tmp_path, settings):
    out = tmp_path / "maps"
    write_shard(out, {"x": torch.rand(4)}, settings)
    with pytest.raises(ValueError, match="do not fit: model: found 'some/host', expected "):
        teach(str(folder), data, out)
    data.write_text(data.read_text().replace("row 1", "row 0"))
    with pytest.raises(ValueError, match="ids of rows must differ, but 1 are found several times, such as 'row 0'"):
        teach(str(folder), data, tmp_path / "other")
    data.write_text('{"id": "text", "question": "Why?", "answers": ["so"]}\n')
    with pytest.raises(ValueError, match="holds no rows with images"):
        teach(str(folder), data, tmp_path / "other")
