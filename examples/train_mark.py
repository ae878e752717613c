"""Learn where to look from answers alone: find the coloured mark that the question names.

A picture of 8 x 8 cells holds eight marks of eight colours, and as many grey decoys. Each mark carries one of four
hatchings whose lines are one pixel wide, so that they can be told apart in full detail only: drawn at half size every
mark is a plain square. A tiny Qwen3-VL is taught from scratch to name the hatching of the mark of a given colour while
it sees all 64 cells. Then it gets 16 tokens a picture, and the scout has to find out which cells they should show.

*Coverage* is the share of pictures whose asked mark is one leaf in full detail. Curves show it on validation pictures,
which the settings were chosen by; the table gives it at the end of training on test pictures, which are drawn for that
alone. docs/mark_task.md has the results.

    OMP_NUM_THREADS=1 python examples/train_mark.py --out runs/mark                    # 15 minutes of one core
    OMP_NUM_THREADS=1 python examples/train_mark.py --out runs/mark --runs evidence    # 2 minutes, with the host
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from arrcoc import ArrCocQwen3VLConfig, ArrCocQwen3VLForConditionalGeneration


SIDE, CELL = 8, 8  # cells a side of a picture, pixels a side of a cell
CELLS, BUDGET = SIDE**2, 16
# Pictures of the blocks' training, of the curves and of the table; the host's have seeds of their own.
FIRST_SEED, VALIDATION_SEED, TEST_SEED = 100, 777, 20240607
PART, TEST_PICTURES = 256, 1024
COLORS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.7, 0.1),
    "blue": (0.15, 0.2, 0.9),
    "yellow": (0.9, 0.85, 0.1),
    "purple": (0.6, 0.1, 0.7),
    "orange": (1.0, 0.5, 0.0),
    "cyan": (0.1, 0.8, 0.9),
    "brown": (0.45, 0.25, 0.1),
}
HATCHINGS = ("rows", "columns", "checks", "weave")
WORDS = ("<pad>", "<image>", "<video>", "<start>", "<end>", "hatching", "of", "?")
VOCABULARY = {word: index for index, word in enumerate((*WORDS, *COLORS, *HATCHINGS))}
FIRST_COLOR, FIRST_HATCHING = VOCABULARY["red"], VOCABULARY["rows"]


def hatchings() -> Tensor:
    """Binary patterns `(hatchings, CELL, CELL)`; each block of 2 x 2 pixels has two dark and two light ones."""
    y, x = torch.meshgrid(torch.arange(CELL), torch.arange(CELL), indexing="ij")
    rows, columns = y % 2, x % 2
    weave = torch.where((y // 2 + x // 2) % 2 == 0, rows, columns)
    return torch.stack([rows, columns, (y + x) % 2, weave]).float()


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw pictures.

    Returns:
        Pixels `(count, 3, SIDE * CELL, SIDE * CELL)` in [-1, 1]; cell and hatching of each colour's mark, both
        `(count, colors)`.
    """
    marks = len(COLORS)
    places = torch.rand(count, CELLS, generator=generator).argsort(1)[:, : 2 * marks]  # (count, marks and decoys)
    kinds = torch.randint(len(HATCHINGS), (count, 2 * marks), generator=generator)
    grey = torch.rand(count, marks, 1, generator=generator).expand(-1, -1, 3) * 0.6 + 0.2
    colors = torch.cat([torch.tensor(list(COLORS.values())).expand(count, -1, -1), grey], 1)
    light = 1 - (1 - colors) * 0.3  # lines and gaps: the colour, and a light tint of it
    patterns = hatchings()[kinds][:, :, None]  # (count, marks, 1, CELL, CELL)
    tiles = colors[..., None, None] * patterns + light[..., None, None] * (1 - patterns)
    pictures = torch.full((count, CELLS, 3, CELL, CELL), 0.9)
    pictures[torch.arange(count)[:, None], places] = tiles
    pictures += torch.randn(pictures.shape, generator=generator) * 0.03
    return pictures * 2 - 1, places[:, :marks], kinds[:, :marks]


def batch(count: int, generator: torch.Generator, budget: int | None) -> tuple[dict[str, Tensor], Tensor]:
    """A batch for the model; the native one asks for all colours one after another, the others for one.

    Returns:
        Model inputs, and the cell of the mark that is asked for, `(count,)`.
    """
    cells, places, kinds = draw(count, generator)
    order = torch.rand(count, len(COLORS), generator=generator).argsort(1)  # (count, colors)
    asked = order[:, :1] if budget else order
    hatching, of, end = (torch.full((count, 1), VOCABULARY[word]) for word in ("hatching", "of", "?"))
    questions, answers = [], []
    for color in asked.T:  # (count,)
        questions.append(torch.cat([hatching, of, color[:, None] + FIRST_COLOR, end], 1))
        answers.append(kinds.gather(1, color[:, None]) + FIRST_HATCHING)
    text = torch.cat([part for pair in zip(questions, answers, strict=True) for part in pair], 1)
    silent = torch.full_like(questions[0], -100)
    labels = torch.cat([part for answer in answers for part in (silent, answer)], 1)
    reading = torch.full((count, (budget or CELLS) + 2), -100)
    if not budget:  # a mark's token is to name its colour or its hatching; labels stand one place further on
        colors = torch.arange(len(COLORS)).expand(count, -1) + FIRST_COLOR
        named = torch.where(torch.rand(colors.shape, generator=generator) < 0.5, colors, kinds + FIRST_HATCHING)
        reading.scatter_(1, places + 2, named)
    tokens = budget or CELLS
    image = torch.tensor([VOCABULARY["<start>"], *[VOCABULARY["<image>"]] * tokens, VOCABULARY["<end>"]])
    image = image.expand(count, -1)
    input_ids = torch.cat([image, text], 1)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == VOCABULARY["<image>"]).long(),
        "labels": torch.cat([reading, labels], 1),
        "pixel_values": cells.flatten(2).flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, SIDE, SIDE]]).expand(count, -1),
    }
    if budget:
        inputs["image_token_budgets"] = torch.full((count,), budget)
        inputs["image_query_ids"] = questions[0]
        inputs["image_query_mask"] = torch.ones_like(questions[0])
    return inputs, places.gather(1, asked[:, :1])[:, 0]


def build(**block) -> ArrCocQwen3VLForConditionalGeneration:
    """A Qwen3-VL of half a million parameters with an ARR-COC block."""
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [8, 4, 4],
            "mrope_interleaved": True,
        },
        "pad_token_id": VOCABULARY["<pad>"],
        "bos_token_id": None,
        "eos_token_id": VOCABULARY["<pad>"],
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 1,
        "out_hidden_size": 128,
        "patch_size": CELL,
        "temporal_patch_size": 1,
        "spatial_merge_size": 1,
        "num_position_embeddings": CELLS,
        "deepstack_visual_indexes": [],
    }
    config = ArrCocQwen3VLConfig(
        text_config=text,
        vision_config=vision,
        arrcoc_config={"stage": "pixels", "scout_dim": 64, "scout_depth": 2, **block},
        image_token_id=VOCABULARY["<image>"],
        video_token_id=VOCABULARY["<video>"],
        vision_start_token_id=VOCABULARY["<start>"],
        vision_end_token_id=VOCABULARY["<end>"],
        tie_word_embeddings=True,
    )
    return ArrCocQwen3VLForConditionalGeneration(config)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of labels predicted, where there is a label."""
    predicted, expected = logits[:, :-1].argmax(-1), labels[:, 1:]
    return float((predicted == expected)[expected != -100].float().mean())


def teach(steps: int, size: int, rate: float = 3e-3) -> dict[str, Tensor]:
    """Teach the host from scratch to answer while it sees all cells; returns its weights."""
    torch.manual_seed(0)
    model = build(relevance="free", cell_encoder="none").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * min(1, (steps - step) / (0.3 * steps))
        inputs, _ = batch(size, generator, budget=None)
        outputs = model(**inputs)
        optimizer.zero_grad()
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            answers = slice(CELLS + 2, None)
            share = accuracy(outputs.logits[:, answers], inputs["labels"][:, answers])
            print(f"native budget, step {step + 1}: {share:.3f} of the answers", flush=True)
    return model.state_dict()


def accustom(weights: dict[str, Tensor], steps: int = 80, size: int = 64) -> dict[str, Tensor]:
    """Let the host see leaves, at random and without training, so that it learns to be unsure; returns its weights."""
    model = build(relevance="free", cell_encoder="none").train()
    model.load_state_dict(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(5)
    for step in range(steps):
        model.config.arrcoc_config.policy = "random" if step % 2 else "lod"
        model.config.arrcoc_config.seed = step
        loss = model(**batch(size, generator, BUDGET)[0]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


@torch.no_grad()
def evaluate(model: ArrCocQwen3VLForConditionalGeneration, seed: int, pictures: int) -> tuple[int, float]:
    """Number of pictures whose asked mark is one leaf in full detail, and share answered correctly."""
    generator, covered, answered = torch.Generator().manual_seed(seed), 0, 0.0
    model.eval()
    for _ in range(pictures // PART):
        inputs, asked = batch(PART, generator, BUDGET)
        outputs = model(**inputs)
        area = outputs.allocation.sizes.prod(1)[outputs.allocation.cell_to_leaf].view(-1, CELLS)
        covered += int((area.gather(1, asked[:, None]) == 1).sum())
        answered += accuracy(outputs.logits, inputs["labels"]) * PART / pictures
    model.train()
    return covered, answered


def interval(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22, 1927)."""
    share, spread = hits / count, z**2 / count
    half = z * (share * (1 - share) / count + spread / (4 * count)) ** 0.5
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


class Run(NamedTuple):
    """A way to learn where to look.

    Attributes:
        block: options of the ARR-COC block besides those that all runs have.
        steps: of the optimizer.
        rate: learning rate of the block; it falls to zero linearly.
        evidence: whether the place of the mark is told, as a binary cross-entropy on the query map.
    """

    block: dict
    steps: int
    rate: float
    evidence: bool = False


RUNS = {
    "straight_through": Run({}, 500, 5e-4),
    "gumbel": Run({"relaxation": "gumbel"}, 500, 5e-4),
    "no_fading": Run({"relaxation_fade": 0.0}, 250, 5e-4),
    "evidence": Run({}, 150, 2e-3, evidence=True),
    "evidence_glance": Run({"cell_encoder": "glance", "glance_level": 1, "query_scorer": "none"}, 150, 2e-3, True),
}


def learn(weights: dict[str, Tensor], run: Run, seed: int, size: int) -> dict:
    """Train the block from answers; the host stays as it is, or it would learn to read faded leaves.

    Args:
        weights: of the host.
        run: what to do.
        seed: of the block's weights, of the pictures and of what is drawn at random.
        size: pictures of a step.

    Returns:
        Steps with coverage and accuracy on validation pictures, and hits, count and accuracy on test pictures.
    """
    torch.manual_seed(seed)
    model = build(relevance="learned", **{"cell_encoder": "scout", "salience_weight": 0, **run.block}).train()
    model.load_state_dict(weights, strict=False)
    model.requires_grad_(False)
    model.model.arrcoc.requires_grad_(True)
    model.model.arrcoc.relevance.balance.requires_grad_(False)  # one kind of picture, one kind of question
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run.rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / run.steps))
    generator, curve = torch.Generator().manual_seed(FIRST_SEED + seed), []
    for step in range(run.steps + 1):
        if step % 50 == 0:
            covered, answered = evaluate(model, VALIDATION_SEED, PART)
            curve.append((step, covered / PART, answered))
            print("step {}: coverage {:.3f}, answers {:.3f}".format(*curve[-1]), flush=True)
        inputs, asked = batch(size, generator, BUDGET)
        outputs = model(**inputs)
        loss = outputs.loss
        if run.evidence:
            target = F.one_hot(asked, CELLS).float().flatten()
            query = outputs.allocation.maps["query"].clamp(1e-6, 1 - 1e-6)
            loss = loss + F.binary_cross_entropy(query, target, weight=1 + 8 * target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        schedule.step()
    hits, answered = evaluate(model, TEST_SEED, TEST_PICTURES)
    return {"curve": curve, "hits": hits, "count": TEST_PICTURES, "answers": answered}


def draw_curves(results: dict[tuple[str, int], dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), dpi=110)
    names = list(RUNS)
    for (name, seed), result in results.items():
        steps, coverage = [row[0] for row in result["curve"]], [row[1] for row in result["curve"]]
        label = name.replace("_", " ") if (name, seed - 1) not in results else ""
        axes.plot(steps, coverage, color=f"C{names.index(name)}", alpha=0.9 if label else 0.5, label=label)
    axes.axhline(0.9, color="grey", linewidth=0.7, linestyle=":")
    axes.set(xlabel="optimizer steps at 16 of 64 tokens", ylabel="asked mark in full detail", ylim=(0, 1.02))
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def table(results: dict[tuple[str, int], dict]) -> str:
    """Coverage of the test pictures by run and seed, in Markdown."""
    lines = ["| run | seed | steps | first at 0.9 | coverage | 95 % | answers |", "|---|---|---|---|---|---|---|"]
    for (name, seed), result in results.items():
        first = next((str(step) for step, coverage, _ in result["curve"] if coverage >= 0.9), "never")
        low, high = interval(result["hits"], result["count"])
        lines.append(
            f"| `{name}` | {seed} | {result['curve'][-1][0]} | {first} | {result['hits'] / result['count']:.3f} "
            f"| {low:.3f} to {high:.3f} | {result['answers']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, results and curves.png")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--native-steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    start, cache = time.process_time(), options.out / "host.pt"
    if not cache.exists():
        torch.save(accustom(teach(options.native_steps, options.batch_size // 2)), cache)
        print(f"host taught: {time.process_time() - start:.0f} s of the core")
    weights = torch.load(cache)

    for name in options.runs:
        for seed in options.seeds:
            print(f"{name}, seed {seed}")
            result = learn(weights, RUNS[name], seed, options.batch_size)
            (options.out / f"{name}-{seed}.json").write_text(json.dumps(result))
            print(f"{time.process_time() - start:.0f} s of the core in all")
    # Everything that was ever run into this folder.
    files = {
        (name, int(file.stem.split("-")[1])): file for name in RUNS for file in options.out.glob(f"{name}-*.json")
    }
    results = {
        key: json.loads(files[key].read_text()) for key in sorted(files, key=lambda k: (list(RUNS).index(k[0]), k[1]))
    }
    draw_curves(results, options.out / "curves.png")
    print(table(results))


if __name__ == "__main__":
    main()
