"""The common subspace of MMDL: per-modality first layer, shared encoder, coupling matrix P.

References
----------
Yu, Hu, Lin, Krishnaswamy, "Multimodal Multitask Deep Learning for X-Ray Image Retrieval", MICCAI 2021,
doi 10.1007/978-3-030-87240-3_58.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE, TEXT = "image", "text"


class CommonSubspace(nn.Module):
    """Three fully connected layers into one space, the first one per modality, and what is predicted from there.

    Parameters
    ----------
    widths : dict of str to int
        Length of the features of each modality (image 1024 and text 300 in the paper); of longer ones, so many of the
        leading columns are read.
    hidden, dim : int
        Width of the first two layers (1024) and of the common subspace (512).
    outputs : dict of str to int
        Columns of each coupling matrix; ``{"findings": 14}`` is the paper's P. All modalities share all of them.
    normalised_logits : bool
        Predict from the unit vector (times a learnt scale) instead of from the raw one.
    """

    def __init__(
        self,
        widths: dict[str, int],
        hidden: int,
        dim: int,
        outputs: dict[str, int],
        *,
        dropout: float = 0.0,
        normalised_logits: bool = False,
    ) -> None:
        super().__init__()
        self.first = nn.ModuleDict({name: nn.Linear(width, hidden) for name, width in widths.items()})
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        self.coupling = nn.ModuleDict({name: nn.Linear(dim, columns) for name, columns in outputs.items()})
        self.outputs = dict(outputs)
        self.scale = nn.Parameter(torch.tensor(8.0)) if normalised_logits else None

    def forward(self, features: Tensor, modality: str) -> Tensor:  # (n, width) -> (n, dim)
        first = self.first[modality]
        hidden = self.dropout(functional.relu(first(features[:, : first.in_features])))
        hidden = self.dropout(functional.relu(self.second(hidden)))
        embedding: Tensor = self.third(hidden)
        return embedding

    def predict(self, embedding: Tensor, output: str) -> Tensor:  # (n, dim) -> (n, columns): logits
        if self.scale is not None:
            embedding = functional.normalize(embedding, dim=-1) * self.scale
        logits: Tensor = self.coupling[output](embedding)
        return logits
