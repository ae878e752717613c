"""Configurations: the ARR-COC block, and the two hosts that carry it as `arrcoc_config`."""

from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

from .allocation import POLICIES
from .depth import SEMANTIC_DEPTHS
from .relaxation import RELAXATIONS


STAGES = ("features", "pixels")
PAIR_DRAWINGS = ("shrunk", "window")
POSITION_SCALES = ("native", "matched")
RELEVANCES = ("free", "learned")
BUDGETS = ("given", "learned")
SCORER_CONTEXTS = ("local", "axial")
CELL_ENCODERS = ("glance", "scout", "none")
QUERY_SCORERS = ("attention", "cosine", "none")
COMPRESSORS = ("mean", "experts")
ADAPTERS = ("none", "quality", "prototype")

# What every configuration carries besides its own fields, and what it may carry when it is read back from a file.
_COMMON_KEYS = {*PreTrainedConfig().to_dict(), "torch_dtype", "auto_map", "name_or_path"}


def _choose(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` is {value!r}; allowed are {', '.join(map(repr, allowed))}")


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < float("inf"):  # also refuses NaN
        raise ValueError(f"`{name}` is {value!r}; allowed are finite numbers of at least {least}")


_Config: Any = PreTrainedConfig if TYPE_CHECKING else object


@strict
class ArrCocConfig(PreTrainedConfig):
    r"""
    The ARR-COC block: how an image's visual tokens are spent. How many there are, or may be, is said to the processor.

    Args:
        stage (`str`, *optional*, defaults to `"features"`):
            Where images are compressed. `"features"`: after the vision tower, which encodes all cells and so saves
            nothing. `"pixels"`: before it, which runs on the leaves alone.
        policy (`str`, *optional*, defaults to `"lod"`):
            How leaves are chosen. `"lod"`: the quadtree that keeps the most relevance-weighted detail. `"foveated"`:
            the most relevant cells as tokens of their own, over a coarse grid of the whole picture; for relevance that
            can be trusted, such as one that has learned from evidence or a teacher: answers do not reach it under this
            policy. `"tiers"`: regions that each get one of `tiers` tokens. For
            comparison: `"uniform"` (equal leaves), `"random"` (a random quadtree) and `"topk"` (the most relevant
            cells, the rest dropped).
        max_level (`int`, *optional*, defaults to 3):
            Coarsest level of a leaf under `"lod"` and `"random"`, `2**max_level` cells a side, as far as the budget
            allows.
        context_share (`float`, *optional*, defaults to 0.1):
            Least share of the budget for the coarse grid under `"foveated"`, in [0, 1]; it has one leaf at least.
        fovea_threshold (`float`, *optional*, defaults to 0.0):
            Share of an image's highest relevance, in [0, 1], that a cell must have to be worth a token of its own
            under `"foveated"`; tokens beyond these cells make the coarse grid finer.
        pair_worth (`float`, *optional*):
            Under `"foveated"`, two cells above each other may share a token where tokens are too few for all that is
            relevant: the share of its worth that a cell keeps so, in (0.5, 1). The higher, the more cells are shown
            and the fewer of them by themselves. Not given: every cell shown has its own token.
        pair_drawing (`str`, *optional*, defaults to `"shrunk"`):
            What the token of such a pair shows. `"shrunk"`: both cells, at half their height. `"window"`: a part of
            them as high as one cell, in full detail, over the line of print that lies across both; what is left of
            them is seen in the coarse grid alone, or they are shrunk where that does not show it. In stage `"pixels"`.
        tiers (`list[int]`, *optional*, defaults to `[64, 100, 160, 256, 400]`):
            Token counts, ascending: of a region under the policy `"tiers"`, of an image with a learned budget.
        region_size (`int`, *optional*, defaults to 32):
            Side of a region in cells under `"tiers"`.
        position_scale (`str`, *optional*, defaults to `"native"`):
            Positions of the leaves. `"native"`: those of the full picture. `"matched"`: divided by the mean side of a
            leaf, as if the picture had been resized; equal leaves are then exactly a plain resize.
        cell_encoder (`str`, *optional*, defaults to `"glance"`):
            What the question is compared with in stage `"pixels"`, where no cell has been encoded yet. `"glance"`: the
            tower's features of the picture at `glance_level`. `"scout"`: a light local encoder of its own, for learned
            relevance. `"none"`: nothing, so that the question has no say; for training-free relevance.
        glance_level (`int`, *optional*, defaults to 2):
            Level of the glance; its cost is that of `4**-glance_level` of the native tokens.
        relevance (`str`, *optional*, defaults to `"free"`):
            `"free"`: training-free, without weights. `"learned"`: scorers and their balance are trained; they start as
            the training-free relevance of the same options.
        budget (`str`, *optional*, defaults to `"given"`):
            `"given"`: images take exactly the tokens that the processor was told. `"learned"`: where the processor's
            `token_budget` is `"learned"`, a router chooses one of `tiers`, at most the processor's placeholders; it
            starts with the highest.
        budget_fade (`float`, *optional*, defaults to 1.0):
            With a learned budget, the most that training fades what a tier shows beyond the next lower one, in [0, 1];
            how far is drawn anew for each image. At 1 the router is taught what detail is worth to the answer; at 0
            images look as at inference, and an answer that is sure does not defend what it needed.
        semantic_depth (`str`, *optional*, defaults to `"all"`):
            How many DeepStack layers a leaf keeps, on hosts that have several; an image at native budget keeps all.
            `"all"`: all. `"relevance"`: by rank, in equal parts, from the most relevant leaves, which keep all, to
            the least relevant, which keep the deepest alone. `"learned"`: a scorer decides; it starts with all.
        scout_dim (`int`, *optional*, defaults to 192):
            Width of the scout, of the scorers and of the router; a multiple of 8.
        scout_depth (`int`, *optional*, defaults to 4):
            Convolution blocks of the scout.
        scorer_context (`str`, *optional*, defaults to `"local"`):
            How far the scorer of what the question asks for looks from a cell. `"local"`: four cells around.
            `"axial"`: also along its whole row and column, where a label may stand far from its value.
        relaxation (`str`, *optional*, defaults to `"straight_through"`):
            How the loss reaches learned relevance through the choice of leaves (policy `"lod"`). `"straight_through"`:
            the leaves that inference chooses, with the gradient of fading into coarser levels; splits that were
            refused count as much as those that were hardly chosen. `"gumbel"`: noise on worth, so that training tries
            what it would not choose. `"soft"`: in training every cell is a mixture of its levels, which in stage
            `"pixels"` costs what the native picture does. `"none"`: not at all; relevance learns from evidence or a
            teacher alone, and a step need not go back through a frozen tower.
        relaxation_temperature (`float`, *optional*, defaults to 0.5):
            Width of the mixture, and scale of the noise, in the logarithm of a node's worth.
        relaxation_fade (`float`, *optional*):
            How far leaves are faded into their parents while relevance is trained with `"straight_through"` or
            `"gumbel"`, in [0, 1]; 0 shows them as at inference. A sure answer has no gradient: fading makes it unsure
            of what it would lose. Defaults to 0.8 in stage `"pixels"`, where relevance was not learned from answers
            without it, and to 0.0 in stage `"features"`. A host that is trained along gets used to faded leaves: to
            train host, compressor or adapter, freeze relevance or set 0.
        query_scorer (`str`, *optional*, defaults to `"attention"`):
            How the question is compared with the cells without training. `"attention"`: queries and keys of the
            language model's first layer. `"cosine"`: token embeddings and cell features. `"none"`: not at all.
        information_weight, salience_weight, query_weight (`float`, *optional*):
            Say of the three maps in relevance: what carries information (measured on the pixels by the processor),
            what stands out from its surroundings, what the question asks for. 0 switches a map off. Each defaults to
            1.0, but for the salience of training-free relevance, which defaults to 0.0.
        relevance_floor (`float`, *optional*, defaults to 0.05):
            Least relevance of a cell, in (0, 1]; the highest is 1.
        relevance_spread (`float`, *optional*, defaults to 0.0):
            How far relevance reaches the cells around, in cells along a line of print; across lines a third as far.
            At a distance of so many cells its weight has fallen to 1/e. 0 leaves it where it is.
        compressor (`str`, *optional*, defaults to `"mean"`):
            How the cells of a leaf become one token. `"mean"`: weighted with their relevance. `"experts"`: that, with
            learned attention and a residual of five experts mixed by the size of the leaf; starts as the mean. In
            stage `"pixels"`, where a leaf is one token already, the residual alone.
        compressor_dim (`int`, *optional*):
            Hidden width of the compressor; defaults to a sixteenth of the tokens', in steps of 32.
        adapter (`str`, *optional*, defaults to `"none"`):
            What brings tokens back to the host's own distribution, conditioned on their level of detail; changes
            nothing until it is trained, and never a leaf of one cell. `"quality"`: bottleneck perceptrons.
            `"prototype"`: attention to learned prototypes. DeepStack features are compressed, but not adapted.
        adapter_blocks (`int`, *optional*, defaults to 3):
            Blocks of the adapter.
        adapter_dim (`int`, *optional*):
            Hidden width of the adapter; defaults to a fifth of the tokens', in steps of 64. A multiple of 8 for
            `"prototype"`.
        seed (`int`, *optional*, defaults to 0):
            Seed of the policy `"random"`.

    Raises:
        ValueError: for a value outside its range, or an option that does not exist.
    """

    model_type = "arrcoc"
    base_config_key = "arrcoc_config"

    stage: str = "features"
    policy: str = "lod"
    max_level: int = 3
    context_share: float | int = 0.1
    fovea_threshold: float | int = 0.0
    pair_worth: float | None = None
    pair_drawing: str = "shrunk"
    tiers: list[int] | tuple[int, ...] = (64, 100, 160, 256, 400)
    region_size: int = 32
    position_scale: str = "native"
    cell_encoder: str = "glance"
    glance_level: int = 2
    query_scorer: str = "attention"
    information_weight: float | int = 1.0
    salience_weight: float | int | None = None
    query_weight: float | int = 1.0
    relevance_floor: float | int = 0.05
    relevance_spread: float | int = 0.0
    relevance: str = "free"
    budget: str = "given"
    budget_fade: float | int = 1.0
    semantic_depth: str = "all"
    scout_dim: int = 192
    scout_depth: int = 4
    scorer_context: str = "local"
    relaxation: str = "straight_through"
    relaxation_temperature: float | int = 0.5
    relaxation_fade: float | int | None = None
    compressor: str = "mean"
    compressor_dim: int | None = None
    adapter: str = "none"
    adapter_blocks: int = 3
    adapter_dim: int | None = None
    seed: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(key for key in kwargs if not key.startswith("_") and key not in _COMMON_KEYS)
        if unknown:
            options = sorted(set(type(self).__annotations__) - set(PreTrainedConfig.__annotations__))
            raise ValueError(f"unknown ARR-COC options {unknown}; there are {options}")
        _choose("stage", self.stage, STAGES)
        _choose("policy", self.policy, POLICIES)
        _choose("pair_drawing", self.pair_drawing, PAIR_DRAWINGS)
        if self.pair_drawing == "window" and self.stage == "features":
            raise ValueError(
                "`pair_drawing` is 'window' in stage 'features'; windows are drawn in stage 'pixels' alone"
            )
        _choose("position_scale", self.position_scale, POSITION_SCALES)
        _choose("cell_encoder", self.cell_encoder, CELL_ENCODERS)
        _choose("query_scorer", self.query_scorer, QUERY_SCORERS)
        _at_least("max_level", self.max_level, 0)
        _at_least("glance_level", self.glance_level, 0)
        _at_least("region_size", self.region_size, 1)
        _choose("relevance", self.relevance, RELEVANCES)
        _choose("budget", self.budget, BUDGETS)
        _choose("scorer_context", self.scorer_context, SCORER_CONTEXTS)
        _choose("semantic_depth", self.semantic_depth, SEMANTIC_DEPTHS)
        _choose("relaxation", self.relaxation, (*RELAXATIONS, "none"))
        _choose("compressor", self.compressor, COMPRESSORS)
        _choose("adapter", self.adapter, ADAPTERS)
        _at_least("adapter_blocks", self.adapter_blocks, 1)
        for name, width in (("compressor_dim", self.compressor_dim), ("adapter_dim", self.adapter_dim)):
            if width is not None:
                _at_least(name, width, 1)
        if self.adapter == "prototype" and self.adapter_dim is not None and self.adapter_dim % 8:
            raise ValueError(f"`adapter_dim` is {self.adapter_dim!r}; allowed for prototypes are multiples of 8")
        for name, weight in self.map_weights.items():
            _at_least(f"{name}_weight", weight, 0)
        if self.stage == "pixels" and (self.relevance, self.cell_encoder) in (("free", "scout"), ("learned", "none")):
            raise ValueError(
                f"`cell_encoder` is {self.cell_encoder!r} with {self.relevance} relevance: a scout must be learned, "
                "and learned relevance needs cells that were encoded"
            )
        _at_least("scout_depth", self.scout_depth, 1)
        if self.scout_dim < 8 or self.scout_dim % 8:
            raise ValueError(f"`scout_dim` is {self.scout_dim!r}; allowed are positive multiples of 8")
        if not 0 < self.relaxation_temperature < float("inf"):
            raise ValueError(
                f"`relaxation_temperature` is {self.relaxation_temperature!r}; allowed are finite positive numbers"
            )
        if not 0 < self.relevance_floor <= 1:
            raise ValueError(f"`relevance_floor` is {self.relevance_floor!r}; allowed are numbers in (0, 1]")
        _at_least("relevance_spread", self.relevance_spread, 0)
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"`seed` is {self.seed!r}; allowed are integers in [0, 2**31)")
        for name in ("context_share", "fovea_threshold", "relaxation_fade", "budget_fade"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"`{name}` is {share!r}; allowed are numbers in [0, 1]")
        if self.pair_worth is not None and not 0.5 < self.pair_worth < 1:
            raise ValueError(f"`pair_worth` is {self.pair_worth!r}; allowed are numbers in (0.5, 1)")
        self.tiers = list(self.tiers)
        if not self.tiers or self.tiers[0] < 1 or sorted(set(self.tiers)) != self.tiers:
            raise ValueError(f"`tiers` is {self.tiers!r}; allowed are positive token counts in ascending order")
        if self.budget == "learned" and len(self.tiers) < 2:
            raise ValueError(f"`tiers` is {self.tiers!r}; a learned budget needs two of them to choose from")
        super().__post_init__(**kwargs)

    @property
    def map_weights(self) -> dict[str, float]:
        """Weight of each map in relevance, by its name."""
        default = 1.0 if self.relevance == "learned" else 0.0
        return {
            "information": self.information_weight,
            "salience": default if self.salience_weight is None else self.salience_weight,
            "query": self.query_weight,
        }

    @property
    def answers_reach_relevance(self) -> bool:
        """Whether the loss of answers can reach relevance: of all policies the quadtree alone is relaxed."""
        return self.policy == "lod" and self.relaxation != "none"


class _HostConfigMixin(_Config):
    """What the host configurations share. A stock checkpoint's configuration is taken as it is, with the default
    block."""

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """As in transformers; also refuses the configuration of another architecture.

        Raises:
            ValueError: if the checkpoint's `model_type` is neither this class's own nor its host's.
        """
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        found, hosted = config_dict.get("model_type"), (cls.model_type, cls.host_model_type)
        if found is not None and found not in hosted:
            raise ValueError(
                f"{cls.__name__} loads checkpoints of model type {' or '.join(map(repr, hosted))}; "
                f"{pretrained_model_name_or_path} is of type {found!r}"
            )
        return {**config_dict, "model_type": cls.model_type}, kwargs


@strict
class ArrCocQwen3VLConfig(_HostConfigMixin, Qwen3VLConfig):
    r"""
    Configuration of Qwen3-VL with an ARR-COC block.

    Args:
        arrcoc_config (`ArrCocConfig` or `dict`, *optional*):
            The block; defaults to `ArrCocConfig()`.
        **kwargs:
            Arguments of [`Qwen3VLConfig`].
    """

    model_type = "arrcoc_qwen3_vl"
    host_model_type = "qwen3_vl"
    sub_configs_defaults = {**Qwen3VLConfig.sub_configs_defaults, "arrcoc_config": SubConfigSpec(ArrCocConfig)}
    keys_to_ignore_at_inference = ["past_key_values", "image_hidden_states", "allocation"]

    arrcoc_config: dict | PreTrainedConfig | None = None


@strict
class ArrCocQwen2_5_VLConfig(_HostConfigMixin, Qwen2_5_VLConfig):
    r"""
    Configuration of Qwen2.5-VL with an ARR-COC block.

    Args:
        arrcoc_config (`ArrCocConfig` or `dict`, *optional*):
            The block; defaults to `ArrCocConfig()`.
        **kwargs:
            Arguments of [`Qwen2_5_VLConfig`].
    """

    model_type = "arrcoc_qwen2_5_vl"
    host_model_type = "qwen2_5_vl"
    sub_configs_defaults = {**Qwen2_5_VLConfig.sub_configs_defaults, "arrcoc_config": SubConfigSpec(ArrCocConfig)}
    keys_to_ignore_at_inference = ["past_key_values", "image_hidden_states", "allocation"]

    arrcoc_config: dict | PreTrainedConfig | None = None


__all__ = ["ArrCocConfig", "ArrCocQwen2_5_VLConfig", "ArrCocQwen3VLConfig"]
