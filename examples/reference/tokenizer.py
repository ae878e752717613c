"""Tokenizer and processor of the reference model: one token a byte, in the files and chat form of Qwen-VL."""

from tokenizers import AddedToken, pre_tokenizers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, Qwen2VLImageProcessorPil

from arrcoc.processing import ArrCocProcessor


SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ROLES = ("system", "user", "assistant")  # one token each, or the chat form would be longer than the questions
CELL = 32  # pixels a side of a visual token

# The hosts' form of a chat with text and images.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of Qwen's class without merges: bytes, then special tokens, then the names of the roles."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = {token: len(alphabet) + index for index, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(alphabet)} | specials,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=32768,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.add_tokens([AddedToken(role, single_word=True, normalized=False) for role in ROLES])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(least_cells: int = 4, most_cells: int = 2304) -> ArrCocProcessor:
    """The processor: patches of 16 px, two by two a cell; smaller and larger pictures are resized to the bounds."""
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": least_cells * CELL**2, "longest_edge": most_cells * CELL**2},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    tokenizer = build_tokenizer()
    return ArrCocProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)
