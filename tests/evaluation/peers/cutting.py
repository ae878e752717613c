"""FastV and SparseVLM by hand: one prompt at a time, layer by layer, with dropped tokens really cut out."""

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import eager_attention_forward

from tests.evaluation.peers import reference
from tests.modeling.naive import stock_inputs


WEIGHTS: list[Tensor] = []


def noting_attention(module, query, key, value, attention_mask, **kwargs):
    """Eager attention that notes its weights."""
    output, weights = eager_attention_forward(module, query, key, value, attention_mask, **kwargs)
    WEIGHTS.append(weights[0].mean(0))  # (queries, keys)
    return output, weights


AttentionInterface.register("noting", noting_attention)


class Cutting:
    """A prompt whose visual tokens are cut out of the sequence after some layers."""

    def __init__(self, stock: PreTrainedModel, prompt: dict[str, Tensor], budgets: list[int]):
        self.stock, self.budgets = stock, budgets
        self.image_token = stock.config.image_token_id
        ids = prompt["input_ids"][0].tolist()
        self.length = len(ids)
        places = [i for i, token in enumerate(ids) if token == self.image_token]
        self.images: list[list[int]] = []
        for count in (prompt["image_grid_thw"].prod(1) // 4).tolist():
            self.images.append(places[:count])
            places = places[count:]
        self.text = list(range(self.images[-1][-1] + 1, self.length))

    def cut(self, stage: int, weights: Tensor, hidden: dict[int, Tensor]) -> dict[int, Tensor]:
        """What is left of the hidden states, by column, after layer `stage` with these attention weights."""
        raise NotImplementedError

    def begin(self, hidden: Tensor) -> None:
        """Told the embeddings `(length, dim)`."""

    @torch.no_grad()
    def logits(self, inputs: dict[str, Tensor], stages: list[int]) -> Tensor:
        """Logits of the last token of the prompt and what was generated after it."""
        base = self.stock.model
        inputs = stock_inputs(inputs)
        positions, _ = base.get_rope_index(
            inputs["input_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            attention_mask=inputs["attention_mask"],
        )
        encoded = base.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        hidden = base.get_input_embeddings()(inputs["input_ids"])[0]
        is_image = inputs["input_ids"][0] == self.image_token
        hidden[is_image] = torch.cat(tuple(encoded.pooler_output))
        self.begin(hidden)
        model = base.language_model
        cos, sin = model.rotary_emb(hidden[None], positions)
        columns = list(range(len(hidden)))
        deepstack = getattr(encoded, "deepstack_features", None) or []
        implementation = model.config._attn_implementation
        try:
            model.config._attn_implementation = "noting"
            for index, layer in enumerate(model.layers):
                mask = torch.full((len(columns),) * 2, torch.finfo(hidden.dtype).min).triu(1)[None, None]
                hidden = layer(
                    hidden[None], attention_mask=mask, position_embeddings=(cos[:, columns], sin[:, columns])
                )[0]
                if index < len(deepstack):
                    full = torch.zeros(len(is_image), hidden.shape[1])
                    full[is_image] = torch.cat(tuple(deepstack[index]))
                    hidden = hidden + full[columns]
                if index in stages:
                    weights = torch.zeros(len(is_image), len(is_image))
                    rows, cols = torch.tensor(columns)[:, None], torch.tensor(columns)
                    weights[rows, cols] = WEIGHTS[-1]
                    left = self.cut(index, weights, dict(zip(columns, hidden, strict=True)))
                    columns, hidden = sorted(left), torch.stack([left[column] for column in sorted(left)])
        finally:
            model.config._attn_implementation = implementation
        return self.stock.lm_head(model.norm(hidden)[-1])

    def greedy(self, prompt: dict[str, Tensor], stages: list[int], count: int) -> tuple[list[int], Tensor]:
        """Tokens generated and the logits that they were taken from, `(count, vocabulary)`."""
        inputs, tokens, all_logits = dict(prompt), [], []
        for _ in range(count):
            logits = self.logits(inputs, stages)
            logits[[self.stock.config.image_token_id, self.stock.config.video_token_id]] = -torch.inf
            all_logits.append(logits)
            tokens.append(int(logits.argmax()))
            for name, value in (("input_ids", tokens[-1]), ("attention_mask", 1), ("mm_token_type_ids", 0)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[value]])], 1)
        return tokens, torch.stack(all_logits)


class FastV(Cutting):
    def cut(self, stage, weights, hidden):
        left = dict(hidden)
        for columns, budget in zip(self.images, self.budgets, strict=True):
            kept = reference.top(weights[self.length - 1, columns], budget)
            for index, column in enumerate(columns):
                if index not in kept:
                    del left[column]
        return left


class SparseVLM(Cutting):
    def __init__(self, *arguments, schedule: dict[int, float]):
        super().__init__(*arguments)
        self.schedule = schedule

    def begin(self, hidden):
        self.raters = []
        for columns in self.images:
            rating = (hidden[columns] @ hidden[self.text].T).softmax(1).mean(0)
            self.raters.append([t for t, r in zip(self.text, rating, strict=True) if r > rating.mean()])

    def cut(self, stage, weights, hidden):
        left = dict(hidden)
        for columns, raters, budget in zip(self.images, self.raters, self.budgets, strict=True):
            columns = [column for column in columns if column in hidden]
            scores = weights[raters][:, columns].mean(0)
            kept = reference.top(scores, max(1, round(self.schedule[stage] * budget)))
            pruned = [i for i in range(len(columns)) if i not in kept]
            for i in pruned:
                del left[columns[i]]
            if not pruned:
                continue
            count = min(int(len(pruned) * 0.3) + 1, len(pruned))
            best = [pruned[i] for i in reference.top(scores[pruned], count)]
            tokens = torch.stack([hidden[columns[i]] for i in best])
            centers = reference.density_peaks(tokens, count // 10 + 1)
            for center in set(centers):
                members = [i for i, c in enumerate(centers) if c == center]
                left[columns[best[center]]] = tokens[members].mean(0)
        return left
