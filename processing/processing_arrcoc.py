"""Processor of ARR-COC: the stock Qwen-VL processor with a token budget for each image.

Next to the stock outputs it hands the model what the allocation reads: the exact number of placeholders, the question
that asks about each image, and the propositional information of each cell of the image.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.processing_utils import ImagesKwargs, MultiModalData
from transformers.utils import is_torchvision_available, to_numpy

from .budgets import (
    AUTO_STRATEGIES,
    CALIBRATED,
    TIERS,
    check_calibrated_budgets,
    check_token_budget,
    learned_budgets,
    reads_image,
    resolve_token_budgets,
)
from .images import check_aspect_ratio, is_wide_gray, load_image, to_rgb
from .information import image_compression_ratio, information_map
from .queries import count_images, queries_per_image


_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's mode "L"


class ArrCocImagesKwargs(ImagesKwargs, total=False):
    """Image keywords of `ArrCocProcessor`; the call itself sets `budgets`, its `token_budget`, and `prompts`."""

    budgets: Any
    queries: Any
    prompts: list[str] | None


class ArrCocProcessorKwargs(Qwen3VLProcessor.valid_processor_kwargs, total=False):  # type: ignore[call-arg]
    """Keywords of `ArrCocProcessor.__call__`."""

    _defaults = Qwen3VLProcessor.valid_processor_kwargs._defaults  # a TypedDict does not inherit attributes
    images_kwargs: ArrCocImagesKwargs


class ArrCocProcessor(Qwen3VLProcessor):
    """Turns images and chat text into model inputs with an exact number of visual tokens for each image.

    Works on the files of Qwen3-VL and Qwen2.5-VL checkpoints and needs Pillow only; video is left to the stock
    processors. Without a token budget the output is that of the stock processor.

    Args:
        image_processor: Image processor of the checkpoint (the Pillow or the torchvision one).
        tokenizer: Tokenizer of the checkpoint.
        chat_template (`str`, *optional*): Jinja template of the checkpoint.
        token_budget: Budget of calls that do not give one, in any form for one image, see `__call__`.
        auto_strategy (`str`): Heuristic of `token_budget="auto"`, `"question_type"` or `"two_mode"`; or `"calibrated"`
            for `calibrated_budgets`.
        tiers (`Sequence[int]`): Budgets that the heuristics choose from, in ascending order; the last is the most that
            the model may choose with `token_budget="learned"`.
        calibrated_budgets (`Mapping`, *optional*): For kinds of question (see `question_type`) a number of tokens, a
            share of the native count, or `None` for native; `arrcoc calibrate` finds them.
    """

    valid_processor_kwargs = ArrCocProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        token_budget: int | float | str | None = None,
        auto_strategy: str = "question_type",
        tiers: Sequence[int] = TIERS,
        calibrated_budgets: Mapping[str, int | float | None] | None = None,
        **kwargs: Any,
    ):
        if isinstance(token_budget, list | tuple):
            raise ValueError(f"token_budget of the constructor is for any image and no list, got {token_budget!r}")
        check_token_budget(token_budget)
        if auto_strategy not in AUTO_STRATEGIES and (auto_strategy != CALIBRATED or calibrated_budgets is None):
            raise ValueError(
                f"auto_strategy must be one of {sorted(AUTO_STRATEGIES)}, or {CALIBRATED!r} with calibrated_budgets, "
                f"got {auto_strategy!r}"
            )
        if calibrated_budgets is not None:
            check_calibrated_budgets(calibrated_budgets)
        if not tiers or list(tiers) != sorted(set(tiers)) or any(type(t) is not int or t < 1 for t in tiers):
            raise ValueError(f"tiers must be positive ints in ascending order, got {tiers!r}")
        self.token_budget = token_budget.item() if isinstance(token_budget, np.generic) else token_budget
        self.auto_strategy = auto_strategy
        self.tiers = tuple(tiers)
        self.calibrated_budgets = None if calibrated_budgets is None else dict(calibrated_budgets)
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def __call__(
        self, images: ImageInput | None = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Prepare images and text for the model.

        Args:
            images: Image, list of images or list of lists of images. Paths of local files are opened by `load_image`;
                16- and 32-bit gray is scaled to 8 bits instead of clipped.
            text: Prompt or list of prompts with one image placeholder for each image.
            videos: Not supported, see Raises.
            audio: Not supported by the hosts.
            token_budget: Visual tokens of each image; the constructor's value if not given:
                - `None`: native count, stock behaviour.
                - int K: exactly K tokens; the native count if that is lower.
                - float in (0, 1]: this share of the native count.
                - `"auto"`: a tier chosen from the question and the image (see `auto_budget`);
                  `"auto:question_type"` and `"auto:two_mode"` choose from the question alone, `"auto:calibrated"` by
                  the processor's `calibrated_budgets`.
                - `"learned"`: left to a model whose `arrcoc_config.budget` is `"learned"`. It chooses one of its own
                  tiers and spends at most what is written here, the highest tier, or K tokens for `"learned:K"`.
                - list or tuple of these, one for each image of the call.
            queries: Question for all images, or a list with one for each prompt or image, instead of the text of the
                last user turn of the image's prompt. An empty question is no question.
            kwargs: Keywords of the stock processor.

        Returns:
            `BatchFeature` with the stock keys and, if images have a token budget:
                - `image_token_budgets`: `(images,)` int64, placeholders of each image.
                - `image_query_ids`, `image_query_mask`: `(images, query_length)` int64, token ids of the question
                  about each image, padded on the right, and 1 where they are tokens.
                - `image_information`: `(cells,)` float32 in [0, 1], the information of each cell of each image, in
                  raster order, images one after another (see `information_map`).
                - `image_budget_is_learned`: `(images,)` bool, true where the model may spend fewer tokens than there
                  are placeholders; only if it may for one of the images.

        Raises:
            ValueError: If a budget, query or image is not of an allowed form, or placeholders and images differ in
                number.
            ImportError: If videos are passed and torchvision is missing.
        """
        if videos is not None:
            _refuse_videos()
        kwargs = _lift_options(kwargs)
        kwargs["budgets"] = kwargs.pop("token_budget", self.token_budget)
        if text is not None:
            kwargs["prompts"] = [text] if isinstance(text, str) else list(text)
        return super().__call__(images=images, text=text, audio=audio, **kwargs)

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """The stock method; `token_budget` and `queries` may be passed directly or inside `processor_kwargs`."""
        options = {name: kwargs.pop(name) for name in ("token_budget", "queries") if name in kwargs}
        if options:
            processor_kwargs = kwargs.get("processor_kwargs") or {}
            if twice := sorted(options.keys() & processor_kwargs.keys()):
                raise ValueError(f"{', '.join(twice)} passed twice: directly and in processor_kwargs")
            kwargs["processor_kwargs"] = processor_kwargs | options
        return super().apply_chat_template(conversation, chat_template, **kwargs)

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple:
        if images is not None:
            images = _open_images(images)
        return super().prepare_inputs_layout(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        if "image_token_budgets" not in image_inputs:
            return super().replace_image_token(image_inputs, image_idx, **kwargs)
        return self.image_token * int(image_inputs["image_token_budgets"][image_idx])

    def _process_images(
        self,
        images: Any,
        budgets: Any = None,
        queries: Any = None,
        prompts: list[str] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, list[str]]:
        inputs, replacements = super()._process_images(images, **kwargs)
        if budgets is None:
            return inputs, replacements

        settings = _Settings(self.image_processor, kwargs)
        grids = to_numpy(inputs["image_grid_thw"])  # (images, 3) in patches
        cells = (grids.prod(1) // settings["merge_size"] ** 2).tolist()
        grays = _gray_images(to_numpy(inputs["pixel_values"]), grids, settings)
        counts = [len(grids)] if prompts is None else [count_images(text, self.image_token) for text in prompts]
        questions = queries_per_image(queries, prompts, counts)
        reads_pixels = reads_image(budgets, self.auto_strategy)
        ratios = [image_compression_ratio(gray) for gray in grays] if reads_pixels else None
        tokens = resolve_token_budgets(
            budgets, cells, questions, ratios, self.auto_strategy, self.tiers, self.calibrated_budgets
        )

        cell_size = settings["patch_size"] * settings["merge_size"]
        query_ids, query_mask = self._encode_queries(questions)
        inputs["image_token_budgets"] = np.array(tokens, np.int64)
        if any(is_learned := learned_budgets(budgets, len(grids))):
            inputs["image_budget_is_learned"] = np.array(is_learned)
        inputs["image_query_ids"] = query_ids
        inputs["image_query_mask"] = query_mask
        inputs["image_information"] = np.concatenate([information_map(gray, cell_size) for gray in grays])
        return inputs, [self.replace_image_token(inputs, index, **kwargs) for index in range(len(grids))]

    def _encode_queries(self, queries: list[str]) -> tuple[NDArray, NDArray]:
        """Token ids and mask of questions, `(images, query_length)`, of at least one column so that none is empty."""
        encoded = self.tokenizer(queries, add_special_tokens=False, padding=False)["input_ids"]
        length = max(1, *(len(ids) for ids in encoded))
        query_ids = np.full((len(encoded), length), self.tokenizer.pad_token_id or 0, np.int64)
        query_mask = np.zeros_like(query_ids)
        for row, ids in enumerate(encoded):
            query_ids[row, : len(ids)] = ids
            query_mask[row, : len(ids)] = 1
        return query_ids, query_mask

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, compression_ratios: Any = None, **kwargs: Any
    ) -> MultiModalData:
        """Placeholders of images of given sizes, as the call would write them.

        Args:
            image_sizes: (height, width) of each image in pixels.
            video_sizes: Not supported.
            compression_ratios: `image_compression_ratio` of each (resized) image; plain `"auto"` depends on it.
            kwargs: `token_budget` and `queries` as in `__call__` (`queries` one for all or one for each image; the
                `"auto"` forms depend on them), and keywords of the image processor.

        Returns:
            `MultiModalData` with `num_image_tokens` and `num_image_patches`.
        """
        if video_sizes is not None:
            _refuse_videos()
        kwargs = _lift_options(kwargs)
        token_budget = kwargs.pop("token_budget", self.token_budget)
        queries = kwargs.pop("queries", None)
        if size := kwargs.pop("size", None):  # the stock count knows the limits by their older names only
            kwargs |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        data = super()._get_num_multimodal_tokens(image_sizes=image_sizes, **kwargs)
        if image_sizes is not None and token_budget is not None:
            native = data.num_image_tokens
            questions = None if queries is None else queries_per_image(queries, None, [1] * len(native))
            data.num_image_tokens = resolve_token_budgets(
                token_budget,
                native,
                questions,
                compression_ratios,
                self.auto_strategy,
                self.tiers,
                self.calibrated_budgets,
            )
        return data

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):  # type: ignore[no-untyped-def]
        # The stock method hands every keyword on to the tokenizer and the image processor, which would keep these.
        for name in ("token_budget", "auto_strategy", "tiers", "calibrated_budgets"):
            kwargs.pop(name, None)
        return super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        own = ["image_token_budgets", "image_query_ids", "image_query_mask", "image_information"]
        if any(learned_budgets(self.token_budget, images=1)):
            own.append("image_budget_is_learned")
        return super().model_input_names + own


class _Settings:
    """Settings of an image processor's call: the call's own keywords first, then the processor's attributes."""

    def __init__(self, image_processor: Any, kwargs: dict[str, Any]):
        self.image_processor = image_processor
        self.kwargs = kwargs

    def __getitem__(self, name: str) -> Any:
        value = self.kwargs.get(name)
        return getattr(self.image_processor, name) if value is None else value


def _gray_images(pixel_values: NDArray, grids: NDArray, settings: _Settings) -> list[NDArray]:
    """Undo an image processor's normalisation and patching.

    Args:
        pixel_values: `(patches, channels * frames * patch_size**2)`; an image's frames are copies of each other.
        grids: `(images, 3)` frames, rows and columns in patches.
        settings: What the image processor was called with.

    Returns:
        The resized images, each `(height, width)` gray in [0, 1].
    """
    patch, merge = settings["patch_size"], settings["merge_size"]
    patches = pixel_values.reshape(len(pixel_values), len(_LUMINANCE), -1, patch**2)[:, :, 0]  # (patches, 3, patch^2)
    mean, std = (settings["image_mean"], settings["image_std"]) if settings["do_normalize"] else ((0,) * 3, (1,) * 3)
    white = 255 * settings["rescale_factor"] if settings["do_rescale"] else 1.0
    gray = np.zeros(patches[:, 0].shape, np.float32)
    for channel, weight in enumerate(_LUMINANCE):
        gray += patches[:, channel] * np.float32(weight * std[channel] / white)
        gray += np.float32(weight * mean[channel] / white)
    images = []
    for part, (_, rows, cols) in zip(np.split(gray, np.cumsum(grids.prod(1))[:-1]), grids.tolist(), strict=True):
        blocks = part.reshape(rows // merge, cols // merge, merge, merge, patch, patch).transpose(0, 2, 4, 1, 3, 5)
        images.append(np.clip(blocks.reshape(rows * patch, cols * patch), 0, 1))
    return images


def _open_images(images: Any) -> Any:
    """Open local files and check sizes, in any nesting of lists; URLs and arrays are left to the stock code."""
    if isinstance(images, list | tuple):
        return [_open_images(image) for image in images]
    if isinstance(images, os.PathLike) or (isinstance(images, str) and os.path.exists(images)):
        return load_image(images)
    if isinstance(images, Image.Image):
        check_aspect_ratio(images.size)
        return to_rgb(images) if is_wide_gray(images) else images
    return images


def _lift_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A copy of a call's keywords with `token_budget` and `queries` taken out of `images_kwargs`."""
    kwargs = dict(kwargs)
    nested = dict(kwargs.pop("images_kwargs", None) or {})
    for name in ("token_budget", "queries"):
        if name in nested and name in kwargs:
            raise ValueError(f"{name} passed twice: directly and in images_kwargs")
        if name in nested:
            kwargs[name] = nested.pop(name)
    return kwargs | ({"images_kwargs": nested} if nested else {})


def _refuse_videos() -> None:
    if not is_torchvision_available():
        raise ImportError("videos need torchvision: pip install 'arrcoc[video]', and the stock processor of the model")
    raise ValueError("token budgets are for images: process videos with the stock processor of the model")


__all__ = ["ArrCocProcessor"]
