"""Presets: a preset is a function that returns its difference from the stages' own defaults, which are the published
values of MusicGen (arXiv:2306.05284) for 32 kHz mono.

Weights are given by name. The store records what the first download of a name got, and insists on it from then on.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flows.recipes.merging import merge
from schemas.names import did_you_mean

Difference = dict[str, Any]
"""A nested mapping of stage, field and value."""

DAC, MIMI = "descript/dac_44khz", "kyutai/mimi"
OWN_CODEC = "checkpoint:codec"
"""The codec that the store trains."""


def miniature() -> Difference:
    """Everything made and trained on this machine in minutes: a demo corpus, codec, separator, CLAP, language model."""
    learning = {"learning_rate": 2e-3, "floor": 0.05, "ema_interval": 1, "precision": "float32"}
    frame_rate = 50.0
    return {
        # With 520 pieces to learn from (640 in all), held-out cross-entropy stays 0.4 nats above that of the training;
        # with 896, 0.3. 1,024 pieces fill two shards, which two cores share evenly.
        "demo": {"pieces": 1024},
        # Two of the sixteen artists: more than a hundred tracks that no model heard are there for requests, and each
        # genre keeps an artist to learn from. Shares go by the hash of an artist's name, and an artist with a piece
        # that sounds like one in `train` goes there too. The most similar two pieces, tunes on the same chords and
        # instruments, have 0.79: with the default, 0.4, such pairs would join every artist to another.
        "ingest": {"valid": 0.1, "test": 0.0, "near_duplicates": 0.8},
        # Half the channels at half the rate take a third of the time for every track, and the chroma is as near to that
        # of the true stems (mean cosine 0.956) as at the full rate (0.953); the full mix's is 0.945. No melody or
        # chord of the demo has a fundamental above 4 kHz.
        # The transformer between encoder and decoder, a fifth of the time, is left out: the chroma is as near (0.959).
        "demo_models": {"separator": {"sample_rate": 8_000, "channels": 8, "layers": 0}},
        "train_codec": {
            "network": {
                "sample_rate": 16_000,
                "filters": 12,
                "ratios": (8, 5, 4, 2),
                # 64 components of a frame cannot hold a bright piece (-0.4 dB for one, 9.1 with 128, both without
                # quantisation). 256 entries instead of 512 cost an untrained codec 0.6 dB; 40 frames a second instead
                # of 50 cost 0.7 dB after the same training.
                "width": 128,
                "lstm_layers": 1,
                "cardinality": 512,
            },
            "training": {
                "optimization": {
                    **learning,
                    "learning_rate": 1e-3,
                    "steps": 920,
                    "warmup_steps": 50,
                    "betas": (0.9, 0.95),
                    "weight_decay": 0.0,
                    "gradient_norm": 1.0,
                    "ema_decay": 0.97,
                },
                "batch_size": 8,
                # One half for each core: with so small a network, two threads are no faster than one.
                "micro_batch_size": 4,
                "segment": 0.5,
                # Minutes suffice for learning reconstruction only; a plain sum of logarithms learns it fastest.
                "adversarial": None,
                "balancer": None,
                "weight_norm": False,
                "waveform_weight": 50.0,
                # Every piece gets much the same hiss above 4 kHz: the mean centroid of 32 held-out pieces is 1264 Hz,
                # of the originals 1919. A weight of 0.6, windows from 64 samples on and a learning rate of 1.3e-3
                # follow the originals better (1335 Hz, correlation 0.59 instead of 0.16) with as many decibels, but
                # then the same language model follows 66 instead of 77 % of keys and 78 instead of 81 % of chords (one
                # run each). From 2e-3 on the codec fills the treble with clicks: 1451 Hz, but pulse clarity 0.51
                # instead of 0.60. 2.5e-3 with a weight of 0.9 and windows from 256 samples on gives 1459 Hz and 0.43,
                # and the gate held back 40 clips of 133, 39 for their peaks.
                "spectral_weight": 0.333,
                # Batches are small: with a lower decay, a codebook's entries would be means of a dozen frames.
                "quantizer": {"decay": 0.99, "dead_code_share": 0.2},
                # From random weights, it takes minutes until a latent says anything about the sound.
                "start": "transform",
                "start_batches": 24,
                "spectral": {
                    "range_start": 8,
                    "linear_weight": 0.0,
                    "logarithm": "absolute",
                    "normalized": False,
                },
            },
            "gain": (-3.0, 3.0),
            # With 64 tracks of 10 s and three validations on the way, evaluation took a quarter of the stage's time.
            "held_out_tracks": 32,
            "held_out_seconds": 6.0,
            "valid_every": 1000,
            "save_every": 150,
        },
        "chroma": {"separator": "checkpoint:separator"},
        "clap": {"model": "checkpoint:clap", "vocabulary": None},
        "tokenize": {"codec": OWN_CODEC},
        "train": {
            "model": {
                "language_model": {
                    "cardinality": 512,
                    # A step takes 0.16 s of each of two cores; with a width of 128, 0.09 s.
                    "width": 192,
                    "heads": 6,
                    "layers": 4,
                    "feedforward_multiplier": 2,
                    "cross": ("description",),
                    "prepend": ("clap",),
                    # Conditions are added to every frame: in minutes, no model learns to look them up.
                    "sum": ("key", "bpm", "chroma", "beat", "chords"),
                },
                "description": {"width": 96, "finetune": True},
                "fields": {
                    "key": {"kind": "label", "width": 32},
                    "bpm": {"kind": "number", "lowest": 40.0, "highest": 240.0},
                },
                "chroma": {"frames": round(6.0 * frame_rate), "frame_rate": frame_rate},
                "clap": {"width": 64},
                "beat": {},
                "chords": {},
            },
            "text_encoder": "checkpoint:text_encoder",
            # A few thousand examples show each word too seldom if a fifth of the words is left out. Now 80 % of the
            # demo's texts hold their whole description; with the published values 4 % did.
            "captions": {"drop_words": 0.0},
            "optimization": {
                **learning,
                "learning_rate": 3e-3,
                "optimizer": "muon",
                "precision": "bfloat16",
                "steps": 1000,
                "warmup_steps": 40,
                "ema_decay": 0.98,
            },
            "batch_size": 8,
            # So that two processes can share a step (`settings.processes`): for so small a model two threads are no
            # faster than one (0.2 s a step); two processes take 0.14 s of a core each.
            "micro_batch_size": 4,
            "segment_seconds": 6.0,
            # At the end a dozen cross-entropies are computed for each window, noticeable in a training of minutes.
            "held_out_windows": 48,
            "condition_dropout": 0.1,
            # Requests give some of these and not others. With 0.05 for chords and 0.1 for key, tempo and beats, a model
            # relies more on chords (shuffled, they cost 0.25 nats instead of 0.13), but its clips follow no better:
            # chords 74 % as before, keys 64 instead of 66 %.
            "attribute_dropout": dict.fromkeys(("key", "bpm", "chroma", "clap", "beat", "chords"), 0.2),
            "log_every": 25,
            "valid_every": 500,
            "save_every": 200,
        },
        # One model at guidance 2 and 3, some hundred requests each: chords 83 and 78 % right, keys 76 and 72 %,
        # melodies 69 and 73 %, tempi 62 and 70 %; pulse clarity .39 and .43, and the sound gets noisier (pitch strength
        # .22 and .20). At guidance 2 with temperature 0.7 instead of 0.4: chords 79, keys 74, melodies 74, tempi 68 %.
        # The 104 held-out requests of a later model at guidance 2.5, and temperature 0.4, 0.25 and 0.15: chords 76, 81
        # and 79 %, keys 75, 77 and 75 %, tempi 73, 78 and 68 %, pulse clarity .48, .49 and .49; at 0.15 four clips are
        # copies of others.
        "requests": {
            **{"default_set": "demo", "held_out": 104, "temperature": 0.25, "guidance": 2.5},
            # The demo's 133 requests fill two shards, one for each core.
            "shard_size": 67,
        },
    }


def study() -> Difference:
    """The miniature with about an hour of two cores: more than twice the music, and a codec and a language model that
    learn four and six times as long."""
    return merge(
        miniature(),
        {
            "demo": {"pieces": 2400},
            # Four artists, so that more tracks are held out.
            "ingest": {"valid": 0.13},
            "demo_models": {"separator": {"sample_rate": 16_000, "layers": 1}},
            "train_codec": {
                "training": {"optimization": {"steps": 4500, "warmup_steps": 100, "ema_decay": 0.99}},
                "held_out_tracks": 64,
                "held_out_seconds": 10.0,
                "valid_every": 500,
            },
            "train": {
                "optimization": {"steps": 6500, "warmup_steps": 100, "ema_decay": 0.99},
                "held_out_windows": 256,
                "log_every": 50,
                "valid_every": 500,
            },
            # More tracks are held out; guidance and temperature are those of docs/study.md.
            "requests": {"held_out": 200, "guidance": 3.0, "temperature": 0.4, "shard_size": 64},
        },
    )


def musicgen_small() -> Difference:
    """MusicGen-small: 1024 wide, 24 layers, 16 heads; text by cross-attention; published weights around it."""
    return _published(width=1024, layers=24, heads=16)


def musicgen_medium() -> Difference:
    """MusicGen-medium: 1536 wide, 48 layers, 24 heads; text by cross-attention; published weights around it."""
    return _published(width=1536, layers=48, heads=24)


def musicgen_large() -> Difference:
    """MusicGen-large: 2048 wide, 48 layers, 32 heads; text by cross-attention; published weights around it."""
    return _published(width=2048, layers=48, heads=32)


def musicgen_melody() -> Difference:
    """MusicGen-melody: 1536 wide, 48 layers, 24 heads; chroma and text prepended; published weights around it."""
    difference = _published(width=1536, layers=48, heads=24)
    model = difference["train"]["model"]
    model["language_model"] |= {"cross": (), "prepend": ("description", "chroma")}
    model["chroma"] = {"null": "first_bin"}
    difference["train"]["condition_dropout"] = 0.2
    return difference


def musicgen_stereo_small() -> Difference:
    """MusicGen-stereo-small: musicgen-small in stereo, left and right codebooks alternate; published weights."""
    return _stereo(musicgen_small())


def musicgen_stereo_medium() -> Difference:
    """MusicGen-stereo-medium: musicgen-medium in stereo, left and right codebooks alternate; published weights."""
    return _stereo(musicgen_medium())


def musicgen_stereo_large() -> Difference:
    """MusicGen-stereo-large: musicgen-large in stereo, left and right codebooks alternate; published weights."""
    return _stereo(musicgen_large())


def musicgen_stereo_melody() -> Difference:
    """MusicGen-stereo-melody: musicgen-melody in stereo, left and right codebooks alternate; published weights."""
    return _stereo(musicgen_melody())


def _stereo(mono: Difference) -> Difference:
    """Return the same model with codebooks for both sides, coded by a mono codec. The two codebooks of one level share
    a delay (model cards of facebook/musicgen-stereo-small and its siblings; AudioCraft's
    `interleave_stereo_codebooks`)."""
    mono["tokenize"] = {"channels": "stereo"}
    mono["train"]["model"]["language_model"] |= {"codebooks": 8, "delays": (0, 0, 1, 1, 2, 2, 3, 3)}
    return mono


def _published(width: int, layers: int, heads: int) -> Difference:
    """Return a model of a published size (arXiv:2306.05284, 4.1); the published weights around it are the stages'
    defaults."""
    model = {"language_model": {"width": width, "layers": layers, "heads": heads}}
    return {"train": {"model": model, "condition_dropout": 0.3}}


def encodec_32khz() -> Difference:
    """MusicGen's EnCodec trained on your music: 64 filters, 4 codebooks of 2048, 50 frames a second; musicgen-small on
    it."""
    # The codec's training does not differ from the stage's own defaults, which are this codec's (arXiv:2306.05284, 3.1;
    # AudioCraft's config/solver/compression/encodec_musicgen_32khz.yaml).
    return _with_codec(musicgen_small(), OWN_CODEC)


def encodec_24khz() -> Difference:
    """EnCodec for 24 kHz trained on your music, causal, 1.5 to 24 kbit/s; musicgen-small on 8 of its codebooks, 6
    kbit/s."""
    difference = _with_codec(musicgen_small(), OWN_CODEC)
    # All values are EnCodec's, arXiv:2210.13438. Network: 3.1 and 3.2, and the files of facebook/encodec_24khz.
    difference["train_codec"] = {
        "network": {
            "sample_rate": 24_000,
            "filters": 32,
            "ratios": (8, 5, 4, 2),
            "causal": True,
            "convolutional_shortcut": True,
            "codebooks": 32,
            "cardinality": 1024,
            "bandwidths": (2, 4, 8, 16),
        },
        "training": {
            # 4.4: 300 epochs of 2,000 updates of 64 seconds. 3.4: the weights, and discriminators that learn in two
            # of three steps; spectra of 7 scales. 3.2: every item at one of the bandwidths.
            "optimization": {"steps": 600_000},
            "waveform_weight": 0.1,
            "spectral_weight": 1.0,
            "spectral": {"range_start": 5, "range_end": 12},
            "adversarial": {
                "weight": 3.0,
                "feature_weight": 3.0,
                "update_probability": 2 / 3,
                "spectrogram": {"negative_slope": 0.2},
            },
            "quantizer": {"dropout": 1.0},
        },
        # 4.1: the augmentations that apply to music.
        "gain": (-10.0, 6.0),
        "mix": 0.24,
    }
    difference["tokenize"]["codebooks"] = 8
    difference["train"]["model"]["language_model"] |= {"codebooks": 8, "cardinality": 1024}
    return difference


def dac_44khz() -> Difference:
    """Musicgen-small on the published DAC: 44.1 kHz, 9 codebooks of 1024, 86 frames a second, 7.8 kbit/s."""
    # The codec's sizes: arXiv:2306.06546 and the files of descript/dac_44khz.
    difference = _with_codec(musicgen_small(), DAC)
    difference["train"]["model"]["language_model"] |= {"codebooks": 9, "cardinality": 1024}
    return difference


def mimi_24khz() -> Difference:
    """Musicgen-small on the published Mimi: 24 kHz, 8 of its 32 codebooks of 2048, 12.5 frames a second, 1.1 kbit/s."""
    # The codec's sizes: arXiv:2410.00037, 3.3, and the files of kyutai/mimi. 8 codebooks are what Moshi speaks.
    difference = _with_codec(musicgen_small(), MIMI)
    difference["tokenize"]["codebooks"] = 8
    difference["train"]["model"]["language_model"] |= {"codebooks": 8, "cardinality": 2048}
    return difference


def _with_codec(difference: Difference, codec: str) -> Difference:
    """Return the same models on another codec."""
    return difference | {"tokenize": {"codec": codec}}


PRESETS: Mapping[str, Callable[[], Difference]] = {
    "miniature": miniature,
    "study": study,
    "musicgen-small": musicgen_small,
    "musicgen-medium": musicgen_medium,
    "musicgen-large": musicgen_large,
    "musicgen-melody": musicgen_melody,
    "musicgen-stereo-small": musicgen_stereo_small,
    "musicgen-stereo-medium": musicgen_stereo_medium,
    "musicgen-stereo-large": musicgen_stereo_large,
    "musicgen-stereo-melody": musicgen_stereo_melody,
    "encodec-32khz": encodec_32khz,
    "encodec-24khz": encodec_24khz,
    "dac-44khz": dac_44khz,
    "mimi-24khz": mimi_24khz,
}


DEFAULT_PRESET = "miniature"
"""The preset that is used where none is named."""


NO_WATERMARK = (
    "the clips carry no watermark, which the EU's Code of Practice recommends with signed metadata: name one by "
    "--set decode.watermark.generator=FILE --set decode.watermark.detector=FILE"
)
"""What runs and plans say if a preset has `eu` over it and no watermark is named. Segue comes without the weights of a
watermark."""


def eu() -> Difference:
    """Laid over another preset (`miniature+eu`): what the EU's Code of Practice asks for and Segue can do."""
    return {
        # Signed metadata. Nobody trusts the development certificate: whoever publishes clips gives their own.
        "decode": {"credentials": {"certificate": "development"}},
        # Recordings of unknown licence are not learned from, nor are recordings that a model made.
        "ingest": {"licences": {"unknown": "refuse"}, "limits": {"generated": "reject"}},
    }


OVERLAYS: Mapping[str, Callable[[], Difference]] = {"eu": eu}
"""Differences that say nothing about models and are merged over a preset: `miniature+eu`."""

PRESET_NAMES = (*PRESETS, *(f"{preset}+{overlay}" for preset in PRESETS for overlay in OVERLAYS))
"""Every name of a preset, including those with an overlay."""


def preset_difference(name: str) -> Difference:
    """Return the difference of a preset, merged with those of the overlays that follow it after a `+`.

    Raises:
        ValueError: there is no such preset or overlay.
    """
    preset, *overlays = name.split("+")
    if preset in OVERLAYS:
        raise ValueError(f"expected a preset to apply {preset} to, such as miniature+{preset}, got {name!r}")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}{did_you_mean(preset, PRESETS)}; allowed: {', '.join(PRESETS)}")
    difference = PRESETS[preset]()
    for overlay in overlays:
        if overlay not in OVERLAYS:
            raise ValueError(
                f"expected {' or '.join(OVERLAYS)} to apply to {preset}, got {overlay!r}"
                f"{did_you_mean(overlay, OVERLAYS)}"
            )
        difference = merge(difference, OVERLAYS[overlay]())
    return difference


def describe_preset(name: str) -> str:
    """Return one line about a preset and its overlays."""
    return " ".join(" ".join(({**PRESETS, **OVERLAYS}[part].__doc__ or "").split()) for part in name.split("+"))
