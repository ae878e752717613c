"""The small checkpoints that come with the package."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForImageTextToText, AutoProcessor

from .processing import ArrCocProcessor


if TYPE_CHECKING:
    from .modeling_arrcoc_qwen2_5_vl import ArrCocQwen2_5_VLForConditionalGeneration
    from .modeling_arrcoc_qwen3_vl import ArrCocQwen3VLForConditionalGeneration


FOLDER = Path(__file__).parent / "assets"
NAMES = ("tiny", "twin")


def reference_folder(name: str = "tiny") -> Path:
    """Folder of a bundled checkpoint, for `from_pretrained`.

    Args:
        name (`str`): `"tiny"`, a Qwen3-VL of under ten million parameters that reads large, clear print, or `"twin"`,
            a Qwen2.5-VL of under three million that reads such print in one typeface; see their README.md.

    Raises:
        ValueError: if no such checkpoint is bundled.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(map(repr, NAMES))}, found {name!r}")
    return FOLDER / f"arrcoc-{name}"


def reference(
    name: str = "tiny", **kwargs: Any
) -> tuple["ArrCocQwen3VLForConditionalGeneration | ArrCocQwen2_5_VLForConditionalGeneration", ArrCocProcessor]:
    """Load a bundled checkpoint and its processor.

    ```python
    model, processor = arrcoc.reference("tiny")
    ```

    Args:
        name (`str`): as in [`reference_folder`].
        **kwargs: of the model's `from_pretrained`, such as `dtype` or `device_map`.

    Raises:
        ValueError: if no such checkpoint is bundled.
    """
    folder = reference_folder(name)
    return AutoModelForImageTextToText.from_pretrained(folder, **kwargs), AutoProcessor.from_pretrained(folder)


__all__ = ["reference", "reference_folder"]
