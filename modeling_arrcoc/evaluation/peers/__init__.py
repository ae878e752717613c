"""Published methods that shorten the visual sequence, to be run on the same hosts as ARR-COC."""

from .host import EncodedCells, encode_cells
from .language_model import PruningRecord, pruned_language_model
from .registry import PEERS, Peer, merged_allocation, peer_features
from .resizing import native_grids, resized_grid, resized_inputs
from .running import PeerBatch, PeerRun, peer_batch, running_peer


__all__ = [
    "PEERS",
    "EncodedCells",
    "Peer",
    "PeerBatch",
    "PeerRun",
    "PruningRecord",
    "encode_cells",
    "merged_allocation",
    "native_grids",
    "peer_batch",
    "peer_features",
    "pruned_language_model",
    "resized_grid",
    "resized_inputs",
    "running_peer",
]
