"""Saved checkpoints that carry the code which loads them, for every Auto class."""

import os
import sys
from typing import Any

from .modeling_arrcoc import Host


class HubExportMixin(Host):
    """A model whose saved folder can be loaded by all Auto classes of its module, with `trust_remote_code=True`.

    transformers copies the module of a saved model into the folder, but names only the saved class in the
    configuration's `auto_map`. With that alone `AutoModel` would not find the base model beside a saved head.
    """

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in transformers; `auto_map` names every class of the module that `register_for_auto_class` was called
        for."""
        module = type(self).__module__
        self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | {
            member._auto_class: f"{module.rsplit('.', 1)[-1]}.{member.__name__}"
            for member in vars(sys.modules[module]).values()
            if isinstance(member, type) and member.__module__ == module and vars(member).get("_auto_class")
        }
        super().save_pretrained(save_directory, *args, **kwargs)
