"""The learned parts of ARR-COC, in one module that the host's base model carries as `arrcoc`."""

from typing import Any

from torch import Tensor, nn

from .adapter import PrototypeAdapter, QualityAdapter
from .compressor import VariableCompressor
from .configuration_arrcoc import ArrCocConfig
from .depth import DepthScorer
from .outputs import Allocation
from .pooling import pool_leaves
from .router import BudgetRouter
from .scorers import LearnedRelevance
from .scout import Scout


class ArrCocBlock(nn.Module):
    """What `config` asks to be learned; a part that it does not ask for is `None`.

    Args:
        config ([`ArrCocConfig`]): the block.
        vision_config ([`PreTrainedConfig`]): of the host's tower; its patches are what the scout sees.
        hidden_size (`int`): width of the host's visual tokens and token embeddings.

    Raises:
        ValueError: if `config` asks for a semantic depth and the host has no DeepStack layers to choose from.
    """

    scout: Scout | None
    relevance: LearnedRelevance | None
    router: BudgetRouter | None
    depth: DepthScorer | None
    compressors: nn.ModuleList | None  # of the tower's output and of its DeepStack layers, in this order
    adapter: QualityAdapter | PrototypeAdapter | None

    def __init__(self, config: ArrCocConfig, vision_config: Any, hidden_size: int):
        super().__init__()
        self.scout, self.relevance, self.router, self.depth = None, None, None, None
        is_scouted = config.stage == "pixels" and config.cell_encoder == "scout"
        cell_dim = config.scout_dim if is_scouted else hidden_size
        if config.relevance == "learned":
            if is_scouted:
                self.scout = Scout(
                    config.scout_dim,
                    config.scout_depth,
                    vision_config.in_channels,
                    vision_config.temporal_patch_size,
                    vision_config.patch_size,
                    vision_config.spatial_merge_size,
                )
            self.relevance = LearnedRelevance(
                config.scout_dim,
                cell_dim,
                hidden_size,
                config.map_weights,
                config.relevance_floor,
                config.scorer_context == "axial",
            )
        if config.budget == "learned":
            is_blind = config.stage == "pixels" and config.cell_encoder == "none"
            self.router = BudgetRouter(
                config.scout_dim, list(config.tiers), hidden_size, cell_dim=None if is_blind else cell_dim
            )
        deepstack_layers = len(getattr(vision_config, "deepstack_visual_indexes", ()))
        if config.semantic_depth != "all" and deepstack_layers < 2:
            raise ValueError(
                f"`semantic_depth` is {config.semantic_depth!r}, but the host's vision tower has {deepstack_layers} "
                "DeepStack layers; a choice needs two (Qwen3-VL has three, Qwen2.5-VL none)"
            )
        if config.semantic_depth == "learned":
            self.depth = DepthScorer(config.scout_dim, hidden_size, deepstack_layers)
        for part in self.children():
            part.float()  # also where the default is another precision

        # Compressor and adapter work on features and are in the precision of the model.
        self.compressors, self.adapter = None, None
        self.has_cells = config.stage == "features"
        if config.compressor == "experts":
            self.compressors = nn.ModuleList(
                VariableCompressor(hidden_size, config.compressor_dim, attentive=self.has_cells)
                for _ in range(1 + deepstack_layers)
            )
        if config.adapter != "none":
            adapter = {"quality": QualityAdapter, "prototype": PrototypeAdapter}[config.adapter]
            self.adapter = adapter(hidden_size, config.adapter_dim, config.adapter_blocks)

    def pool(self, cells: Tensor, allocation: Allocation, layer: int) -> Tensor:
        """Draw each leaf as one token, from the features of its cells.

        Args:
            cells (`Tensor` of shape `(cells, dim)`): features.
            allocation ([`Allocation`]): their leaves.
            layer (`int`): 0 for the tower's output, 1, 2, ... for its DeepStack layers.

        Returns:
            `Tensor` of shape `(leaves, dim)`.
        """
        if self.compressors is None or not self.has_cells:
            return pool_leaves(cells, allocation.relevance, allocation.cell_to_leaf, len(allocation.boxes))
        return self.compressors[layer](cells, allocation)

    def refine(self, tokens: Tensor, allocation: Allocation, layer: int) -> Tensor:
        """What is learned of tokens once there is one a leaf.

        Args:
            tokens (`Tensor` of shape `(leaves, dim)`): tokens; `allocation` and `layer` as of `pool`.

        Returns:
            `Tensor` of the same shape.
        """
        if self.compressors is not None and not self.has_cells:
            tokens = self.compressors[layer](tokens, allocation)
        if self.adapter is not None and layer == 0:
            tokens = self.adapter(tokens, allocation.levels)
        return tokens


__all__ = ["ArrCocBlock"]
