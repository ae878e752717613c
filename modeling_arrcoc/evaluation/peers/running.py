"""One way to run every method, whatever it works on: prepare a batch, then generate inside a block."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arrcoc.outputs import Allocation
from arrcoc.processing.budgets import resolve_token_budgets
from arrcoc.processing.images import load_image

from .host import EncodedCells
from .language_model import PruningRecord, pruned_language_model
from .registry import PEERS, peer_features
from .resizing import native_grids, resized_inputs


@dataclass(frozen=True)
class PeerBatch:
    """Prompts prepared for a method.

    Attributes:
        name (`str`): of the method.
        inputs (`dict[str, Tensor]`): what the model is called with.
        native (`Tensor` of shape `(images,)`): tokens of each image at native budget.
        budgets (`Tensor` of shape `(images,)`): tokens that were asked for, at most the native ones.
    """

    name: str
    inputs: dict[str, Any]
    native: Tensor
    budgets: Tensor


@dataclass(frozen=True)
class PeerRun:
    """A method at work.

    Attributes:
        arguments (`dict`): arguments of `model.generate`.
        allocation ([`Allocation`], *optional*): where the tokens went, of methods that work on features.
        record ([`PruningRecord`], *optional*): of methods that work inside the language model.
        placed (`Tensor` of shape `(images,)`): visual tokens of the prompts.
    """

    arguments: dict[str, Any]
    allocation: Allocation | None
    record: PruningRecord | None
    placed: Tensor

    @property
    def tokens(self) -> Tensor:
        """Visual tokens that the language model sees, of shape `(images,)`: the mean over its layers.

        Methods that work inside it are known after the forward pass.
        """
        return self.placed.float() if self.record is None else self.record.mean_tokens


def peer_batch(
    processor: Any, name: str, images: Sequence[Any], text: str | list[str], token_budget: Any, **kwargs: Any
) -> PeerBatch:
    """Prepare prompts for a method.

    Args:
        processor ([`ArrCocProcessor`]): of the model.
        name (`str`): a key of `PEERS`.
        images (`Sequence`): paths or Pillow images, in the order of their placeholders.
        text: prompt or prompts.
        token_budget: as for the processor, but for the `"auto"` forms.
        **kwargs: further arguments of the processor, such as `queries` and `padding`.

    Raises:
        ValueError: if there is no such method or budget.
    """
    if name not in PEERS:
        raise ValueError(f"found peer {name!r}; expected one of {list(PEERS)}")
    stage = PEERS[name].stage
    pictures = [load_image(image) for image in images]
    native = [rows * cols for rows, cols in native_grids(processor, pictures)]
    budgets = resolve_token_budgets(token_budget, native) or native
    if stage == "image":
        inputs = resized_inputs(processor, pictures, text, budgets, return_tensors="pt", **kwargs)
    else:
        placed = budgets if stage == "features" else None
        inputs = processor(images=pictures, text=text, token_budget=placed, return_tensors="pt", **kwargs)
    return PeerBatch(name, dict(inputs), torch.tensor(native), torch.tensor(budgets))


@contextmanager
def running_peer(model: Any, batch: PeerBatch, cells: EncodedCells | None = None, **options: Any) -> Iterator[PeerRun]:
    """Inside the block, `model.generate(**run.arguments)` sees the images as the method leaves them.

    ```python
    batch = peer_batch(processor, "fastv", images, text, 100)
    with running_peer(model, batch) as run:
        model.generate(**run.arguments, max_new_tokens=32)
    run.tokens  # visual tokens that the language model saw
    ```

    Args:
        model: an ARR-COC model with a language-modelling head.
        batch ([`PeerBatch`]): as from `peer_batch`.
        cells ([`EncodedCells`], *optional*): the images as `encode_cells` returned them, under any budgets, so that
            methods which begin with all cells share the tower's work. Of no use to methods of stage `"image"`.
        **options: of the method, see `peer_features` and `pruned_language_model`.
    """
    inputs = {name: value.to(model.device) for name, value in batch.inputs.items()}
    stage = PEERS[batch.name].stage
    if stage == "features":
        features = peer_features(model, inputs, batch.name, cells=cells, **options)
        yield PeerRun(inputs | {"encoded_images": features}, features.allocation, None, batch.budgets)
    elif stage == "language_model":
        with pruned_language_model(model, inputs, batch.name, batch.budgets, **options) as record:
            encoded = {} if cells is None else {"encoded_images": cells.encoded}
            yield PeerRun(inputs | encoded, None, record, batch.native)
    else:
        merge_size = model.config.vision_config.spatial_merge_size
        yield PeerRun(inputs, None, None, inputs["image_grid_thw"].prod(1).cpu() // merge_size**2)
