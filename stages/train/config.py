"""The knobs of the language model's training, in a module that the stage's other modules can import."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

import schemas
from model.conditioning.captions import CaptionConfig
from model.conditioning.config import CONDITIONS, MusicModelConfig
from model.optim.config import LoraConfig, OptimizationConfig
from schemas import WeightsRef
from schemas.licences import LicencePolicy
from schemas.tables import CHROMA, CLAP, HARMONY, RHYTHM
from stages.networks.published import T5_BASE

KINDS = ("language_model",)
"""The kinds of checkpoint that the stage trains."""

CONDITION_TABLES = {"chroma": CHROMA, "clap": CLAP, "beat": RHYTHM, "chords": HARMONY}
"""Conditions that are read from a table of their own -> that table."""

PUBLISHED_DROPOUT = {"chroma": 0.5}
"""Probability that AudioCraft's melody model drops one condition alone, by the condition's name."""


class GuidanceDistillation(schemas.Config):
    """How a model learns to predict in one pass what guidance predicts in two."""

    coefficient: float = Field(default=3.0, gt=1, le=100)
    """The coefficient of the guidance that is learned (MusicGen generates with 3, arXiv:2306.05284, 3.1)."""
    condition_dropout: float = Field(default=0.1, ge=0, le=1)
    """Probability that an item loses all of its conditions, in place of `train.condition_dropout`. It may be lower: an
    item without conditions teaches no guidance. Some such items keep the model's predictions without conditions, which
    requests with guidance still start from (nothing is published)."""


class EarlyStop(schemas.Config):
    """When a training ends before its last step. The weights of the validation with the lowest cross-entropy are kept,
    whichever step training ends at."""

    every: int = Field(default=100, ge=1)
    """Steps between two validations, in place of `train.valid_every`."""
    patience: int = Field(default=5, ge=1)
    """Validations in a row without a lower cross-entropy after which training ends. Nothing is published for MusicGen;
    with a hundred tracks and 100 steps a validation, the model sees the collection five more times without progress."""


class Samples(schemas.Config):
    """Clips that a model makes before, during and after training, so that its progress can be heard; they do not affect
    what is learned."""

    texts: tuple[str, ...] = ()
    """Descriptions of the clips; empty takes those of the first held-out tracks."""
    count: int = Field(default=3, ge=1)
    """How many descriptions of held-out tracks are taken."""
    seconds: float = Field(default=8.0, gt=0)
    """Length of a clip, seconds."""
    every: int = Field(default=500, ge=1)
    """Steps from one set of clips to the next."""


class Config(schemas.Config):
    """How the language model is trained; the defaults are MusicGen's for 30 s of 32 kHz mono with text."""

    NOT_IDENTITY: ClassVar[tuple[str, ...]] = (
        "licences",
        "adapter",
        "samples",
        "refresh",
        "checkpoint_layers",
        "compile",
        "log_every",
        "valid_every",
        "save_every",
    )

    model: MusicModelConfig = MusicModelConfig()
    """The network. Its codebooks and cardinality are those of the codec that made the tokens."""
    initial: WeightsRef | None = None
    """The checkpoint that training starts from, in any form; None for fresh weights. `model` must be the checkpoint's
    model, except that it may have further conditions, which start fresh, and twice the codebooks, for stereo out of
    mono. A store's own checkpoints are named `checkpoint:<id>`."""
    lora: LoraConfig | None = None
    """Train low-rank updates of the decoder of `initial`, instead of all weights."""
    initial_adapter: WeightsRef | None = None
    """Low-rank updates that training goes on from: a folder or hub id in peft's form, for this model or transformers'
    MusicGen. What they change, their ranks and their scales override `lora`."""
    adapter: str | None = Field(default=None, pattern=r"^[^\s:,;/]+$")
    """Name by which requests call the updates (`noir:0.8`); None takes the id of the checkpoint."""
    distill_guidance: GuidanceDistillation | None = None
    """Learn what `initial` predicts with guidance, instead of the codes: the model then follows its conditions as well
    without guidance, at half the cost (arXiv:2210.03142, 2410.06084). None trains on the codes."""
    early_stop: EarlyStop | None = None
    """Ends training when held-out tracks stop improving, and keeps the best weights. None takes all steps and keeps the
    last weights."""
    samples: Samples | None = None
    """Clips of fixed texts made during training, for the page and the table `samples`; None makes none."""
    text_encoder: WeightsRef | None = T5_BASE
    """The T5 encoder that reads descriptions (arXiv:2306.05284, 3.1), frozen or not by `model.description.finetune`.
    None for a model without text, or for the encoder of `initial`, which this one would replace."""
    optimization: OptimizationConfig = OptimizationConfig()
    """Optimiser, learning rate, averaging, and the number of steps."""
    captions: CaptionConfig = CaptionConfig()
    """How the text of an example is made from a track's metadata."""
    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights, the order of the data and all dropout."""
    batch_size: int = Field(default=192, ge=1)
    """Examples a step (arXiv:2306.05284, 3.1)."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Examples that are computed at once; their gradients are added up over the batch. It bounds memory, and counts in
    the recipe because it decides how texts are padded and sums are rounded. Several processes (`settings.processes`)
    share the micro-batches, so more processes than micro-batches do not help."""
    segment_seconds: float = Field(default=30.0, gt=0)
    """Length of an example, seconds (arXiv:2306.05284, 3.1)."""
    smallest_share: float = Field(default=0.8, gt=0, le=1)
    """A window may extend past the end of its track, but at least this share of it is the track's (AudioCraft's
    `min_segment_ratio`). Shorter tracks are padded, and the padding counts in no loss."""
    shortest_seconds: float = Field(default=1.0, gt=0)
    """Tracks shorter than this are left out, seconds."""
    condition_dropout: float = Field(default=0.2, ge=0, le=1)
    """Probability that an item loses all of its conditions, for classifier-free guidance (AudioCraft's
    `classifier_free_guidance.training_dropout` with melody; 0.3 without)."""
    attribute_dropout: Mapping[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Probability that an item loses one condition alone, by the condition's name; drawn for each item and condition.
    Conditions that are not named: 0.5 for the melody (AudioCraft's `attribute_dropout.wav.self_wav`), 0 for the
    others."""
    joint_text: float = Field(default=0.0, ge=0, le=1)
    """Probability that an item's joint embedding is made from its caption, as it was drawn, instead of from its sound
    (AudioCraft's `text_p`)."""
    clap: WeightsRef | None = None
    """The model that embeds captions, where `joint_text` is above 0; in a recipe it is `clap.model` unless it is
    given."""
    vocabulary: WeightsRef | None = None
    """RoBERTa's vocabulary, with which a LAION checkpoint in `clap` reads words; in a recipe it is `clap.vocabulary`
    unless it is given. A model folder brings its own."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training tracks that are held out, chosen by hash, where the split `valid` is empty."""
    held_out_windows: int = Field(default=256, ge=1)
    """Most windows of a split that the model is evaluated on, evenly spaced."""
    licences: LicencePolicy = LicencePolicy()
    """Licences of the tracks that may be learned from; a track with another one ends the training before it begins. In
    a recipe it is `ingest.licences` unless it is given."""
    refresh: Literal["missing", "changed", "never"] = "missing"
    """When a run of the whole catalog trains: where this recipe has no checkpoint yet, whenever its data changed, or
    never. Asking for the stage by name always trains."""
    checkpoint_layers: bool = False
    """Keep only the input of each layer, and compute the layer again for its gradient: less memory, more time, the same
    result (AudioCraft's `transformer_lm.checkpointing`)."""
    compile: bool = False
    """Compile the decoder's layers with `torch.compile`, forwards and backwards: the same result except for rounding,
    after a minute or more of compiling. Off by default: a gain was not measured on a GPU, and on a CPU the matrix
    products, most of the work, stay with a library that is no faster. A sharded model (`settings.parallel`) is not
    compiled."""
    log_every: int = Field(default=50, ge=1)
    """Steps between two rows of `training`."""
    valid_every: int = Field(default=500, ge=1)
    """Steps between two validations."""
    save_every: int = Field(default=500, ge=1)
    """Steps between two saves of the state: what a killed training loses at most."""

    @model_validator(mode="after")
    def _text_has_an_encoder(self) -> Self:
        reads_text, has_encoder = self.model.description is not None, self.text_encoder is not None
        if reads_text != has_encoder and not (reads_text and self.initial is not None):
            raise ValueError(
                f"expected a text encoder if and only if the model reads text, got text_encoder = {self.text_encoder} "
                f"for conditions {self.model.conditions}"
            )
        return self

    @model_validator(mode="after")
    def _starts_from_something(self) -> Self:
        if self.initial is not None and (self.initial.checkpoint or self.initial) in KINDS:
            raise ValueError(
                f"expected the id of one checkpoint in initial (checkpoint:<id>), got {self.initial}, which names what "
                "this recipe trains"
            )
        if self.lora is not None and self.initial is None:
            raise ValueError("expected initial, the checkpoint that lora adapts, got none")
        if self.initial_adapter is not None and self.lora is None:
            raise ValueError("expected lora for the updates that continue initial_adapter, got none")
        if self.adapter is not None and (self.lora is None or self.lora.conditioners):
            raise ValueError(
                f"expected lora with conditioners = false for a named adapter (adapter = {self.adapter}): if "
                "conditioners learn too, the updates alone are not the whole result"
            )
        if self.distill_guidance is not None and self.initial is None:
            raise ValueError("expected initial, the checkpoint that distill_guidance learns from, got none")
        if self.distill_guidance is not None and not self.model.conditions:
            raise ValueError("expected a model with conditions for distill_guidance, got one without")
        return self

    @model_validator(mode="after")
    def _dropout_is_of_conditions(self) -> Self:
        # A dropout of 0 for a condition that the model does not read is allowed: it undoes a preset's.
        dropped = {name for name, share in self.attribute_dropout.items() if share or name not in CONDITIONS}
        if unknown := sorted(dropped - set(self.model.conditions)):
            raise ValueError(
                f"expected attribute_dropout of conditions that the model reads ({', '.join(self.model.conditions)}), "
                f"got {', '.join(unknown)}"
            )
        return self

    @model_validator(mode="after")
    def _joint_text_has_an_embedding(self) -> Self:
        if (self.joint_text > 0) != (self.clap is not None):
            raise ValueError(
                f"expected clap if and only if joint_text is above 0, got clap = "
                f"{self.clap} for joint_text = {self.joint_text:g}"
            )
        if self.vocabulary is not None and self.clap is None:
            raise ValueError(f"expected clap in addition to vocabulary = {self.vocabulary}, got none")
        if self.joint_text > 0 and self.model.clap is None:
            raise ValueError(f"expected a model that reads clap for joint_text, got one of {self.model.conditions}")
        return self

    @property
    def all_dropout(self) -> float:
        """Probability that an item loses all of its conditions."""
        distillation = self.distill_guidance
        return self.condition_dropout if distillation is None else distillation.condition_dropout

    @property
    def dropouts(self) -> dict[str, float]:
        """The dropout of every condition that the model reads, by its name."""
        return {
            name: self.attribute_dropout.get(name, PUBLISHED_DROPOUT.get(name, 0.0)) for name in self.model.conditions
        }
