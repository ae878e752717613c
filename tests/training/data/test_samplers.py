"""Batches by length, in pairs, over processes, and after an interruption."""

from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from arrcoc.processing import TIERS
from arrcoc.training.data import (
    BUDGET_SHARES,
    ArrCocBatchSampler,
    ArrCocCollator,
    BudgetAugmentation,
    RowDataset,
    SampleLengths,
    WeightedOrder,
    even_batches,
    grouped_batches,
    measure_lengths,
    paired_batches,
    plain_batches,
)
from tests.helpers.tiny_processors import HOSTS, tiny_processor
from tests.training.data.helpers import make_rows, picture


def lengths_of(count: int, native: int = 400, text: int = 20) -> SampleLengths:
    """Lengths of samples with one image each."""
    return SampleLengths(np.full(count, text), ((native,),) * count, ("?",) * count, "two_mode", (64, 256))


@pytest.fixture
def dataset():
    image = picture()
    return RowDataset(make_rows(103, images=(image,)), BudgetAugmentation(seed=1))


def samples(batches):
    return sorted(index for batch in batches for index in batch)


def test_plain_batches():
    assert plain_batches([4, 2, 0, 1, 3], 2) == [[4, 2], [0, 1], [3]]


@pytest.mark.parametrize("batch_size", [None, 6])
def test_grouped_batches(batch_size):
    dice = np.random.default_rng(0)
    tokens = dice.choice([84, 120, 180, 276, 420], 500)
    order = dice.permutation(500).tolist()
    batches = grouped_batches(order, tokens, max_tokens=1000, batch_size=batch_size, window=200)
    assert samples(batches) == list(range(500))
    padded = [len(batch) * max(tokens[batch]) for batch in batches]
    assert max(padded) <= 1000
    waste = 1 - tokens.sum() / sum(padded)
    assert waste < 0.05
    assert waste < 1 - tokens.sum() / sum(len(b) * max(tokens[b]) for b in plain_batches(order, 4)) - 0.2
    if batch_size is None:
        sizes = {length: max(len(b) for b in batches if (tokens[b] == length).all()) for length in (84, 420)}
        assert sizes == {84: 1000 // 84, 420: 2}
    else:
        assert max(map(len, batches)) == 6
    assert grouped_batches([0, 1], [5000, 10], max_tokens=100) == [[1], [0]]


def test_grouped_batches_pad_next_to_nothing():
    """At the budgets and shares of training; why nothing needs to be packed."""
    dice = np.random.default_rng(0)
    tokens = dice.choice(TIERS, 20_000, p=BUDGET_SHARES) + dice.integers(30, 200, 20_000)
    order = dice.permutation(len(tokens)).tolist()

    def padding(batches: list[list[int]]) -> float:
        return 1 - tokens.sum() / sum(len(batch) * tokens[batch].max() for batch in batches)

    assert padding(grouped_batches(order, tokens, 4096)) < 0.004
    assert padding(plain_batches(order, 8)) > 0.3


def test_paired_batches():
    dice = np.random.default_rng(0)
    tokens = dice.choice([64, 100, 160, 256, 400], 400, p=[0.15, 0.25, 0.35, 0.2, 0.05])
    order = dice.permutation(401).tolist()
    tokens = np.append(tokens, 160)
    batches = paired_batches(order, tokens, 4)
    assert samples(batches) == list(range(401))
    work = [tokens[batch].sum() for batch in batches[:-1]]
    plain = [tokens[batch].sum() for batch in plain_batches(order, 4)[:-1]]
    assert np.std(work) < 0.6 * np.std(plain)
    assert all(len(batch) == 4 for batch in batches[:-1])
    for batch in batches[:-1]:
        for light, heavy in zip(batch[::2], batch[1::2], strict=True):
            assert tokens[light] <= np.median(tokens) <= tokens[heavy]
    with pytest.raises(ValueError, match="even batch size, found 3"):
        paired_batches(order, tokens, 3)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_even_batches(world_size):
    batches = [[0, 1, 2, 3], [4, 5], [6], [7, 8, 9]]
    found = even_batches(batches, world_size)
    assert len(found) % world_size == 0
    assert samples(found) == list(range(10))
    assert batches[0] == [0, 1, 2, 3]
    single = even_batches([[0], [1], [2]], world_size)
    assert len(single) % world_size == 0
    assert set(samples(single)) == {0, 1, 2}
    assert max(Counter(samples(single)).values()) <= -(-len(single) // 3)
    assert len(even_batches([[0, 1]], world_size)) == world_size


OPTIONS = {
    "plain": {"batch_size": 4},
    "grouped": {"max_tokens": 1000, "lengths": lengths_of(103)},
    "paired": {"batch_size": 4, "lengths": lengths_of(103)},
}


@pytest.mark.parametrize("batching", OPTIONS)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_epochs_and_processes(dataset, batching, world_size):
    """The first epoch holds every sample once; all ranks have as many batches, alike in work step by step."""
    sampler = ArrCocBatchSampler(dataset, batching, world_size=world_size, **OPTIONS[batching])
    first = list(sampler)
    assert samples(first) == list(range(103))
    assert len(first) == len(sampler)
    assert len(first) % world_size == 0
    assert list(sampler) == first
    ranks = []
    for rank in range(world_size):
        own = ArrCocBatchSampler(dataset, batching, world_size=world_size, rank=rank, **OPTIONS[batching])
        assert len(own) == len(sampler) // world_size
        ranks.append(list(own))
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == first
    if batching == "grouped":
        tokens = lengths_of(103).tokens(dataset.image_budgets(0))
        heaviest = [max(tokens[batch]) for batch in first]
        steps = np.array(heaviest).reshape(-1, world_size)
        assert np.mean(steps.max(1) - steps.min(1) > 100) <= 4 / len(steps)  # at the five tiers' borders alone

    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        later = list(sampler)
        assert dataset.epoch == epoch
        assert later != first
        assert len(later) == len(sampler) == len(first)
        assert len(set(samples(later))) >= 80
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_resumed_run_counts_the_same_steps(dataset):
    """The length is that of the first epoch, also for a sampler that starts with a later one."""
    expected = len(ArrCocBatchSampler(dataset, "grouped", **OPTIONS["grouped"]))
    for epoch in range(4):
        dataset.set_epoch(epoch)
        resumed = ArrCocBatchSampler(dataset, "grouped", **OPTIONS["grouped"])
        assert len(list(resumed)) == len(resumed) == expected


def test_other_orders(dataset):
    keys = ["a"] * 3 + ["b"] * 100
    order = WeightedOrder(keys, {"a": 0.5, "b": 0.5}, size=40)
    sampler = ArrCocBatchSampler(dataset, batch_size=4, order=order)
    assert len(sampler) == 10
    assert sum(index < 3 for index in samples(sampler)) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "sorted"}, "batching must be one of"),
        ({}, "needs batch_size"),
        ({"batch_size": 2, "max_tokens": 5}, "takes no max_tokens"),
        ({"batching": "grouped", "batch_size": 2}, "needs max_tokens"),
        ({"batching": "grouped", "max_tokens": 2}, "needs the lengths"),
        ({"batching": "paired", "batch_size": 2}, "needs the lengths"),
        ({"batch_size": 2, "world_size": 2, "rank": 2}, "rank must lie in"),
    ],
)
def test_bad_arguments(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        ArrCocBatchSampler(dataset, **options)


def ids(rows):
    return [(row.id, row.token_budget) for row in rows]


def test_accelerate_deals_out_and_resumes(dataset):
    """Prepared, skipped and set to an epoch as the Trainer does it, also over several processes."""
    from accelerate import skip_first_batches
    from accelerate.data_loader import prepare_data_loader

    for world_size in (1, 2):
        for rank in range(world_size):

            def loader(rank=rank, world_size=world_size):
                data = RowDataset(dataset.rows, dataset.budgets)
                sampler = ArrCocBatchSampler(data, "grouped", world_size=world_size, **OPTIONS["grouped"])
                plain = DataLoader(data, batch_sampler=sampler, collate_fn=ids)
                return prepare_data_loader(
                    plain, num_processes=world_size, process_index=rank, put_on_device=False, rng_types=[]
                )

            own = ArrCocBatchSampler(dataset, "grouped", world_size=world_size, rank=rank, **OPTIONS["grouped"])
            for epoch in (0, 1):
                dataset.set_epoch(epoch)
                expected = [ids([dataset[index] for index in batch]) for batch in own]
                whole = loader()
                whole.set_epoch(epoch)
                assert len(whole) == len(expected)
                assert list(whole) == expected
                resumed = skip_first_batches(loader(), 5)
                resumed.set_epoch(epoch)  # reaches the data set alone
                assert list(resumed) == expected[5:]


@pytest.mark.parametrize("host", HOSTS)
def test_measured_lengths_are_those_of_the_batch(host, tmp_path):
    processor = tiny_processor(host)
    rows = [
        *make_rows(1, images=(picture(200, 130),), token_budget=5),
        *make_rows(1, images=(picture(200, 130), picture(90, 70)), token_budget=(0.5, 9999)),
        *make_rows(1, images=(), history=(("Before?", "Yes."),)),
        *make_rows(1, images=(picture(300, 300),), token_budget="auto:question_type"),
        *make_rows(1),
    ]
    lengths = measure_lengths(rows, processor)
    found = lengths.tokens([row.image_budgets for row in rows])
    for row, tokens in zip(rows, found.tolist(), strict=True):
        assert ArrCocCollator(processor)([row])["input_ids"].shape[1] == tokens
    larger = lengths.tokens([[64] * len(row.images) for row in rows])
    assert larger[2] == found[2]
    missing = make_rows(1, images=(tmp_path / "missing.png",))
    assert measure_lengths(missing, processor).cells == ((1,),)
