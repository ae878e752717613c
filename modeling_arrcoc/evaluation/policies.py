"""Who is compared: ARR-COC's own policies and the published ones, behind one way to answer a batch of questions."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from arrcoc.allocation import POLICIES as OWN_POLICIES
from arrcoc.outputs import Allocation
from arrcoc.processing.budgets import resolve_token_budgets
from arrcoc.training.data.prompts import prompt_text
from arrcoc.training.data.rows import Row

from .coverage import Coverage, evidence_coverage, resized_coverage
from .leaves import leaves_of
from .peers import PEERS, EncodedCells, PeerBatch, encode_cells, resized_inputs, running_peer
from .tasks import Task


ARRCOC, NATIVE = "arrcoc", "native"
MODEL_POLICIES = (ARRCOC, *(f"{ARRCOC}-{name}" for name in OWN_POLICIES), *PEERS)
Budget = int | float | str


@dataclass(frozen=True)
class Condition:
    """A policy at a budget.

    Attributes:
        policy (`str`): `"arrcoc"` (as the checkpoint is configured), `"arrcoc-lod"` and so on (its block with another
            policy), `"arrcoc:NAME"` (a variant of it), a name of `PEERS`, or `"native"`: the stock model.
        budget: as the processor takes it for any image.
    """

    policy: str
    budget: Budget

    @property
    def label(self) -> str:
        """The budget as a text; a share has a point, a number of tokens has none."""
        return str(self.budget)


def conditions(policies: Sequence[str], budgets: Sequence[Budget], allowed: Sequence[str]) -> list[Condition]:
    """All policies at all budgets.

    At the share 1.0 all policies are the stock model, bit for bit, which is run once and named `"native"`. Budgets
    that are chosen (`"auto"`, `"learned"`) are for ARR-COC alone.

    Raises:
        ValueError: if a policy is not allowed, one is given twice, or there are none.
    """
    if unknown := [name for name in policies if name not in allowed]:
        raise ValueError(f"found policies {unknown}; expected some of {', '.join(allowed)}")
    for values in (policies, budgets):
        if not values or len(set(values)) != len(values):
            raise ValueError(f"expected policies and budgets that differ, at least one of each, found {list(values)}")
    found = []
    for budget in budgets:
        if isinstance(budget, float) and budget == 1:
            found.append(Condition(NATIVE, budget))
        else:
            own = [name for name in policies if name.startswith(ARRCOC)]
            found += [Condition(name, budget) for name in (own if isinstance(budget, str) else policies)]
    return found


@dataclass(frozen=True)
class Answer:
    """What came of one item.

    Attributes:
        prediction (`str`): the answer.
        complete (`bool`): whether it ended by itself.
        tokens (`float`): visual tokens that the language model saw, a mean over its layers, of all of its images.
        native (`int`): as many as there are at native budget.
        milliseconds (`float`): from prepared inputs to the end of the answer, a batch's time shared by its items. What
            methods share is done once and counted for each.
        coverage ([`Coverage`], *optional*): of its evidence, if it has any and the method places its tokens.
        leaves (`list`): of each image rows, columns, and the boxes of its leaves one after another; empty if unknown.
    """

    prediction: str
    complete: bool
    tokens: float
    native: int
    milliseconds: float
    coverage: Coverage | None
    leaves: list[list[float]]


@dataclass(frozen=True)
class _Prepared:
    """A batch's inputs at native budget, and what its items need to be told apart.

    Attributes:
        inputs: the processor's output with a budget, in stock keys and ARR-COC's own.
        native (`list[int]`): cells of each image.
        owner (`list[int]`): the item that each image belongs to.
    """

    rows: Sequence[Row]
    texts: list[str]
    pictures: list[Image.Image]
    inputs: dict[str, Tensor]
    native: list[int]
    owner: list[int]
    questions: list[str]


@dataclass(frozen=True)
class _Shared:
    """What methods that begin with all cells have in common: the cells of a batch, and the seconds that they took."""

    cells: EncodedCells
    seconds: float


def _begins_with_all_cells(condition: Condition) -> bool:
    return condition.policy in PEERS and PEERS[condition.policy].stage != "image"


def shorten_prompts(
    inputs: Mapping[str, Tensor], native: Sequence[int], budgets: Sequence[int], image_token_id: int, pad_token_id: int
) -> dict[str, Tensor]:
    """Inputs at native budget with fewer placeholders: what the processor returns for these budgets.

    Preparing pictures costs far more than cutting a prompt, and does not depend on the budget.

    Args:
        inputs: the processor's output for a budget of 1.0, padded on the left.
        native (`Sequence[int]`), budgets (`Sequence[int]`): placeholders of each image, there and wanted.
        image_token_id, pad_token_id (`int`): of the tokenizer.
    """
    ids = inputs["input_ids"]
    is_image = ids == image_token_id
    kept = inputs["attention_mask"].bool().clone()
    place = torch.cat([torch.arange(count) for count in native])  # number of each placeholder within its image
    limit = torch.repeat_interleave(torch.tensor(budgets), torch.tensor(native))
    kept[is_image] = place < limit
    lengths = kept.sum(1)
    new = torch.arange(int(lengths.max())) >= (lengths.max() - lengths)[:, None]  # (prompts, length), left padding
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "mm_token_type_ids": 0}
    shortened = dict(inputs)
    for name, value in fill.items():
        values = inputs[name]
        shortened[name] = torch.full(new.shape, value, dtype=values.dtype).masked_scatter(new, values[kept])
    shortened["image_token_budgets"] = torch.tensor(budgets)
    return shortened


class ModelPolicies:
    """Answers questions with a model under any policy.

    Args:
        model: an ARR-COC model with a language-modelling head, in evaluation mode.
        processor ([`ArrCocProcessor`]): of the model, padding on the left.
        max_new_tokens (`int`): longest answer.
        seed (`int`): of the random policies.
        variants (`Mapping`, *optional*): models by the names of the policies `"arrcoc:NAME"`, to which the processor
            belongs too: with other options of the block, or trained otherwise.

    Raises:
        ValueError: if the tokenizer pads on the right, or a variant has another vision tower's cells.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        max_new_tokens: int = 64,
        seed: int = 0,
        variants: Mapping[str, Any] | None = None,
    ) -> None:
        if processor.tokenizer.padding_side != "left":
            raise ValueError(f"expected a tokenizer that pads on the left, found {processor.tokenizer.padding_side!r}")
        self.model, self.processor = model, processor
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.variants = {f"{ARRCOC}:{name}": variant for name, variant in (variants or {}).items()}
        for name, variant in self.variants.items():
            cells = [_cell_side(one) for one in (model, variant)]
            if cells[0] != cells[1]:
                raise ValueError(f"{name} has cells of {cells[1]} pixels; expected {cells[0]}, as the model has")

    @property
    def allowed(self) -> tuple[str, ...]:
        """Names of policies."""
        return (*MODEL_POLICIES, *self.variants)

    def answers(
        self, task: Task, rows: Sequence[Row], wanted: Sequence[Condition]
    ) -> Iterator[tuple[Condition, list[Answer]]]:
        """Answer a batch of questions under each condition in turn; pictures are prepared once.

        Raises:
            OSError, ValueError: if an image cannot be read, or a row has none.
        """
        if blind := next((row for row in rows if not row.images), None):
            raise ValueError(f"row {blind.id!r} has no image")
        batch = self._prepare(task, [row.decoded() for row in rows])
        shared = self._encode(batch) if any(_begins_with_all_cells(condition) for condition in wanted) else None
        for condition in wanted:
            yield condition, self._answer(batch, condition, shared if _begins_with_all_cells(condition) else None)

    def _prepare(self, task: Task, rows: Sequence[Row]) -> _Prepared:
        texts = [prompt_text(replace(row, question=task.prompt(row)), self.processor) for row in rows]
        owner = [index for index, row in enumerate(rows) for _ in row.images]
        pictures = [image for row in rows for image in row.images]
        questions = [rows[index].question for index in owner]  # without the instruction
        inputs = self.processor(
            images=pictures, text=texts, token_budget=1.0, queries=questions, padding=True, return_tensors="pt"
        )
        native = inputs["image_token_budgets"].tolist()
        return _Prepared(rows, texts, pictures, dict(inputs), native, owner, questions)  # type: ignore[arg-type]

    def _encode(self, batch: _Prepared) -> _Shared:
        """Encode all cells of a batch."""
        inputs = {name: value.to(self.model.device) for name, value in batch.inputs.items()}
        started = _clock(self.model)
        cells = encode_cells(self.model, inputs, torch.tensor(batch.native))
        return _Shared(cells, _clock(self.model) - started)

    def _budgeted(self, batch: _Prepared, budget: Budget) -> tuple[dict[str, Tensor], list[int]]:
        """Inputs at a budget, and the placeholders of each image."""
        if isinstance(budget, str):  # such a budget depends on the question and on the processor
            inputs = self.processor(
                images=batch.pictures,
                text=batch.texts,
                token_budget=budget,
                queries=batch.questions,
                padding=True,
                return_tensors="pt",
            )
            return dict(inputs), inputs["image_token_budgets"].tolist()
        budgets = resolve_token_budgets(budget, batch.native) or batch.native
        tokenizer = self.processor.tokenizer
        image = self.model.config.image_token_id
        return shorten_prompts(batch.inputs, batch.native, budgets, image, tokenizer.pad_token_id), budgets

    def _answer(self, batch: _Prepared, condition: Condition, shared: _Shared | None) -> list[Answer]:
        policy = condition.policy
        own = policy.startswith(ARRCOC)
        peer = None if own or policy == NATIVE else PEERS[policy]
        inputs, budgets = self._budgeted(batch, condition.budget)
        options: dict[str, Any] = {}
        if policy == NATIVE or (peer is not None and peer.stage == "language_model"):
            inputs = {name: batch.inputs[name] for name in _STOCK_KEYS}
        elif peer is not None and peer.stage == "image":
            padded = {"padding": True, "return_tensors": "pt"}
            inputs = dict(resized_inputs(self.processor, batch.pictures, batch.texts, budgets, **padded))
        elif policy == "random":
            options["seeds"] = [_seed(batch.rows[item].id, self.seed) for item in batch.owner]
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}

        started = _clock(self.model)
        if peer is not None:
            native, counts = torch.tensor(batch.native), torch.tensor(budgets)
            cells = None if shared is None else shared.cells
            with running_peer(self.model, PeerBatch(policy, inputs, native, counts), cells, **options) as run:
                generated = self._generate(self.model, run.arguments)
            tokens, allocation = run.tokens.tolist(), run.allocation
        elif own:
            model = self.variants.get(policy, self.model)
            with block_policy(model, policy), torch.no_grad():
                encoded = model.encode_images(**inputs)
                generated = self._generate(model, inputs | {"encoded_images": encoded})
            allocation = encoded.allocation
            tokens = allocation.budgets.tolist()
        else:
            generated, allocation, tokens = self._generate(self.model, inputs), None, batch.native
        seconds = _clock(self.model) - started + (0 if shared is None else shared.seconds)
        milliseconds = 1000 * seconds / len(batch.rows)

        allocation = None if allocation is None else allocation.to("cpu")
        drawn = allocation if policy == ARRCOC else None
        coverages = self._coverages(batch, condition, allocation, inputs["image_grid_thw"].cpu())
        prompt = inputs["input_ids"].shape[1]
        answers = []
        for item, new in enumerate(generated[:, prompt:].tolist()):
            images = [index for index, owner in enumerate(batch.owner) if owner == item]
            found = [coverages[index] for index in images if coverages[index] is not None]
            answers.append(
                Answer(
                    prediction=self.processor.decode(new, skip_special_tokens=True).strip(),
                    complete=any(token in self._ends for token in new),
                    tokens=float(sum(tokens[index] for index in images)),
                    native=sum(batch.native[index] for index in images),
                    milliseconds=milliseconds,
                    coverage=_mean_coverage([part for part in found if part is not None]),
                    leaves=[] if drawn is None else [leaves_of(drawn, index) for index in images],
                )
            )
        return answers

    def _generate(self, model: Any, arguments: Mapping[str, Any]) -> Tensor:
        """Greedy, whatever sampling the checkpoint recommends."""
        return model.generate(
            **arguments,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )

    @property
    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        return set(ends if isinstance(ends, list) else [ends])

    def _coverages(
        self, batch: _Prepared, condition: Condition, allocation: Allocation | None, patches: Tensor
    ) -> list[Coverage | None]:
        """Coverage of each image's evidence; `None` where it has none, or tokens are dropped between layers."""
        found: list[Coverage | None] = []
        merge = self.model.config.vision_config.spatial_merge_size
        native_grids = (batch.inputs["image_grid_thw"][:, 1:] // merge).tolist()
        seen_grids = (patches[:, 1:] // merge).tolist()
        place = [index for row in batch.rows for index in range(len(row.images))]
        in_layers = condition.policy in PEERS and PEERS[condition.policy].stage == "language_model"
        for index, (item, image) in enumerate(zip(batch.owner, place, strict=True)):
            row = batch.rows[item]
            boxes = None if row.evidence is None else row.evidence[image]
            if not boxes or in_layers:
                found.append(None)
                continue
            about = (boxes, row.image_sizes()[image])
            if allocation is not None:
                found.append(evidence_coverage(allocation.image(index), *about, row.evidence_mode))
            else:
                grids = tuple(native_grids[index]), tuple(seen_grids[index])
                found.append(resized_coverage(*grids, *about, row.evidence_mode))
        return found


_STOCK_KEYS = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")


@contextmanager
def block_policy(model: Any, policy: str) -> Iterator[None]:
    """The model with the allocation policy that `arrcoc-POLICY` names; as it is configured for all others."""
    block = model.config.arrcoc_config
    configured = block.policy
    if policy.startswith(f"{ARRCOC}-"):
        block.policy = policy.removeprefix(f"{ARRCOC}-")
    try:
        yield
    finally:
        block.policy = configured


def _cell_side(model: Any) -> int:
    """Side of a cell in pixels."""
    vision = model.config.vision_config
    return vision.patch_size * vision.spatial_merge_size


def _mean_coverage(parts: Sequence[Coverage]) -> Coverage | None:
    if not parts:
        return None
    return Coverage(
        sum(part.full_detail for part in parts) / len(parts), sum(part.resolution for part in parts) / len(parts)
    )


def _seed(name: str, seed: int) -> int:
    """A seed of its own for each item, the same in any run."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big")


def _clock(model: Any) -> float:
    """Seconds, after an accelerator has done what it was told."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
