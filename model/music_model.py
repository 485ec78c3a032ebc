"""The music model: conditioners and language model in one, from raw attributes to predictions (arXiv:2306.05284)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from model.conditioning.conditioners import (
    ChromaConditioner,
    ClapConditioner,
    PreparedText,
    PreparedVectors,
    TextConditioner,
)
from model.conditioning.configuration import MusicModelConfig
from model.language_model import Condition, LanguageModel, Loss, Prediction, cross_entropy


@dataclass(frozen=True, eq=False)
class Attributes:
    """The raw conditions of one item; None is a condition that it does not have."""

    description: str | None = None
    """What the music is, in words."""
    chroma: Float[Tensor, "F 12"] | None = None
    """The melody, 7.8125 frames a second, bin 0 = C."""
    clap: Float[Tensor, "E"] | None = None
    """A joint embedding of text and audio."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch of attributes ready for the device: `MusicModel.prepare` makes it, a data loader may."""

    rows: int
    description: PreparedText | None
    chroma: PreparedVectors | None
    clap: PreparedVectors | None

    def to(self, device: torch.device) -> "Prepared":
        return Prepared(
            self.rows,
            None if self.description is None else self.description.to(device),
            None if self.chroma is None else self.chroma.to(device),
            None if self.clap is None else self.clap.to(device),
        )


class MusicModel(nn.Module):
    """Text, melody and joint embedding in; logits of codec codes out.

    `text_encoder` and `tokenizer` are needed if the model reads descriptions. A frozen encoder is part of the module
    (it moves with it), but not of `weights`.
    """

    def __init__(
        self,
        config: MusicModelConfig,
        text_encoder: T5EncoderModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.language_model.width
        self.language_model = LanguageModel(config.language_model)
        self.description: TextConditioner | None = None
        if config.description is not None:
            if text_encoder is None or tokenizer is None:
                raise ValueError("expected a text encoder and a tokenizer for a model that reads text, got none")
            self.description = TextConditioner(config.description, width, text_encoder, tokenizer)
        self.chroma = None if config.chroma is None else ChromaConditioner(config.chroma, width)
        self.clap = None if config.clap is None else ClapConditioner(config.clap, width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language_model.out_norm.weight.device

    def prepare(self, attributes: Sequence[Attributes]) -> Prepared:
        """Tokenise and stack on the host. Raises ValueError for a condition that the model does not read."""
        for number, item in enumerate(attributes):
            for name, value in vars(item).items():
                if value is not None and name not in self.config.conditions:
                    raise ValueError(
                        f"expected conditions among {list(self.config.conditions)}, got {name} in item {number}"
                    )
        return Prepared(
            len(attributes),
            None if self.description is None else self.description.prepare([item.description for item in attributes]),
            None if self.chroma is None else self.chroma.prepare([item.chroma for item in attributes]),
            None if self.clap is None else self.clap.prepare([item.clap for item in attributes]),
        )

    def condition(self, prepared: Prepared) -> dict[str, Condition]:
        """Embed on the device, in the order in which conditions are fused."""
        prepared = prepared.to(self.device)
        conditions: dict[str, Condition] = {}
        if self.description is not None and prepared.description is not None:
            conditions["description"] = self.description(prepared.description)
        if self.chroma is not None and prepared.chroma is not None:
            conditions["chroma"] = self.chroma(prepared.chroma)
        if self.clap is not None and prepared.clap is not None:
            conditions["clap"] = self.clap(prepared.clap)
        return conditions

    def forward(
        self,
        codes: Int[Tensor, "B K T"],
        attributes: Sequence[Attributes] | Prepared,
        lengths: Int[Tensor, "B"] | None = None,
    ) -> Prediction:
        """Predict every code of a batch from the codes before it and the items' attributes.

        `lengths` [B] are the frames that each item really has. Raises ValueError for bad codes, lengths or attributes.
        """
        prepared = attributes if isinstance(attributes, Prepared) else self.prepare(attributes)
        if prepared.rows != codes.shape[0]:
            raise ValueError(f"expected attributes of {codes.shape[0]} items, got {prepared.rows}")
        return self.language_model(codes, self.condition(prepared), lengths)

    def loss(
        self,
        codes: Int[Tensor, "B K T"],
        attributes: Sequence[Attributes] | Prepared,
        lengths: Int[Tensor, "B"] | None = None,
    ) -> Loss:
        """Cross-entropy of `forward`, in nats: the mean over codebooks and each codebook's [K]."""
        return cross_entropy(self(codes, attributes, lengths), codes)

    def weights(self) -> dict[str, Tensor]:
        """The state that a checkpoint of this model holds: all but a frozen text encoder."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not self._is_frozen(name)}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set the state that `weights` gave. Raises ValueError naming what is missing or unknown."""
        expected = {name for name in self.state_dict() if not self._is_frozen(name)}
        if expected != set(weights):
            missing, unknown = sorted(expected - set(weights)), sorted(set(weights) - expected)
            raise ValueError(f"expected the weights of this model, got {missing} missing and {unknown} unknown")
        self.load_state_dict(dict(weights), strict=False)

    def _is_frozen(self, name: str) -> bool:
        frozen = self.config.description is not None and not self.config.description.finetune
        return frozen and name.startswith("description.encoder.")


def drop_conditions(
    attributes: Sequence[Attributes], probability: float, generator: torch.Generator
) -> list[Attributes]:
    """Null all conditions of an item, so that the model also learns music without them (classifier-free guidance).

    Each item is drawn on its own, and the joint embedding goes with the rest: with one draw a batch the batch's size
    would change the noise of training, and a condition that is never dropped cannot be guided.
    MusicGen drops with probability 0.2 (arXiv:2306.05284, 3.1).
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {probability}")
    draws = torch.rand(len(attributes), generator=generator, device=generator.device).tolist()
    return [Attributes() if draw < probability else item for item, draw in zip(attributes, draws, strict=True)]
