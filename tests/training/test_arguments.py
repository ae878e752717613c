"""Arguments: defaults by component, and refusals that name what was found."""

import json

import pytest

from arrcoc.training import ArrCocTrainingArguments
from tests.training.conftest import QUIET, make_arguments


def test_rates_of_components_follow_one_dial(tmp_path):
    arguments = make_arguments(tmp_path, learning_rate=1e-4)
    rates = {name: arguments.rate(name) for name in ("allocator", "compressor", "adapter", "lora", "bridge", "llm")}
    assert rates == pytest.approx(
        {"allocator": 1e-4, "compressor": 1e-4, "adapter": 1e-4, "lora": 1e-4, "bridge": 1e-5, "llm": 1e-6}
    )
    assert make_arguments(tmp_path, learning_rate=1e-3).rate("bridge") == pytest.approx(1e-4)
    assert make_arguments(tmp_path, component_learning_rates={"lora": 2e-4}).rate("lora") == 2e-4


def test_coefficients_and_clipping_of_components(tmp_path):
    arguments = make_arguments(tmp_path, component_betas={"lora": [0.8, 0.9]}, component_max_grad_norm={"llm": 0.1})
    assert [arguments.betas(name) for name in ("adapter", "bridge", "llm", "lora")] == [
        (0.9, 0.95),
        (0.9, 0.98),
        (0.9, 0.999),
        (0.8, 0.9),
    ]
    assert [arguments.clip(name) for name in ("allocator", "bridge", "lora", "vision", "llm")] == [1, 0.5, 1, 0.3, 0.1]


def test_weights_are_schedules(tmp_path):
    weight = {"kind": "linear", "start": 0.001, "end": 0.05, "steps": 50_000}
    schedules = make_arguments(tmp_path, loss_weights={"efficiency": weight, "alignment": 0.5}).schedules()
    assert {name: schedule(25_000) for name, schedule in schedules.items()} == pytest.approx(
        {"answer": 1.0, "efficiency": 0.0255, "alignment": 0.5}
    )


def test_arguments_are_those_of_transformers_too(tmp_path):
    arguments = ArrCocTrainingArguments(str(tmp_path), per_device_train_batch_size=3, **QUIET)
    assert arguments.output_dir == str(tmp_path)
    assert arguments.train_batch_size == 3
    assert json.loads(arguments.to_json_string())["alignment"] == "bce"
    assert not arguments.logging_nan_inf_filter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weights": {"aligment": 1}}, "`loss_weights` has 'aligment'"),
        ({"loss_weights": {"alignment": "high"}}, "'high'"),
        ({"component_learning_rates": {"head": 1}}, "`component_learning_rates` has 'head'"),
        ({"component_betas": {"head": [0, 0]}}, "`component_betas` has 'head'"),
        ({"update_cycle": [["allocator"], ["merger"]]}, "`update_cycle` has 'merger'"),
        ({"alignment": "mse"}, "`alignment` has 'mse'"),
        ({"distribution": "gan"}, "`distribution` has 'gan'"),
        ({"answer_normalization": "batch"}, "'batch'"),
        ({"spike_ratio": 0.5}, "`spike_ratio` is 0.5"),
        ({"plateau_factor": 2}, "`plateau_factor` is 2"),
        ({"snapshot_steps": 0}, "`snapshot_steps` is 0"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_arguments(tmp_path, **options)
