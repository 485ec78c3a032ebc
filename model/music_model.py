"""The music model: conditioners and language model in one, from raw attributes to predictions (arXiv:2306.05284)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from model.chroma import PITCH_CLASSES
from model.conditioning.conditioners import (
    ChromaConditioner,
    ClapConditioner,
    NumberConditioner,
    PreparedTokens,
    PreparedVectors,
    TableConditioner,
    TextConditioner,
)
from model.conditioning.config import CONDITIONS, FIELDS, FRAME_WISE, NUMBER_FIELDS, MusicModelConfig
from model.conditioning.frame_wise import FrameWiseConditioner
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel, Loss, Prediction


@dataclass(frozen=True, eq=False)
class Attributes:
    """The raw conditions of one item. A condition that the item does not have is None, or has no entry in `fields`.

    Raises:
        ValueError: a text is empty or blank, a field is unknown or of the wrong kind, a number is not finite, or a
            tensor has the wrong shape.
    """

    description: str | None = None
    """What the music is, in words."""
    chroma: Float[Tensor, "..."] | None = None
    """The melody [F, 12] at the rate of `MelodyConfig.frame_rate`; bin 0 is C."""
    clap: Float[Tensor, "..."] | None = None
    """A joint embedding [E] of text and audio (CLAP)."""
    fields: Mapping[str, str | float | int] = field(default_factory=dict)
    """Other metadata by its name in `FIELDS`: text, or a number in the field's unit (beats a minute, seconds)."""
    beat: Float[Tensor, "..."] | None = None
    """Position in beat and bar of each frame of codes, [T, E] (`model.conditioning.frame_wise.beat_vectors`)."""
    chords: Float[Tensor, "..."] | None = None
    """Chord at each frame of codes, [T, E] (`model.conditioning.frame_wise.chord_vectors`)."""

    def __post_init__(self) -> None:
        if self.description is not None and not self.description.strip():
            raise ValueError(f"expected a description or None, got {self.description!r}")
        for name, value in self.fields.items():
            if name not in FIELDS:
                raise ValueError(f"expected fields among {list(FIELDS)}, got {name!r}")
            if name in NUMBER_FIELDS:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"expected a finite number for the field {name}, got {value!r}")
            elif not isinstance(value, str) or not value.strip():
                raise ValueError(f"expected a text for the field {name}, got {value!r}")
        if self.chroma is not None and (
            self.chroma.ndim != 2 or self.chroma.shape[1] != PITCH_CLASSES or not len(self.chroma)
        ):
            raise ValueError(f"expected a chroma [F, {PITCH_CLASSES}], got {list(self.chroma.shape)}")
        if self.clap is not None and self.clap.ndim != 1:
            raise ValueError(f"expected a joint embedding [E], got {list(self.clap.shape)}")
        for name in FRAME_WISE:
            vectors = getattr(self, name)
            if vectors is not None and (vectors.ndim != 2 or not len(vectors)):
                raise ValueError(f"expected vectors [T, E] of {name}, got {list(vectors.shape)}")
        for name in ("chroma", "clap", *FRAME_WISE):
            tensor = getattr(self, name)
            if tensor is not None and not tensor.isfinite().all():
                raise ValueError(f"expected finite values in {name}, got NaN or infinity")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the conditions that the item has, in the order of `CONDITIONS`."""
        return tuple(
            name for name in CONDITIONS if (name in self.fields if name in FIELDS else getattr(self, name) is not None)
        )

    def without(self, names: Sequence[str]) -> "Attributes":
        """Return these attributes without the named conditions."""
        kept = {name: value for name, value in self.fields.items() if name not in names}
        removed = {name: None for name in names if name not in FIELDS}
        return replace(self, fields=kept, **removed)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch of attributes ready for the device, as `MusicModel.prepare` returns it; a data loader can prepare it in
    advance."""

    rows: int
    conditions: Mapping[str, PreparedTokens | PreparedVectors]
    """Conditions by name, in the order in which they are fused."""

    def to(self, device: torch.device) -> "Prepared":
        return Prepared(self.rows, {name: prepared.to(device) for name, prepared in self.conditions.items()})

    def pinned(self) -> "Prepared":
        """Return a copy in pinned memory, which a CUDA device can copy from asynchronously."""
        return Prepared(self.rows, {name: prepared.pinned() for name, prepared in self.conditions.items()})


class MusicModel(nn.Module):
    """Predicts logits of codec codes from text, other metadata, melody, joint embedding, beat and chords.

    Args:
        text_encoder, tokenizer: required if the model reads descriptions. A frozen encoder is a submodule (it moves
            to devices with the model), but is not part of `weights`.

    Raises:
        ValueError: the model reads descriptions, but the encoder or the tokenizer is missing.
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
        self.fields = nn.ModuleDict(
            {
                name: NumberConditioner(field, width) if field.kind == "number" else TableConditioner(field, width)
                for name, field in config.fields.items()
            }
        )
        self.chroma = None if config.chroma is None else ChromaConditioner(config.chroma, width)
        self.clap = None if config.clap is None else ClapConditioner(config.clap, width)
        self.beat = None if config.beat is None else FrameWiseConditioner(config.beat, width)
        self.chords = None if config.chords is None else FrameWiseConditioner(config.chords, width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language_model.device

    def prepare(self, attributes: Sequence[Attributes]) -> Prepared:
        """Tokenise and stack the conditions of a batch on the host.

        Raises:
            ValueError: an item has a condition that the model does not read.
        """
        known = self.config.conditions
        for number, item in enumerate(attributes):
            for name in item.names:
                if name not in known:
                    raise ValueError(f"expected conditions among {list(known)}, got {name} in item {number}")
        conditions: dict[str, PreparedTokens | PreparedVectors] = {}
        if self.description is not None:
            conditions["description"] = self.description.prepare([item.description for item in attributes])
        for name, conditioner in self.fields.items():
            assert isinstance(conditioner, TableConditioner | NumberConditioner)
            conditions[name] = conditioner.prepare([item.fields.get(name) for item in attributes])  # type: ignore[misc]
        if self.chroma is not None:
            conditions["chroma"] = self.chroma.prepare([item.chroma for item in attributes])
        if self.clap is not None:
            conditions["clap"] = self.clap.prepare([item.clap for item in attributes])
        if self.beat is not None:
            conditions["beat"] = self.beat.prepare([item.beat for item in attributes])
        if self.chords is not None:
            conditions["chords"] = self.chords.prepare([item.chords for item in attributes])
        return Prepared(len(attributes), conditions)

    def condition(self, prepared: Prepared) -> dict[str, Condition]:
        """Embed prepared conditions on the model's device; return them in the order in which they are fused."""
        on_device = prepared.to(self.device).conditions
        return {name: self._conditioner(name)(condition) for name, condition in on_device.items()}

    def forward(
        self,
        codes: Int[Tensor, "B K T"],
        attributes: Sequence[Attributes] | Prepared,
        lengths: Int[Tensor, "B"] | None = None,
    ) -> Prediction:
        """Predict every code of a batch from the codes before it and the items' attributes.

        Args:
            lengths: frames of each item without padding; all frames if None.

        Raises:
            ValueError: the codes or lengths have a wrong shape or range, or the attributes do not fit the model or the
                batch.
        """
        prediction: Prediction = self.language_model(codes, self._conditions_of(attributes, codes.shape[0]), lengths)
        return prediction

    def loss(
        self,
        codes: Int[Tensor, "B K T"],
        attributes: Sequence[Attributes] | Prepared,
        lengths: Int[Tensor, "B"] | None = None,
    ) -> Loss:
        """Return the cross-entropy of what `forward` predicts, in nats: each codebook's [K] and their mean."""
        return self.language_model.loss(codes, self._conditions_of(attributes, codes.shape[0]), lengths)

    @property
    def hidden_matrices(self) -> list[str]:
        """Names of the matrices between the decoder's inputs and its heads, which Muon optimises."""
        return [
            f"language_model.transformer.{name}"
            for name, parameter in self.language_model.transformer.named_parameters()
            if parameter.ndim == 2
        ]

    def weights(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint of this model holds: everything except a frozen text encoder."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not self._is_frozen(name)}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load the state that `weights` returned.

        Values are copied into existing weights. Weights on the device `meta`, which have no memory and no random
        initial values, are replaced by the given tensors themselves.

        Raises:
            ValueError: weights are missing or unknown; the message names them.
        """
        own = {name: value for name, value in self.state_dict().items() if not self._is_frozen(name)}
        if own.keys() != weights.keys():
            missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
            raise ValueError(f"expected the weights of this model, got {missing} missing and {unknown} unknown")
        assigned = {name: weights[name].to(value.dtype) for name, value in own.items() if value.is_meta}
        copied = {name: value for name, value in weights.items() if name not in assigned}
        self.load_state_dict(assigned, strict=False, assign=True)
        self.load_state_dict(copied, strict=False)

    def _conditions_of(self, attributes: Sequence[Attributes] | Prepared, rows: int) -> dict[str, Condition]:
        prepared = attributes if isinstance(attributes, Prepared) else self.prepare(attributes)
        if prepared.rows != rows:
            raise ValueError(f"expected attributes of {rows} items, got {prepared.rows}")
        return self.condition(prepared)

    def _conditioner(self, name: str) -> nn.Module:
        return self.fields[name] if name in self.fields else self.get_submodule(name)

    def _is_frozen(self, name: str) -> bool:
        frozen = self.config.description is not None and not self.config.description.finetune
        return frozen and name.startswith("description.encoder.")


def drop_conditions(
    attributes: Sequence[Attributes], probability: float, generator: torch.Generator
) -> list[Attributes]:
    """Drop all conditions of some items, so that the model also learns music without them (classifier-free guidance).

    Each item has its own random draw. AudioCraft has one draw a batch, which makes the noise of training depend on the
    batch size. Every kind of condition is dropped, the joint embedding included, because guidance has no effect on a
    condition that is never dropped in training. MusicGen drops with probability 0.2 (arXiv:2306.05284, 3.1).

    Raises:
        ValueError: the probability is outside 0 … 1.
    """
    _check_probability("probability", probability)
    draws = torch.rand(len(attributes), generator=generator, device=generator.device).tolist()
    return [Attributes() if draw < probability else item for item, draw in zip(attributes, draws, strict=True)]


def drop_attributes(
    attributes: Sequence[Attributes], probabilities: Mapping[str, float], generator: torch.Generator
) -> list[Attributes]:
    """Drop single conditions of each item independently, so that the model learns to work with any subset of them.

    AudioCraft's `AttributeDropout` does the same with one draw a batch.

    Args:
        probabilities: the probability of dropping each condition, by its name in `CONDITIONS`; conditions without one
            are kept. Every item has one draw for each of `CONDITIONS`, so that what happens to a condition does not
            depend on the probabilities of the others.

    Raises:
        ValueError: a name is unknown, or a probability is outside 0 … 1.
    """
    for name, probability in probabilities.items():
        if name not in CONDITIONS:
            raise ValueError(f"expected conditions among {list(CONDITIONS)}, got {name!r}")
        _check_probability(f"probability of {name}", probability)
    item_probabilities = [probabilities.get(name, 0.0) for name in CONDITIONS]
    draws = torch.rand(len(attributes), len(item_probabilities), generator=generator, device=generator.device).tolist()
    kept = []
    for item, item_draws in zip(attributes, draws, strict=True):
        dropped = [
            name
            for name, draw, probability in zip(CONDITIONS, item_draws, item_probabilities, strict=True)
            if draw < probability
        ]
        kept.append(item.without(dropped) if set(dropped) & set(item.names) else item)
    return kept


def _check_probability(what: str, probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"expected a {what} from 0 to 1, got {probability}")
