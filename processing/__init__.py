"""Processing of images and text for ARR-COC; needs pillow, numpy and transformers only."""

from .budgets import (
    AUTO_STRATEGIES,
    TIERS,
    auto_budget,
    deepseek_ocr_tokens,
    question_type_budget,
    resolve_token_budgets,
    snap_to_tier,
    two_mode_budget,
)
from .images import load_image, to_rgb
from .information import (
    coherence,
    compression_ratio,
    edge_density,
    extractability,
    image_compression_ratio,
    information_components,
    information_map,
    semantic_density,
    shannon_entropy,
    spatial_necessity,
)
from .processing_arrcoc import ArrCocProcessor
from .queries import extract_query, queries_per_image


__all__ = [
    "AUTO_STRATEGIES",
    "TIERS",
    "ArrCocProcessor",
    "auto_budget",
    "coherence",
    "compression_ratio",
    "deepseek_ocr_tokens",
    "edge_density",
    "extract_query",
    "extractability",
    "image_compression_ratio",
    "information_components",
    "information_map",
    "load_image",
    "queries_per_image",
    "question_type_budget",
    "resolve_token_budgets",
    "semantic_density",
    "shannon_entropy",
    "snap_to_tier",
    "spatial_necessity",
    "to_rgb",
    "two_mode_budget",
]
