"""Time, memory and operations from pixels to tokens: what each part of a model takes under each policy."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import StoppingCriteria, StoppingCriteriaList

from .peers import PEERS, peer_features, resized_grid
from .policies import ARRCOC, NATIVE
from .random_weights import TEXT_TOKENS, random_inputs


STAGES = ("features", "pixels")
STOCK = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        policy (`str`): `"native"`, `"resize"`, `"arrcoc-features"`, `"arrcoc-pixels"` or a peer of stage `"features"`.
        tokens (`int`): visual tokens of an image.
        inputs (`dict[str, Tensor]`): of the model.
    """

    policy: str
    tokens: int
    inputs: dict[str, Tensor]


def timed_policies(model: Any) -> list[str]:
    """Policies that can be timed with a model.

    Its own stage alone where parts were made for it, both otherwise. Methods that drop tokens inside the language
    model mask them here, which saves no time and would say nothing.
    """
    block = model.config.arrcoc_config
    is_free = model.model.arrcoc is None
    own = [f"{ARRCOC}-{stage}" for stage in STAGES if is_free or stage == block.stage]
    return [*own, "resize", *(name for name, peer in PEERS.items() if peer.stage == "features")]


def build_cases(
    model: Any,
    grid: tuple[int, int],
    budgets: Sequence[int | float],
    policies: Sequence[str],
    batch: int = 1,
    text_tokens: int = TEXT_TOKENS,
) -> list[Case]:
    """The native case, then every policy at every budget.

    Args:
        model: an ARR-COC model with a language-modelling head.
        grid (`tuple[int, int]`): rows and columns of cells of each image.
        budgets (`Sequence`): shares of the native tokens, or numbers of tokens.
        policies (`Sequence[str]`): some of `timed_policies(model)`.
        batch (`int`), text_tokens (`int`): as of `random_inputs`.

    Raises:
        ValueError: if there is no such policy, or a budget is not below the native count.
    """
    allowed, native = timed_policies(model), grid[0] * grid[1]
    if unknown := [name for name in policies if name not in allowed]:
        raise ValueError(f"found policies {unknown}; expected some of {', '.join(allowed)}")
    place: dict[str, Any] = {"device": model.device, "dtype": model.dtype}

    def inputs(cells: tuple[int, int], count: int | None = None) -> dict[str, Tensor]:
        return random_inputs(model.config, cells, count, batch, text_tokens, **place)

    cases = [Case(NATIVE, native, inputs(grid))]
    for budget in budgets:
        count = max(1, round(budget * native)) if isinstance(budget, float) else budget
        if not 1 <= count < native:
            raise ValueError(f"found the budget {budget}; expected fewer than the {native} native tokens")
        compressed = inputs(grid, count)
        for policy in policies:
            if policy == "resize":
                small = resized_grid(grid, count)
                cases.append(Case(policy, small[0] * small[1], inputs(small)))
            else:
                cases.append(Case(policy, count, compressed))
    return cases


def seconds(device: torch.device | str) -> float:
    """A clock, read when the device has done what it was told.

    On a CPU with a single thread it is the time on the core, which does not count what others do on a busy machine.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if kind == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def reset_peak(device: torch.device | str) -> None:
    """Start a new measurement of peak memory; on a CPU that of the process, which Linux keeps."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device | str) -> int | None:
    """Peak memory since `reset_peak`: of the accelerator, or of the whole process; `None` where neither is known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def count_operations(run: Callable[[], Any]) -> int:
    """Multiplications and additions of a run, attention on a CPU included, forward and backward."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    mapping = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def machine() -> dict[str, Any]:
    """What a result depends on besides the code."""
    return {"platform": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}


@contextmanager
def timed_parts(model: Any) -> Iterator[dict[str, float]]:
    """Seconds spent in the tower, in the scout and in the language model's first pass while the context lasts."""
    spent = {"tower": 0.0, "scout": 0.0, "llm": 0.0}
    started: dict[str, float] = {}
    runs = {name: 0 for name in spent}
    handles = []

    def add_hooks(module: nn.Module, name: str) -> None:
        def start(*_: Any) -> None:
            started[name] = seconds(model.device)

        def stop(*_: Any) -> None:
            runs[name] += 1
            if name != "llm" or runs[name] == 1:  # later passes are decoding
                spent[name] += seconds(model.device) - started[name]

        handles.extend([module.register_forward_pre_hook(start), module.register_forward_hook(stop)])

    add_hooks(model.model.visual, "tower")
    add_hooks(model.model.language_model, "llm")
    if model.model.arrcoc is not None and model.model.arrcoc.scout is not None:
        add_hooks(model.model.arrcoc.scout, "scout")
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


class _Ticks(StoppingCriteria):
    """The time at which each token was there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.times.append(seconds(self.device))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def generate(model: Any, case: Case, new_tokens: int, **kwargs: Any) -> Any:
    """Generate as the case's policy does; images are encoded anew."""
    inputs = case.inputs
    length: dict[str, Any] = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    length |= {"temperature": None, "top_p": None, "top_k": None, "pad_token_id": 0}
    if case.policy.startswith(ARRCOC):
        block = model.config.arrcoc_config
        configured, block.stage = block.stage, case.policy.partition("-")[2]
        try:
            return model.generate(**inputs, **length, **kwargs)
        finally:
            block.stage = configured
    if case.policy in PEERS and PEERS[case.policy].stage == "features":
        features = peer_features(model, inputs, case.policy)
        return model.generate(**inputs, encoded_images=features, **length, **kwargs)
    return model.generate(**{name: inputs[name] for name in STOCK}, **length, **kwargs)


def measure(model: Any, case: Case, new_tokens: int) -> dict[str, float | None]:
    """One run: seconds to the first token, in total and by part, tokens a second after it, memory and cache.

    `allocation` is all that comes before the first token besides tower, scout and language model: relevance,
    allocation and pooling or drawing of leaves, or what a published method computes.

    Args:
        model: an ARR-COC model with a language-modelling head, in evaluation mode.
        case ([`Case`]): what to run.
        new_tokens (`int`): at least 2.
    """
    if new_tokens < 2:
        raise ValueError(f"decoding is timed from the second token on, found new_tokens={new_tokens}")
    reset_peak(model.device)
    ticks = _Ticks(model.device)
    with timed_parts(model) as parts:
        start = seconds(model.device)
        output = generate(
            model, case, new_tokens, stopping_criteria=StoppingCriteriaList([ticks]), return_dict_in_generate=True
        )
    first, last = ticks.times[0] - start, ticks.times[-1] - ticks.times[0]
    batch = len(case.inputs["input_ids"])
    cache = 0
    for layer in output.past_key_values.layers:
        for states in (layer.keys, layer.values):  # (batch, heads, length, head_dim)
            prompt = states.shape[-2] - (new_tokens - 1)
            cache += states[..., :prompt, :].numel() * states.element_size()
    return {
        "first_token": first,
        **parts,
        "allocation": first - sum(parts.values()),
        "decode_tokens_per_second": batch * (new_tokens - 1) / last if last > 0 else None,
        "peak_bytes": peak_bytes(model.device),
        "kv_bytes": cache,
    }


@torch.inference_mode()
def bench(
    model: Any, cases: Sequence[Case], rounds: int, new_tokens: int, advance: Callable[[], Any] = lambda: None
) -> list[dict[str, Any]]:
    """Time all cases in turn, round by round, so that a busy machine slows all of them alike.

    Args:
        model: an ARR-COC model with a language-modelling head, in evaluation mode.
        cases (`Sequence[Case]`): the native one first.
        rounds (`int`): runs of each, after one that is not timed and counts operations up to the first token.
        new_tokens (`int`): tokens to generate.
        advance (`Callable`): called after each run.

    Returns:
        `list[dict]`: for each case medians of what `measure` returns, `operations`, and `speedup`, `decode_speedup`,
        `operations_ratio`, `kv_ratio`: how many times less than the native case.
    """
    operations, runs = [], [[] for _ in cases]  # type: tuple[list[int], list[list[dict[str, float | None]]]]
    for case in cases:
        operations.append(count_operations(lambda: generate(model, case, 1)))  # noqa: B023
        advance()
    for _ in range(rounds):
        for case, found in zip(cases, runs, strict=True):
            found.append(measure(model, case, new_tokens))
            advance()
    rows: list[dict[str, Any]] = []
    for case, found, count in zip(cases, runs, operations, strict=True):
        medians: dict[str, float | None] = {}
        for name in found[0]:
            values = [value for run in found if (value := run[name]) is not None]
            medians[name] = statistics.median(values) if values else None
        rows.append({"policy": case.policy, "tokens": case.tokens, "operations": count} | medians)
    native = rows[0]
    for row in rows:
        row["speedup"] = native["first_token"] / row["first_token"]
        row["operations_ratio"] = native["operations"] / row["operations"]
        row["kv_ratio"] = native["kv_bytes"] / row["kv_bytes"]
        if row["decode_tokens_per_second"] and native["decode_tokens_per_second"]:
            row["decode_speedup"] = row["decode_tokens_per_second"] / native["decode_tokens_per_second"]
    return rows
