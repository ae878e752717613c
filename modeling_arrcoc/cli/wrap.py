"""`arrcoc wrap`: make an ARR-COC checkpoint of a stock Qwen-VL checkpoint."""

import shutil
from pathlib import Path

from .checkpoints import WEIGHT_PATTERNS, checkpoint_folder, load_model, load_processor
from .files import replaced_folder


def wrap(
    stock: str, out: Path, token_budget: int | float | str | None = None, overwrite: bool = False, **block: object
) -> None:
    """Save a stock checkpoint with the ARR-COC block in its configuration.

    The weights, their precision and the size of their files stay as they are. `out` is written whole or not at all.

    Args:
        stock (`str`): folder of the stock checkpoint, or its name on the Hub.
        out (`Path`): folder to make.
        token_budget (*optional*): default budget of the processor.
        overwrite (`bool`): replace `out` if it holds anything.
        **block: options of `ArrCocConfig`; those that are `None` keep their defaults.

    Raises:
        FileExistsError: if `out` is a file, or holds anything and may not be replaced.
        FileNotFoundError, ValueError: if `stock` is no checkpoint of a supported host, or an option is out of range.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; expected a folder to make")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise FileExistsError(f"{out} is not empty; --overwrite replaces it")
    folder = checkpoint_folder(stock)
    if out.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ValueError(f"{out} would replace the stock checkpoint {stock}")

    model = load_model(folder, **{name: value for name, value in block.items() if value is not None})
    processor = load_processor(folder, **({} if token_budget is None else {"token_budget": token_budget}))

    with replaced_folder(out) as new:
        model.save_pretrained(new, max_shard_size=largest_shard(folder))
        processor.save_pretrained(new)
        for notice in (*folder.glob("LICENSE*"), *folder.glob("NOTICE*")):
            shutil.copy(notice, new)
    print(f"{out}: {type(model).__name__}, policy {model.config.arrcoc_config.policy}")


def largest_shard(folder: Path) -> int:
    """Bytes of the largest weight file of a checkpoint, so that its copy is cut into files that are no larger."""
    return max(file.stat().st_size for pattern in WEIGHT_PATTERNS for file in folder.glob(pattern))
