"""The tower and the attention of the reference training are the stock ones, on both hosts."""

import numpy as np
import pytest
import torch
from reference.attention import CAUSAL
from reference.model import HOSTS, build_model, quicken
from reference.pictures import patches
from reference.tokenizer import build_tokenizer


@pytest.mark.parametrize("host", HOSTS)
def test_the_quick_tower_is_the_stock_tower(host):
    torch.manual_seed(0)
    stock = build_model("micro", build_tokenizer(), host).model.visual
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    quick = build_model("micro", build_tokenizer(), host).model.visual
    quick.load_state_dict(stock.state_dict())
    quicken(quick)
    assert quick.state_dict().keys() == stock.state_dict().keys()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    for size in (2, 1):
        both, grids = patches(pictures[:size], frames=2)
        one, _ = patches(pictures[:size])
        expected = stock(both, grid_thw=grids)
        for values in (both, one):
            found = quick(values, grid_thw=grids)
            torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-4, rtol=1e-4)
    gradients = []
    for tower, values in ((stock, both), (quick, one)):
        tower(values, grid_thw=grids).pooler_output.square().sum().backward()
        gradients.append(tower.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("host", HOSTS)
def test_the_causal_attention_is_the_stock_attention(host):
    """Of chats padded on the right: states of what is written, weights, and gradients."""
    torch.manual_seed(0)
    model = build_model("micro", build_tokenizer(), host).model.language_model
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids, mask = torch.randint(20, 90, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    found = {}
    for name in ("eager", CAUSAL):
        model.set_attn_implementation(name)
        model.zero_grad()
        outputs = model(input_ids=ids, attention_mask=mask, use_cache=False, output_attentions=True)
        written = outputs.last_hidden_state[mask.bool()]
        taught = outputs.attentions[1][:, 0][mask.bool()]  # (written, length)
        (written.square().sum() + taught.square().sum()).backward()
        found[name] = (written, taught, *(layer.self_attn.q_proj.weight.grad.clone() for layer in model.layers))
    for ours, stock in zip(found[CAUSAL], found["eager"], strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-4)
