"""Which checkpoint a run was of."""

import hashlib
import json
from pathlib import Path

from .records import read_json


# Of a processor: `"auto"` depends on them, given budgets do not.
BUDGET_SETTINGS = ("token_budget", "auto_strategy", "tiers", "calibrated_budgets")


# Prefixes of weights that answer, and decide nothing of where to look unless `query_scorer` is "attention".
ANSWERING = ("model.language_model.layers.", "model.language_model.norm.")
_BLOCK = 4096  # bytes


def checkpoint_digest(folder: Path, without: tuple[str, ...] = ()) -> str:
    """A short name of a checkpoint's content: another after more training, even of one part, the same for a copy.

    Configurations are read whole, but for how budgets are chosen; of weights the header and both ends, 4 KiB each,
    of every tensor, and of `.bin` files, whose tensors cannot be found without unpickling, 64 blocks of 4 KiB, evenly
    spread.

    Args:
        folder: of the checkpoint.
        without: prefixes of the names of tensors in safetensors files that may differ.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in ("config.json", "processor_config.json", "preprocessor_config.json"):
            config = {key: value for key, value in read_json(path).items() if key not in BUDGET_SETTINGS}
            digest.update(f"{path.name} {json.dumps(config, sort_keys=True)}".encode())
        elif path.suffix in (".safetensors", ".bin"):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                is_safe = path.suffix == ".safetensors"
                for start, length in _tensor_blocks(path, without) if is_safe else _spread_blocks(size):
                    file.seek(start)
                    digest.update(file.read(length))
    return digest.hexdigest()[:16]


def _tensor_blocks(path: Path, without: tuple[str, ...]) -> list[tuple[int, int]]:
    """Start and length in bytes of a safetensors file's header and of the two ends of each of its tensors."""
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")  # of the data: after the header's length and the header
        header = json.loads(file.read(begin - 8))
    blocks = [(0, begin)]
    named = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    for start, end in sorted(offsets for name, offsets in named.items() if not name.startswith(without)):
        length = min(_BLOCK, end - start)
        blocks += [(begin + start, length), (begin + end - length, length)]
    return blocks


def _spread_blocks(size: int) -> list[tuple[int, int]]:
    return [(max(0, size - _BLOCK) * block // 63, _BLOCK) for block in range(64)]
