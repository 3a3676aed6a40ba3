"""A transformers encoder as text tower: from a local folder, or a small one trained in-domain from scratch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.towers.image import TowerError
from encoders.towers.torchvision_ops import declare_missing_operators

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _transformers() -> Any:
    """Return the package: its models import torchvision, where that is installed."""
    declare_missing_operators()
    import transformers

    return transformers


def _word_pieces(vocabulary: dict[str, int]) -> Any:
    """Return a tokenizer of lower-case word pieces."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(_SPECIAL)
    return tokenizer


def _vocabulary(texts: Sequence[str], size: int) -> dict[str, int]:
    """Return word pieces with their numbers, the same in every process.

    tokenizers numbers the characters within words in the order of a hash map and, of equally frequent pairs, merges the
    one with the lowest numbers first. Here each has its number before, as if it were a special token.
    """
    from tokenizers import trainers

    tokenizer = _word_pieces({})
    normal, parts = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    words = {word for text in texts for word, _ in parts(normal(text))}
    within = sorted({f"##{character}" for word in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*_SPECIAL, *within], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    result: dict[str, int] = tokenizer.get_vocab()
    return result


class _MeanPool(nn.Module):
    def __init__(self, model: Any, padding: int) -> None:
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, ids: Tensor) -> Tensor:  # (n, length) -> (n, width)
        mask = (ids != self.padding).long()
        longest = int(mask.sum(1).max())                # the padding that all share is no work
        ids, mask = ids[:, :longest], mask[:, :longest]
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)
        return pooled


class TransformerTower:
    """Mean-pooled transformer.

    Parameters
    ----------
    folder : str
        A local folder as transformers writes it; empty: a BERT of the given size, with a WordPiece vocabulary made
        from the training reports. Nothing is ever downloaded.
    """

    name = "transformer"

    def __init__(
        self,
        folder: str = "",
        *,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        vocabulary: int = 2000,
        length: int = 160,
    ) -> None:
        self.folder, self.width, self.layers, self.heads = folder, width, layers, heads
        self.vocabulary, self.length = vocabulary, length
        self.module: nn.Module = nn.Identity()
        self._tokenizer: Any = None
        if folder:
            self._open(Path(folder))

    def _open(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
            raise TowerError(f"{folder}: needs config.json, tokenizer.json and weights, as save_pretrained writes them")
        model = _transformers().AutoModel.from_pretrained(folder, local_files_only=True)
        self._use(Tokenizer.from_file(str(folder / "tokenizer.json")), model)

    def _use(self, tokenizer: Any, model: Any) -> None:
        padding = tokenizer.token_to_id("[PAD]")
        padding = int(model.config.pad_token_id or 0) if padding is None else padding
        tokenizer.enable_truncation(self.length)
        tokenizer.enable_padding(pad_id=padding)
        self._tokenizer, self.width = tokenizer, int(model.config.hidden_size)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None                     # of the first token; here the mean counts
        self.module = _MeanPool(model, padding)

    def _small(self, tokenizer: Any) -> None:
        transformers = _transformers()
        shape = transformers.BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=2 * self.width,
            max_position_embeddings=self.length,
        )
        self._use(tokenizer, transformers.BertModel(shape))

    def fit(self, texts: Sequence[str], seed: int) -> None:
        """Make the vocabulary and random weights of an in-domain tower; a tower from a folder stays as it is."""
        if self.folder:
            return
        vocabulary = _vocabulary(sorted(set(texts)), self.vocabulary)
        torch.manual_seed(seed)
        self._small(_word_pieces(vocabulary))

    def prepare(self, texts: Sequence[str]) -> Tensor:
        """Return int64 token ids (n, longest), padded."""
        return torch.tensor([entry.ids for entry in self._tokenizer.encode_batch(list(texts))], dtype=torch.long)

    def card(self) -> dict[str, Any]:
        """Return the tokenizer and the model's configuration."""
        model: Any = self.module.model
        return {
            "width": self.width,
            "length": self.length,
            "tokenizer": json.loads(self._tokenizer.to_str()),
            "config": json.loads(model.config.to_json_string()),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: all weights are the module's."""
        return {}

    def restore(self, card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Build the module that wrote `card`; its weights come with the module's state."""
        from tokenizers import Tokenizer

        self.length = int(card["length"])
        values = dict(card["config"])
        shape = _transformers().AutoConfig.for_model(values.pop("model_type"), **values)
        self._use(Tokenizer.from_str(json.dumps(card["tokenizer"])), _transformers().AutoModel.from_config(shape))
