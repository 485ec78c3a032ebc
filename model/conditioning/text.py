"""Descriptions through a T5 encoder (MusicGen, arXiv:2306.05284, 2.3; T5, arXiv:1910.10683)."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from model.conditioning.config import TextConfig
from model.conditioning.prepared import PreparedTokens, project
from model.lm.language_model import Condition


class TextConditioner(nn.Module):
    """Descriptions through a T5 encoder and a projection. The encoder is frozen, or learns too, as configured.

    Raises ValueError for an encoder of another width than the configuration's.
    """

    def __init__(
        self, config: TextConfig, width: int, encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        if encoder.config.d_model != config.width:
            raise ValueError(f"expected a text encoder of width {config.width}, got {encoder.config.d_model}")
        self.config, self.encoder, self.tokenizer = config, encoder, tokenizer
        self.projection = nn.Linear(config.width, width)
        if not config.finetune:
            self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "TextConditioner":
        """A frozen encoder stays in evaluation mode: it must not drop anything."""
        super().train(mode)
        if not self.config.finetune:
            self.encoder.eval()
        return self

    def prepare(self, texts: Sequence[str | None]) -> PreparedTokens:
        """Tokenise; None and '' become the empty text, none of whose tokens counts."""
        encoded = self.tokenizer(
            [text or "" for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
        )
        present = torch.tensor([bool(text) for text in texts])
        return PreparedTokens(encoded["input_ids"], encoded["attention_mask"].bool() & present[:, None])

    def forward(self, prepared: PreparedTokens) -> Condition:
        """Vectors [B, L, D] of the tokens. The mask enters the encoder, so padding changes no token's vector."""
        with torch.set_grad_enabled(self.config.finetune and torch.is_grad_enabled()):
            # Added to the scores. A mask of [B, L] transformers looks at, to leave it out where there is no padding,
            # and so waits for the device; half of the lowest number, as bfloat16 would round that to infinity.
            added = torch.zeros_like(prepared.mask, dtype=self.encoder.dtype)
            added.masked_fill_(~prepared.mask, torch.finfo(added.dtype).min / 2)
            hidden = self.encoder(input_ids=prepared.tokens, attention_mask=added[:, None, None]).last_hidden_state
        return project(self.projection, hidden, prepared.mask)
