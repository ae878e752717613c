"""Files of a run: what survives a kill, and what is refused."""

import json

import pytest

from arrcoc.evaluation.records import ItemLog, differences, open_run, read_json, read_records, write_json


def record(row, policy="arrcoc", budget="0.25", task="pages", **more):
    return {"task": task, "row": row, "policy": policy, "budget": budget, **more}


def test_items_of_all_processes_are_read_in_order(tmp_path):
    for process, rows in enumerate([(0, 2), (1, 3)]):
        with ItemLog(tmp_path, process) as log:
            for row in rows:
                log.append(record(row, text="naïve – 文"))
    assert [entry["row"] for entry in read_records(tmp_path)] == [0, 1, 2, 3]
    assert read_records(tmp_path)[0]["text"] == "naïve – 文"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items-00000.jsonl", "items-00001.jsonl"]


@pytest.mark.parametrize("kept", [0, 1, 10, 30])
def test_a_torn_last_line_is_no_item_and_is_written_again(tmp_path, kept):
    with ItemLog(tmp_path) as log:
        log.append(record(0, text="ü"))
        log.append(record(1, text="ü"))
    path = tmp_path / "items-00000.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    assert [entry["row"] for entry in read_records(tmp_path)] == [0]
    with ItemLog(tmp_path) as log:
        log.append(record(1, text="ü"))
    assert path.read_bytes() == first + second


def test_a_line_without_its_end_is_no_item_even_if_it_is_json(tmp_path):
    path = tmp_path / "items-00000.jsonl"
    path.write_text(json.dumps(record(0)))
    assert read_records(tmp_path) == []
    with ItemLog(tmp_path) as log:
        log.append(record(5))
    assert [entry["row"] for entry in read_records(tmp_path)] == [5]


def test_damage_elsewhere_and_items_twice_are_refused(tmp_path):
    path = tmp_path / "items-00000.jsonl"
    path.write_text(json.dumps(record(0)) + "\n{broken\n" + json.dumps(record(1)) + "\n")
    with pytest.raises(ValueError, match="items-00000.jsonl:2 is damaged"):
        read_records(tmp_path)
    path.write_text(2 * (json.dumps(record(0)) + "\n"))
    with pytest.raises(ValueError, match="found twice"):
        read_records(tmp_path)


def test_other_settings_are_refused_by_name(tmp_path):
    folder = tmp_path / "run"
    settings = {"model": "a", "conditions": [("native", "1.0")], "tasks": {"pages": {"rows": 3}}}
    open_run(folder, settings)
    open_run(folder, settings)
    with pytest.raises(ValueError, match=r"tasks\.pages\.rows: found 3, now 4") as refused:
        open_run(folder, settings | {"tasks": {"pages": {"rows": 4}}})
    assert "model" not in str(refused.value)
    with pytest.raises(ValueError, match="host: found None, now 'qwen3_vl'"):
        open_run(folder, settings | {"host": "qwen3_vl"})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="files but no run"):
        open_run(tmp_path, settings)


def test_differences_of_nested_settings():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        "a.c: found 2, now 3",
        "d: found None, now 4",
    ]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"score": 1})
    with pytest.raises(TypeError):
        write_json(path, {"score": object()})
    assert read_json(path) == {"score": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["summary.json"]
    with pytest.raises(FileNotFoundError, match="arrcoc eval"):
        read_json(tmp_path / "header.json")
