"""Which checkpoint a run was of."""

import hashlib
import json
from pathlib import Path

from .records import read_json


# Of a processor: `"auto"` depends on them, given budgets do not.
BUDGET_SETTINGS = ("token_budget", "auto_strategy", "tiers", "calibrated_budgets")


_BLOCK = 4096  # bytes


def checkpoint_digest(folder: Path) -> str:
    """A short name of a checkpoint's content: another after more training, even of one part, the same for a copy.

    Configurations are read whole, but for how budgets are chosen; of weights the header and both ends, 4 KiB each,
    of every tensor, and of `.bin` files, whose tensors cannot be found without unpickling, 64 blocks of 4 KiB, evenly
    spread.
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
                for start, length in _tensor_blocks(path) if path.suffix == ".safetensors" else _spread_blocks(size):
                    file.seek(start)
                    digest.update(file.read(length))
    return digest.hexdigest()[:16]


def _tensor_blocks(path: Path) -> list[tuple[int, int]]:
    """Start and length in bytes of a safetensors file's header and of the two ends of each of its tensors."""
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")  # of the data: after the header's length and the header
        header = json.loads(file.read(begin - 8))
    blocks = [(0, begin)]
    for start, end in sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"):
        length = min(_BLOCK, end - start)
        blocks += [(begin + start, length), (begin + end - length, length)]
    return blocks


def _spread_blocks(size: int) -> list[tuple[int, int]]:
    return [(max(0, size - _BLOCK) * block // 63, _BLOCK) for block in range(64)]
