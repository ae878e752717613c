"""Measuring a host's own tokens, and keeping what was measured."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from arrcoc.host_statistics import FILE_NAME, ChannelStatistics, HostStatistics, RunningMoments
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import DIM, tiny_arrcoc_model, tiny_stock_model


ROWS = [[[(4, 6)], [(3, 5), (2, 2)]], [[]], [[(5, 3)]]]  # the second batch has no image


@pytest.fixture
def batches(host):
    return [random_inputs(host, rows, seed=seed) for seed, rows in enumerate(ROWS)]


@pytest.fixture
def measured(host, batches):
    return HostStatistics.measure(tiny_stock_model(host), batches, samples=16)


def all_tokens(host, batches, deepstack: int | None = None) -> torch.Tensor:
    model, found = tiny_stock_model(host), []
    for batch in batches:
        if "pixel_values" in batch:
            with torch.no_grad():
                encoded = model.get_image_features(batch["pixel_values"], batch["image_grid_thw"], return_dict=True)
            found += encoded.pooler_output if deepstack is None else encoded.deepstack_features[deepstack]
    return torch.cat(found)


def test_running_moments_are_those_of_all_tokens():
    tokens = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 5) + 7
    moments = RunningMoments()
    for part in tokens.split([1, 40, 0, 9, 50]):
        moments.update(part)
    mean, variance = moments.moments()
    assert moments.count == 100 and mean.dtype == variance.dtype == torch.float64
    torch.testing.assert_close(mean, tokens.double().mean(0))
    torch.testing.assert_close(variance, tokens.double().var(0, correction=0))


def test_running_moments_far_from_zero():
    """Where sums of squares in double precision have lost all of their digits."""
    moments = RunningMoments()
    tokens = torch.randn(10_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e8
    for part in tokens.split(100):
        moments.update(part)
    assert float(moments.moments()[1]) == pytest.approx(float(tokens.var(0, correction=0)), rel=1e-6)
    with pytest.raises(ValueError, match="no tokens"):
        RunningMoments().moments()


def test_measured_on_the_hosts_own_tokens(host, batches, measured):
    assert measured.host == host
    assert list(measured.layers) == ["tokens"] + (["deepstack_1", "deepstack_2"] if host == "qwen3_vl" else [])
    for deepstack, statistics in zip((None, 0, 1), measured.layers.values(), strict=False):
        tokens = all_tokens(host, batches, deepstack)
        assert int(statistics.count) == len(tokens) == 24 + 15 + 4 + 15
        torch.testing.assert_close(statistics.mean, tokens.mean(0))
        torch.testing.assert_close(statistics.variance, tokens.var(0, correction=0))
        assert statistics.samples.shape == (16, DIM)
        rows = (statistics.samples[:, None] == tokens).all(2)  # (samples, tokens)
        assert (rows.sum(1) == 1).all() and len(rows.nonzero()[:, 1].unique()) == 16  # without replacement


def test_arrcoc_takes_no_part(host, batches, measured):
    """Compressed inputs and a block of its own change nothing: it is the host that is measured."""
    model = tiny_arrcoc_model(host, arrcoc_config={"compressor": "experts", "adapter": "quality"})
    with torch.no_grad():
        for parameter in model.model.arrcoc.parameters():
            parameter.fill_(0.5)
    budgeted = [batch | {"image_token_budgets": torch.ones(9, dtype=torch.long)} for batch in batches]
    again = HostStatistics.measure(model, budgeted, samples=16)
    assert again.host == measured.host
    for name, statistics in measured.layers.items():
        for field, values in vars(statistics).items():
            assert torch.equal(values, vars(again.layers[name])[field])


def test_samples_are_even():
    """Early and late tokens of a stream are kept alike."""
    from arrcoc.host_statistics import _Measurement

    kept = torch.zeros(100)
    for seed in range(400):
        measurement = _Measurement(10, torch.Generator().manual_seed(seed))
        for part in torch.arange(100.0)[:, None].split(7):
            measurement.update(part)
        kept[measurement.statistics().samples[:, 0].long()] += 1
    assert kept.sum() == 4000
    halves = kept[:50].sum(), kept[50:].sum()
    assert abs(halves[0] - halves[1]) < 200 and kept.min() > 15 and kept.max() < 75


def test_no_images(host):
    with pytest.raises(ValueError, match="no images"):
        HostStatistics.measure(tiny_stock_model(host), [random_inputs(host, [[]])])


def test_save_and_load(host, measured, tmp_path):
    """Beside a checkpoint's weights, which saving again leaves alone."""
    model = tiny_arrcoc_model(host)
    measured.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = HostStatistics.from_pretrained(tmp_path, model)
    assert (loaded.host, list(loaded.layers)) == (measured.host, list(measured.layers))
    for name, statistics in measured.layers.items():
        for field, values in vars(statistics).items():
            found = vars(loaded.layers[name])[field]
            assert found.dtype == values.dtype and torch.equal(found, values)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=FILE_NAME):
        HostStatistics.from_pretrained(tmp_path)


def test_damaged_and_incomplete_files(host, measured, tmp_path):
    measured.save_pretrained(tmp_path)
    path = tmp_path / FILE_NAME
    tensors = load_file(path)
    without = {key: value for key, value in tensors.items() if key not in ("tokens.mean", "tokens.samples")}
    save_file(without, path)
    with pytest.raises(ValueError, match="has no tokens.mean, tokens.samples"):
        HostStatistics.from_pretrained(tmp_path)
    save_file(tensors | {"tokens.variance": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"inconsistent.*'variance': \[3\]"):
        HostStatistics.from_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        HostStatistics.from_pretrained(tmp_path)


def test_statistics_of_another_host_are_refused(host, measured):
    other = {"qwen3_vl": "qwen2_5_vl", "qwen2_5_vl": "qwen3_vl"}[host]
    with pytest.raises(ValueError) as error:
        measured.check(tiny_arrcoc_model(other))
    assert f"host: found {host}, expected {other}" in str(error.value)
    assert ("deepstack_2: found nothing" if host == "qwen2_5_vl" else "deepstack_2: found 64") in str(error.value)
    narrow = HostStatistics(host, {name: ChannelStatistics.of(torch.randn(9, 8)) for name in measured.layers})
    with pytest.raises(ValueError, match="tokens: found 8 channels, expected 64 channels"):
        narrow.check(tiny_arrcoc_model(host))


def test_to_another_device(measured):
    moved = measured.layers["tokens"].to("meta")
    assert all(values.device.type == "meta" for values in vars(moved).values())
