"""`arrcoc wrap`: make an ARR-COC checkpoint of a stock Qwen-VL checkpoint."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from arrcoc import ArrCocConfig

from .checkpoints import WEIGHT_PATTERNS, checkpoint_folder, load_model, load_processor
from .files import replaced_folder


def wrap(
    stock: str,
    out: Path,
    token_budget: int | float | str | None = None,
    overwrite: bool = False,
    settings: Sequence[str] | None = None,
    **block: Any,
) -> None:
    """Save a stock checkpoint with the ARR-COC block in its configuration.

    The weights, their precision and the size of their files stay as they are; learned parts that the configuration
    asks for are added, untrained. `out` is written whole or not at all.

    Args:
        stock (`str`): folder of the stock checkpoint, or its name on the Hub.
        out (`Path`): folder to make.
        token_budget (*optional*): default budget of the processor.
        overwrite (`bool`): replace `out` if it holds anything.
        settings (`Sequence[str]`, *optional*): options of `ArrCocConfig` as `name=value`, see `read_settings`.
        **block: options of `ArrCocConfig` by name; those that are `None` keep what the checkpoint has.

    Raises:
        FileExistsError: if `out` is a file, or holds anything and may not be replaced.
        FileNotFoundError, ValueError: if `stock` is no checkpoint of a supported host, an option does not exist, is
            given twice or is out of range.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; expected a folder to make")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} is not empty; --overwrite replaces it")
    block = {name: value for name, value in block.items() if value is not None}
    read = read_settings(settings or ())
    if twice := sorted(block.keys() & read.keys()):
        raise ValueError(f"{', '.join(twice)}: given by --set and by an option of its own")
    block |= read
    folder = checkpoint_folder(stock)
    if out.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"{out} would replace the stock checkpoint {stock}")

    try:
        model = load_model(folder, **block)
    except StrictDataclassError as error:  # a value of the wrong type
        raise ValueError(str(error)) from None
    own: dict[str, Any] = {} if token_budget is None else {"token_budget": token_budget}
    processor = load_processor(folder, **own)

    with replaced_folder(out) as new:
        model.save_pretrained(new, max_shard_size=largest_shard(folder))
        processor.save_pretrained(new)
        for notice in (*folder.glob("LICENSE*"), *folder.glob("NOTICE*")):
            shutil.copy(notice, new)
    print(f"{out}: {type(model).__name__}, {describe(model)}")


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Options of `ArrCocConfig` from `name=value`.

    Values are read as JSON where they are that (`8`, `0.5`, `null`, `[64, 100]`), else as the text they are
    (`learned`).

    Raises:
        ValueError: if there is no `=`, the name is no option, or it is given twice.
    """
    options = [field.name for field in dataclasses.fields(ArrCocConfig) if field.name in ArrCocConfig.__annotations__]
    found: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or name not in options:
            raise ValueError(f"found the setting {setting!r}; expected name=value with one of {', '.join(options)}")
        if name in found:
            raise ValueError(f"{name} is set twice")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def describe(model: PreTrainedModel) -> str:
    """Stage and policy of a wrapped model, and what of it is to be learned."""
    config, block = model.config.arrcoc_config, model.model.arrcoc
    if block is None:
        return f"stage {config.stage}, policy {config.policy}, nothing to train"
    parts = ", ".join(name for name, _ in block.named_children())
    count = sum(parameter.numel() for parameter in block.parameters())
    return f"stage {config.stage}, policy {config.policy}, {count:,} untrained parameters in {parts}"


def largest_shard(folder: Path) -> int:
    """Bytes of the largest weight file of a checkpoint, so that its copy is cut into files that are no larger."""
    return max(file.stat().st_size for pattern in WEIGHT_PATTERNS for file in folder.glob(pattern))
