"""Learn where to look from answers alone: find the coloured mark that the question names.

A picture of 8 x 8 cells holds eight marks of eight colours, and as many grey decoys. Each mark carries one of four
hatchings whose lines are one pixel wide, so that they can be told apart in full detail only: drawn at half size every
mark is a plain square. A tiny Qwen3-VL is taught from scratch to name the hatching of the mark of a given colour while
it sees all 64 cells. Then it gets 16 tokens a picture, and the scout has to find out which cells they should show.
docs/mark_task.md has the results.

    python examples/train_mark.py --out runs/mark --runs evidence      # about 5 minutes on two cores, with the host
    python examples/train_mark.py --out runs/mark                      # all curves
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from arrcoc import ArrCocQwen3VLConfig, ArrCocQwen3VLForConditionalGeneration


SIDE, CELL = 8, 8  # cells a side of a picture, pixels a side of a cell
CELLS, BUDGET = SIDE**2, 16
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
    torch.manual_seed(0)
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
def evaluate(model: ArrCocQwen3VLForConditionalGeneration) -> tuple[float, float]:
    """Share of 256 fixed pictures whose asked mark is one leaf in full detail, and share answered correctly."""
    inputs, asked = batch(256, torch.Generator().manual_seed(99), BUDGET)
    outputs = model.eval()(**inputs)
    model.train()
    area = outputs.allocation.sizes.prod(1)[outputs.allocation.cell_to_leaf].view(-1, CELLS)
    coverage = float((area.gather(1, asked[:, None]) == 1).float().mean())
    return coverage, accuracy(outputs.logits, inputs["labels"])


def learn(weights: dict[str, Tensor], steps: int, size: int, rate: float, evidence: bool, block: dict) -> list[tuple]:
    """Train the block, and the host with it, from answers; returns (step, coverage, accuracy) every 50 steps.

    Args:
        weights: of the host.
        rate: learning rate of the block.
        evidence: whether the place of the mark is told, as a binary cross-entropy on the query map.
        block: options of the ARR-COC block.
    """
    model = build(relevance="learned", **block).train()
    model.load_state_dict(weights, strict=False)
    model.model.arrcoc.relevance.balance.requires_grad_(False)  # one kind of picture, one kind of question
    mine = [parameter for parameter in model.model.arrcoc.parameters() if parameter.requires_grad]
    host = [parameter for name, parameter in model.named_parameters() if "arrcoc" not in name]
    groups = [{"params": mine, "lr": rate}, {"params": host, "lr": 1e-4}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    generator, curve = torch.Generator().manual_seed(1), []
    for step in range(steps + 1):
        if step % 50 == 0:
            curve.append((step, *evaluate(model)))
            print("step {}: coverage {:.3f}, answers {:.3f}".format(*curve[-1]), flush=True)
        inputs, asked = batch(size, generator, BUDGET)
        outputs = model(**inputs)
        loss = outputs.loss
        if evidence:
            target = F.one_hot(asked, CELLS).float().flatten()
            query = outputs.allocation.maps["query"].clamp(1e-6, 1 - 1e-6)
            loss = loss + F.binary_cross_entropy(query, target, weight=1 + 8 * target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mine, 0.5)
        torch.nn.utils.clip_grad_norm_(host, 1.0)
        optimizer.step()
    return curve


def draw_curves(curves: dict[str, list[tuple]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), dpi=110)
    for name, curve in curves.items():
        axes.plot([row[0] for row in curve], [row[1] for row in curve], label=name.replace("_", " "))
    axes.axhline(0.9, color="grey", linewidth=0.7, linestyle=":")
    axes.set(xlabel="optimizer steps at 16 of 64 tokens", ylabel="asked mark in full detail", ylim=(0, 1.02))
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


# Options of the block, learning rate, whether evidence is given, share of the steps.
RUNS = {
    "straight_through": ({}, 4e-4, False, 0.2),
    "straight_through_fade": ({"relaxation_fade": 1.0}, 4e-4, False, 1.0),
    "soft": ({"relaxation": "soft"}, 4e-4, False, 0.2),
    "gumbel_fade": ({"relaxation": "gumbel", "relaxation_fade": 1.0}, 4e-4, False, 0.5),
    "evidence": ({}, 2e-3, True, 0.2),
    "evidence_glance": ({"cell_encoder": "glance", "glance_level": 1, "query_scorer": "none"}, 2e-3, True, 0.2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, curves.json and curves.png")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--native-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=900, help="of the longest run")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    start, cache = time.time(), options.out / "host.pt"
    if not cache.exists():
        torch.save(accustom(teach(options.native_steps, options.batch_size // 2)), cache)
        print(f"host taught in {time.time() - start:.0f} s")
    weights = torch.load(cache)

    results = options.out / "curves.json"
    curves = json.loads(results.read_text()) if results.exists() else {}
    for name in options.runs:
        print(name)
        block, rate, evidence, share = RUNS[name]
        block = {"cell_encoder": "scout", "salience_weight": 0, **block}
        curves[name] = learn(weights, int(options.steps * share), options.batch_size, rate, evidence, block)
        results.write_text(json.dumps(curves))
        draw_curves(curves, options.out / "curves.png")
        print(f"{name}: {time.time() - start:.0f} s in all")


if __name__ == "__main__":
    main()
