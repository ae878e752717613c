"""Bridge to hosts that embed images through a visual embedding table, such as Ovis.

These hosts take no features: their language model reads convex combinations of the rows of a table (Lu et al., "Ovis:
structural embedding alignment for multimodal large language model", 2024).
"""

from torch import Tensor, nn

from .layers import Linear


class VisualEmbeddingBridge(nn.Module):
    """Turns tokens into combinations of the rows of a frozen visual embedding table.

    LayerNorm, linear map to one logit a row, `softmax(logits / temperature)`, and the mean of the rows under these
    probabilities. The table stays the host's: it is passed in, gets no gradient and is not saved with the bridge.

    Args:
        dim (`int`): width of the tokens.
        vocabulary_size (`int`): rows of the table.
        temperature (`float`, *optional*): divides the logits; the lower, the closer a token comes to a single row.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, dim: int, vocabulary_size: int, temperature: float = 1.0):
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(f"found a temperature of {temperature!r}; expected a finite positive number")
        self.temperature = temperature
        self.norm = nn.LayerNorm(dim)
        self.logits = Linear(dim, vocabulary_size)

    def probabilities(self, tokens: Tensor) -> Tensor:
        """Share of each row of the table in each token: `(tokens, dim)` to `(tokens, vocabulary_size)`, float32."""
        logits = self.logits(self.norm(tokens.to(self.logits.weight.dtype)))
        return (logits.float() / self.temperature).softmax(-1)

    def forward(self, tokens: Tensor, table: Tensor) -> Tensor:
        """Embed tokens.

        Args:
            tokens (`Tensor` of shape `(tokens, dim)`): visual tokens.
            table (`Tensor` of shape `(vocabulary_size, embedding_dim)`): the host's visual embedding table.

        Returns:
            `Tensor` of shape `(tokens, embedding_dim)` with the dtype of `table`.

        Raises:
            ValueError: if the table has another number of rows.
        """
        if len(table) != self.logits.out_features:
            raise ValueError(f"found a table of {len(table)} rows; expected {self.logits.out_features}")
        return self.probabilities(tokens).to(table.dtype) @ table.detach()


__all__ = ["VisualEmbeddingBridge"]
