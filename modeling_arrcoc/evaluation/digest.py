"""Which checkpoint a run was of."""

import hashlib
import json
from pathlib import Path

from .records import read_json


# Of a processor: `"auto"` depends on them, given budgets do not.
BUDGET_SETTINGS = ("token_budget", "auto_strategy", "tiers", "calibrated_budgets")


def checkpoint_digest(folder: Path) -> str:
    """A short name of a checkpoint's content: another after more training, the same for a copy.

    Configurations are read whole, but for how budgets are chosen; of weights 64 blocks of 4 KiB a file, evenly spread,
    and the size.
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
                for block in range(64):
                    file.seek(max(0, size - 4096) * block // 63)
                    digest.update(file.read(4096))
    return digest.hexdigest()[:16]
