"""Saved checkpoints: they carry the code that loads them, and name weights as the model does."""

import os
import sys
from typing import Any

from .adapter_folder import AdapterFolderMixin


class HubExportMixin(AdapterFolderMixin):
    """A model whose saved folder can be loaded by all Auto classes of its module, with `trust_remote_code=True`.

    transformers copies the module of a saved model into the folder, but names only the saved class in the
    configuration's `auto_map`. With that alone `AutoModel` would not find the base model beside a saved head.
    """

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As in transformers, but `auto_map` names every class of the module that is registered for an Auto class, and
        weights keep the names that they have in the model (`save_original_format=False`)."""
        module = type(self).__module__
        classes = {
            name: vars(value).get("_auto_class")
            for name, value in vars(sys.modules[module]).items()
            if isinstance(value, type) and value.__module__ == module
        }
        names = {auto: f"{module.rsplit('.', 1)[-1]}.{name}" for name, auto in classes.items() if auto}
        self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | names
        # Under the older names of published Qwen2.5-VL files, the default, `Trainer` would not find weights to resume.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)
