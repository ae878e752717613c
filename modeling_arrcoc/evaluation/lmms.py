"""ARR-COC in lmms-eval: `lmms_eval --model arrcoc --model_args pretrained=DIR,token_budget=0.25 --tasks ...`.

The package's entry point in the group `lmms_eval.models` names `manifest`. Each answer reports in its token counts
what the language model read: the text and the visual tokens that were kept.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import Collator
from tqdm import tqdm

from arrcoc.cli.checkpoints import checkpoint_folder, load_model, load_processor
from arrcoc.processing.budgets import check_token_budget


DEFAULTS = {"max_new_tokens": 128, "do_sample": False, "num_beams": 1}


def manifest() -> ModelManifest:
    """What lmms-eval registers."""
    return ModelManifest(model_id="arrcoc", chat_class_path="arrcoc.evaluation.lmms.ArrCoc")


class ArrCoc(lmms):
    """A stock or wrapped checkpoint under a visual-token budget.

    Args:
        pretrained (`str`): checkpoint folder, or its name on the Hub.
        token_budget (*optional*): visual tokens of each image, in any form that the processor takes for one image; by
            default the checkpoint's own, and native if it has none.
        device (`str`, *optional*): the process's accelerator if not given.
        batch_size (`int`): prompts at a time.
        max_pixels, min_pixels (`int`, *optional*): limits of the image processor; the checkpoint's if not given.
        system_prompt (`str`, *optional*): text of a system turn before each conversation.

    Raises:
        OSError, ValueError: if the checkpoint cannot be read, or a budget has no allowed form.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        token_budget: int | float | str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_pixels: int | None = None,
        min_pixels: int | None = None,
        system_prompt: str | None = None,
    ) -> None:
        super().__init__()
        check_token_budget(token_budget)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = torch.device(device) if device else self.accelerator.device
        folder: Path = checkpoint_folder(pretrained)
        self.model = load_model(folder).to(self.device).eval()
        self.processor = load_processor(folder)
        self.processor.tokenizer.padding_side = "left"
        size = self.processor.image_processor.size
        self.size = {
            "longest_edge": int(max_pixels or size["longest_edge"]),
            "shortest_edge": int(min_pixels or size["shortest_edge"]),
        }
        own = self.processor.token_budget
        self.token_budget = token_budget if token_budget is not None else 1.0 if own is None else own
        self.batch_size = int(batch_size)
        self.system_prompt = system_prompt

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("arrcoc answers questions; it reports no likelihoods")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("arrcoc answers single rounds")

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests; as in the stock chat models of lmms-eval, terms of `until` are not cut at."""
        order = Collator(
            [request.args for request in requests],
            lambda request: (request[0], request[0]),
            group_fn=lambda request: request[2],
            grouping=True,
        )
        results: list[GenerationResult] = []
        visual, native, started = 0, 0, time.perf_counter()
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding") as bar:
            for chunk in order.get_batched(n=self.batch_size, batch_fn=None):
                conversations = [self._conversation(*request[1:2], *request[3:]) for request in chunk]
                answers, used, whole = self._answer(conversations, chunk[0][2])
                visual, native = visual + used, native + whole
                for request, answer in zip(chunk, answers, strict=True):
                    self.cache_hook.add_partial("generate_until", (request[0], request[2]), answer.text)
                results += answers
                bar.update(len(chunk))
        elapsed = time.perf_counter() - started
        generated = sum(result.token_counts.output_tokens for result in results)
        log_metrics(
            total_elapsed_time=elapsed,
            total_gen_tokens=generated,
            avg_speed=generated / elapsed if elapsed > 0 else 0.0,
            additional_metrics={"rank": self.rank, "visual_tokens": visual, "native_visual_tokens": native},
        )
        return order.get_original(results)

    def _conversation(self, doc_to_messages: Any, doc_id: Any, task: str, split: str) -> ChatMessages:
        """A request's messages.

        Raises:
            ValueError: if they hold a video or sound.
        """
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        if self.system_prompt:
            system = {"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}
            messages = [system, *messages]
        conversation = ChatMessages(messages=messages)
        _, videos, sounds = conversation.extract_media()
        if videos or sounds:
            raise ValueError(f"task {task} asks about videos or sound; arrcoc reads images")
        return conversation

    @torch.no_grad()
    def _answer(
        self, conversations: Sequence[ChatMessages], options: dict[str, Any]
    ) -> tuple[list[GenerationResult], int, int]:
        """Answers to a batch, and the visual tokens of its images: used, and at native budget."""
        images = [conversation.extract_media()[0] for conversation in conversations]
        flat = [image for part in images for image in part]
        texts = [
            self.processor.apply_chat_template(
                conversation.to_hf_messages(), tokenize=False, add_generation_prompt=True
            )
            for conversation in conversations
        ]
        settings = {"token_budget": self.token_budget, "size": self.size} if flat else {}
        inputs = self.processor(images=flat or None, text=texts, padding=True, return_tensors="pt", **settings)
        inputs = inputs.to(self.device)
        length, read = inputs["input_ids"].shape[1], inputs["attention_mask"].sum(1).tolist()
        encoded, used, whole = {}, 0, 0
        if flat:
            encoded["encoded_images"] = self.model.encode_images(**inputs)
            allocation = encoded["encoded_images"].allocation
            used, whole = int(allocation.budgets.sum()), int(allocation.cells_per_image.sum())
            unused = (inputs["image_token_budgets"].cpu() - allocation.budgets.cpu()).tolist()
            owners = [number for number, part in enumerate(images) for _ in part]
            for owner, tokens in zip(owners, unused, strict=True):
                read[owner] -= tokens  # a learned budget leaves placeholders unread
        generated = self.model.generate(**inputs, **encoded, **self._options(options))[:, length:]
        pad = self.processor.tokenizer.pad_token_id
        results = [
            GenerationResult(
                text=self.processor.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False),
                token_counts=TokenCounts(input_tokens=count, output_tokens=int((new != pad).sum())),
            )
            for new, count in zip(generated, read, strict=True)
        ]
        return results, used, whole

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `generate` from a task's generation settings: greedy unless it sets a temperature."""
        known = {name: options[name] for name in ("max_new_tokens", "num_beams", "top_p", "top_k") if name in options}
        chosen = DEFAULTS | known | {"pad_token_id": self.processor.tokenizer.pad_token_id}
        if (options.get("temperature") or 0) > 0:
            return chosen | {"do_sample": True, "temperature": options["temperature"]}
        return chosen | {"temperature": None, "top_p": None, "top_k": None}
