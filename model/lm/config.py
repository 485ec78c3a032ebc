"""The knobs of the decoder (MusicGen, arXiv:2306.05284).

They are in a file without torch, so that a plan, which needs every knob, need not load torch.
"""

from typing import Literal

from pydantic import Field, model_validator

from schemas import Config

Precision = Literal["float32", "float16", "bfloat16", "int8"]
"""Precision of the weights while a model decodes; sums are always in float32. `float16` halves the bytes that are read
for each weight; `float32` may do so too, where all weights are exactly representable in float16. `bfloat16` and `int8`
also round the activations, which is faster for many rows if the processor has instructions for these formats."""


CachePrecision = Literal["float32", "bfloat16", "int8"]
"""Precision of cached keys and values while a model decodes: as computed, or rounded (`model.lm.cached_vectors`)."""


class LanguageModelConfig(Config):
    """Size and form of the language model; the defaults are musicgen-small (arXiv:2306.05284, 4)."""

    codebooks: int = Field(4, ge=1)
    """K, codebooks of the codec."""
    cardinality: int = Field(2048, ge=2)
    """V, entries of a codebook; the special token has the index V."""
    width: int = Field(1024, ge=4)
    """D, width of the decoder."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    layers: int = Field(24, ge=1)
    """Decoder layers."""
    feedforward_multiplier: int = Field(4, ge=1)
    """Width of the feed-forward layers, in widths of the decoder."""
    feedforward_width: int | None = Field(None, ge=1)
    """Width of the feed-forward layers where it is not a multiple of the decoder's (transformers: `ffn_dim`)."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Nonlinearity of the feed-forward layers; GELU is the exact one (AudioCraft: `activation`)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropped share of activations and attention weights (AudioCraft: `transformer_lm.dropout`)."""
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropped share of attention weights; None is the same as `dropout` (AudioCraft: `attention_dropout`)."""
    norm: Literal["before", "after"] = "before"
    """Whether layer normalisation comes before each part of a layer or after its residual sum (arXiv:1706.03762, 3.1).
    With `after` there is no norm before the heads (AudioCraft: `norm_first`)."""
    attention_bias: bool = False
    """Whether attention's projections have biases (AudioCraft: `bias_attn`)."""
    feedforward_bias: bool = False
    """Whether the feed-forward layers have biases (AudioCraft: `bias_ff`)."""
    head_bias: bool = False
    """Whether the heads that give the logits have biases (AudioCraft: `bias_proj`)."""
    layer_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Initial value of the learned scale of each part of a layer (arXiv:2103.17239); None means no such scale."""
    query_key_norm: bool = False
    """Whether queries and keys of self-attention are normed (arXiv:2302.05442, 2; AudioCraft: `qk_layer_norm`)."""
    cross_query_key_norm: bool = False
    """Whether queries and keys of cross-attention are normed (AudioCraft: `qk_layer_norm_cross`)."""
    key_value_heads: int | None = Field(None, ge=1)
    """Heads of keys and values in self-attention, each shared by a group of query heads (arXiv:2305.13245); None is as
    many as query heads. AudioCraft's `kv_repeat` is `heads / key_value_heads`."""
    past_context: int | None = Field(None, ge=1)
    """How many earlier steps a step sees, prefixes included; None is all of them (AudioCraft: `past_context`)."""
    pattern: Literal["delay", "unroll", "coarse_first", "grouped"] = "delay"
    """Order in which codes are predicted (arXiv:2306.05284, 2.1)."""
    delays: tuple[int, ...] | None = None
    """Delay of each codebook, steps; None is 0, 1, … K - 1 for `delay` and all 0 for the other patterns."""
    flatten_first: int = Field(0, ge=0)
    """Number of first frames that the `delay` pattern lays out one code a step, before all others
    (AudioCraft: `flatten_first`)."""
    empty_initial: int = Field(0, ge=0)
    """Empty steps before the `delay` pattern, besides the one that is always there (AudioCraft: `empty_initial`)."""
    flattening: tuple[int, ...] | None = None
    """One number a codebook; codebooks with equal numbers share a step of the `unroll` pattern. None gives each
    codebook a step (AudioCraft: `unroll.flattening`)."""
    group: int = Field(2, ge=1)
    """Codebooks of a group in the `grouped` pattern (AudioCraft: `music_lm.group_by`)."""
    cross: tuple[str, ...] = ("description",)
    """Conditions that cross-attention reads; none means no cross-attention layers."""
    prepend: tuple[str, ...] = ()
    """Conditions put before the codes (musicgen-melody: description and chroma)."""
    sum: tuple[str, ...] = ()
    """Conditions that are added to the steps: one of length 1 to every step, a longer one frame by frame."""
    interpolate: tuple[str, ...] = ()
    """Conditions stretched over the steps and added."""
    interpolate_steps: int | None = Field(None, ge=1)
    """Steps over which the conditions of `interpolate` are stretched; None is the length of the sequence, as in
    AudioCraft. With the steps of a training window, a melody keeps its pace in sequences of any length; steps after
    the window read the condition's last vector."""
    cross_positions: bool = False
    """Whether positions are added to what cross-attention reads (AudioCraft: `cross_attention_pos_emb`)."""
    cross_position_scale: float = Field(1.0, allow_inf_nan=False)
    """Factor of the positions of `cross_positions` (AudioCraft: `cross_attention_pos_emb_scale`)."""
    padding: Literal["masked", "attended"] = "masked"
    """Whether cross-attention masks the zeros that pad a condition to the longest of its batch, as in transformers, so
    that a row's result does not depend on its batch; or attends to them as in AudioCraft (in training too). Padding of
    a prefix is always attended to, as in both."""
    positions: Literal["sinusoidal", "rotary", "both"] = "sinusoidal"
    """Sinusoids added to the inputs, rotations of queries and keys (arXiv:2104.09864), or both (AudioCraft:
    `positional_embedding`)."""
    xpos: bool = False
    """Whether rotations fade with distance (arXiv:2212.10554)."""
    position_period: float = Field(10_000.0, gt=1)
    """Longest period of the positions, steps / 2π (AudioCraft: `max_period`)."""
    position_scale: float = Field(1.0, allow_inf_nan=False)
    """Factor of the sinusoids. For rotations: the share of the rotation, mixed with no rotation (AudioCraft:
    `positional_scale`)."""

    @property
    def expanded_width(self) -> int:
        """Width of the feed-forward layers."""
        return self.feedforward_width or self.feedforward_multiplier * self.width

    @property
    def codebook_delays(self) -> tuple[int, ...]:
        """The delay of each codebook, steps."""
        if self.delays is not None:
            return self.delays
        return tuple(range(self.codebooks)) if self.pattern == "delay" else (0,) * self.codebooks

    @property
    def conditions(self) -> frozenset[str]:
        """Names of all conditions that the model reads."""
        return frozenset(self.cross + self.prepend + self.sum + self.interpolate)

    @model_validator(mode="after")
    def _fits(self) -> "LanguageModelConfig":
        if self.width % 2 or self.width % self.heads:
            raise ValueError(f"expected an even width that {self.heads} heads divide, got {self.width}")
        if self.positions == "sinusoidal" and self.xpos:
            raise ValueError("expected xpos with rotary positions, got sinusoidal ones")
        if self.positions != "sinusoidal" and self.width // self.heads % 2:
            raise ValueError(f"expected heads of even width for rotary positions, got {self.width // self.heads}")
        grouped = self.key_value_heads or self.heads
        if self.heads % grouped:
            raise ValueError(f"expected key_value_heads that divide {self.heads} heads, got {grouped}")
        if self.query_key_norm and grouped != self.heads:
            raise ValueError(f"expected {self.heads} key_value_heads with query_key_norm, got {grouped}")
        if len(self.codebook_delays) != self.codebooks or min(self.codebook_delays) < 0:
            raise ValueError(f"expected {self.codebooks} delays, each 0 or more, got {self.delays}")
        if self.flattening is not None and len(self.flattening) != self.codebooks:
            raise ValueError(f"expected {self.codebooks} numbers of flattening, got {self.flattening}")
        if self.pattern == "grouped" and self.codebooks % self.group:
            raise ValueError(f"expected a group that divides {self.codebooks} codebooks, got {self.group}")
        return self


STRIDE = 0.6
"""Distance between the starts of the windows of a clip that is longer than the trained window, as a share of a window
(MusicGen, arXiv:2306.05284, 3.1; AudioCraft: `extend_stride`, 18 s of MusicGen's 30)."""


def stride_frames(share: float, window: int) -> int:
    """Return the stride in frames for windows of `window` frames."""
    return max(1, int(share * window))
