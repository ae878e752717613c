import pytest
import torch
import torch.nn.functional as F

from arrcoc.vet import VisualEmbeddingBridge
from tests.compression.learned import gradients_after, perturb


DIM, ROWS, EMBEDDING = 16, 24, 12


@pytest.fixture
def table():
    return torch.randn(ROWS, EMBEDDING, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tokens():
    return torch.randn(10, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_mixtures_of_rows(tokens, table, temperature):
    bridge = perturb(VisualEmbeddingBridge(DIM, ROWS, temperature))
    embedded = bridge(tokens, table)
    for token, found in zip(tokens, embedded, strict=True):
        norm = F.layer_norm(token, (DIM,), bridge.norm.weight, bridge.norm.bias)
        logits = bridge.logits.weight @ norm + bridge.logits.bias
        weights = (logits / temperature).exp() / (logits / temperature).exp().sum()
        torch.testing.assert_close(found, sum(w * row for w, row in zip(weights, table, strict=True)))
    probabilities = bridge.probabilities(tokens)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(10))
    assert probabilities.min() > 0


def test_low_temperature_picks_one_row(tokens, table):
    torch.manual_seed(0)
    bridge = VisualEmbeddingBridge(DIM, ROWS, temperature=1e-3)
    best = bridge.probabilities(tokens).argmax(1)
    torch.testing.assert_close(bridge(tokens, table), table[best], rtol=1e-2, atol=1e-2)
    assert len(best.unique()) > 1


def test_the_table_is_frozen(tokens, table):
    table.requires_grad_()
    bridge = VisualEmbeddingBridge(DIM, ROWS)

    def loss():
        return bridge(tokens, table).square().sum()

    assert all(size > 0 for size in gradients_after(bridge, loss, 0).values())
    assert table.grad is None
    assert not any("table" in name for name in bridge.state_dict())


def test_size_at_the_width_of_ovis():
    with torch.device("meta"):
        bridge = VisualEmbeddingBridge(1280, 16_384)
    assert (
        sum(parameter.numel() for parameter in bridge.parameters()) == 1280 * 16_384 + 16_384 + 2 * 1280 == 20_990_464
    )


def test_bfloat16(tokens, table):
    bridge = VisualEmbeddingBridge(DIM, ROWS)
    exact = bridge(tokens, table)
    low = bridge.to(torch.bfloat16)(tokens.bfloat16(), table.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.05, atol=0.05)
    assert bridge(tokens.bfloat16(), table).dtype == torch.float32


def test_what_does_not_fit_is_refused(tokens, table):
    with pytest.raises(ValueError, match="table of 23 rows; expected 24"):
        VisualEmbeddingBridge(DIM, ROWS)(tokens, table[1:])
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            VisualEmbeddingBridge(DIM, ROWS, temperature)
