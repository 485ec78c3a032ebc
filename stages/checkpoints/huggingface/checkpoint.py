"""MusicGen in Hugging Face's form, read and written: a folder that holds all of a model.

```
config.json              text encoder, codec and decoder, of `MusicgenForConditionalGeneration` or, with a melody
                         before the codes, `MusicgenMelodyForConditionalGeneration`
model.safetensors        the weights of all three, and the projections between them
generation_config.json   how transformers generates unless told otherwise
tokenizer*, preprocessor_config.json    what its processor reads
```

A folder is read without transformers' own loading of such models: its tensors are taken as tensors, by name, and
nothing in the files is run. What is missing, unknown, of another shape or does not fit together is refused. The length
of the training windows is nowhere in the form; published folders tell it by the longest sequence that they generate,
`max_length` = seconds * frame rate (1500 for 30 s), and so do those written here.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    EncodecFeatureExtractor,
    EncodecModel,
    GenerationConfig,
    MusicgenMelodyConfig,
    MusicgenMelodyFeatureExtractor,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from model.codec.codec import codebook_identity, coder_of
from model.music_model import MusicModel
from stages.checkpoints.facts import CheckpointFacts, CodecFacts
from stages.checkpoints.huggingface.configuration import (
    HuggingFaceConfig,
    configuration_for,
    model_configuration,
    read_configuration,
    read_json,
)
from stages.checkpoints.huggingface.fit import (
    add_identities,
    check_codec,
    check_fit,
    check_positions,
    remove_identities,
)
from stages.checkpoints.huggingface.names import POSITION_TABLE, from_hugging_face, to_hugging_face
from stages.checkpoints.huggingface.tensors import SAFETENSORS, read_tensors
from stages.checkpoints.native import TrainedModel
from stages.networks.pretrained import load_tokenizer

GENERATION, FEATURES, PROCESSOR = "generation_config.json", "preprocessor_config.json", "processor_config.json"
SEGMENT_SECONDS, MELODY_RATE, MAX_TOKENS = 30.0, 7.8125, 512
"""What published models have, for folders that do not say: training windows, frames of a melody a second, and tokens
of a description."""
GUIDANCE, TOP_K = 3.0, 250
"""How MusicGen generates (arXiv:2306.05284, 3.1)."""
TEXT_ENCODER = "description.encoder."
VOCABULARIES = ("tokenizer.json", "spiece.model")
"""What T5's tokenizer is kept in."""


def read_hugging_face(folder: Path) -> TrainedModel:
    """The model in a local folder, with its codec, on the CPU in evaluation mode and float32.

    Raises:
        ValueError: the folder holds no MusicGen, one that lacks something, or one whose parts do not fit together.
    """
    config = read_configuration(folder)
    tensors = read_tensors(folder)
    codec = _part(EncodecModel, config.audio_encoder, tensors, "audio_encoder.", folder)
    encoder = _part(T5EncoderModel, config.text_encoder, tensors, "text_encoder.", folder)
    tokenizer = _tokenizer(folder, encoder)
    facts = _facts(folder, config, codec, tokenizer)
    with torch.device("meta"):  # the weights come from the file: no time and memory for a random start
        model = MusicModel(facts.model, encoder, tokenizer)
    shapes = {name: value.shape for name, value in model.state_dict().items() if not name.startswith(TEXT_ENCODER)}
    try:
        check_positions(tensors.pop(POSITION_TABLE, None), config)
        add_identities(tensors, config)
        weights = from_hugging_face(tensors, shapes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    model.load_weights(weights)
    return TrainedModel(model.eval(), facts, codec.eval())


def read_hugging_face_codec(folder: Path) -> EncodecModel:
    """The codec in the folder of such a model, on the CPU; the rest of the weights is not read.

    Raises:
        ValueError: the folder holds no MusicGen, or not its codec whole.
    """
    tensors = read_tensors(folder, "audio_encoder.")
    return _part(EncodecModel, read_configuration(folder).audio_encoder, tensors, "audio_encoder.", folder)


def write_hugging_face(trained: TrainedModel, folder: Path) -> None:
    """Write a model into an existing folder, so that `from_pretrained` of transformers' model and processor read it.

    Its numbers are those of this project's: logits agree to rounding for any description, alone or in a batch; with a
    melody, for a description alone (in a batch transformers attends to the padding before the codes).

    Raises:
        ValueError: no codec is given, or not the model's; or a model that transformers' MusicGen cannot be.
    """
    model, facts = trained.model, trained.facts
    if trained.codec is None:
        raise ValueError("expected the codec of the model's codes, which Hugging Face's form holds too, got none")
    codec = trained.codec
    if not isinstance(codec, EncodecModel):
        kind = coder_of(codec).kind
        raise ValueError(f"expected an EnCodec, by which Hugging Face's MusicGen speaks its codes, got {kind}")
    if model.description is None:
        raise ValueError("expected a model that reads descriptions, as Hugging Face's MusicGen does, got one without")
    encoder, tokenizer = model.description.encoder, model.description.tokenizer
    config: Any = configuration_for(facts.model, encoder.config, codec)
    check_codec(facts, config, codec)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(TEXT_ENCODER)}
    tensors = to_hugging_face(weights)
    remove_identities(tensors, config)
    for prefix, part in (("text_encoder.", encoder), ("audio_encoder.", codec)):
        tensors |= {prefix + name: value.detach().cpu().contiguous() for name, value in part.state_dict().items()}
    tensors.pop("text_encoder.encoder.embed_tokens.weight", None)  # the same as `shared`
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    config.save_pretrained(folder)
    special = facts.model.language_model.cardinality
    GenerationConfig(
        bos_token_id=special,
        decoder_start_token_id=special,
        pad_token_id=special,
        do_sample=True,
        guidance_scale=GUIDANCE,
        top_k=TOP_K,
        max_length=round(facts.segment_seconds * facts.frame_rate),
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _feature_extractor(config, facts).save_pretrained(folder)


def _part(kind: Any, config: Any, tensors: dict[str, Tensor], prefix: str, folder: Path) -> Any:
    """One of the networks inside, from the tensors under `prefix`, which are taken out."""
    names = [name for name in tensors if name.startswith(prefix)]
    state = {name.removeprefix(prefix): tensors.pop(name) for name in names}
    try:
        network, report = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"expected the weights of {prefix[:-1]} in {folder}, got {error}") from error
    missing, unknown = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or unknown:
        raise ValueError(
            f"expected the weights of {prefix[:-1]} in {folder}, got {missing} missing and {unknown} unknown"
        )
    return network


def _tokenizer(folder: Path, encoder: T5EncoderModel) -> PreTrainedTokenizerBase:
    """The tokenizer; code that the folder might bring for it is never run."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        # Without this, transformers gives an empty one and no error.
        raise ValueError(f"expected a tokenizer in {folder} ({' or '.join(VOCABULARIES)}), got none")
    try:
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a tokenizer in {folder}, got {error}") from error
    if len(tokenizer) > encoder.config.vocab_size:
        raise ValueError(
            f"expected a tokenizer of at most the {encoder.config.vocab_size} tokens of the text encoder in {folder}, "
            f"got {len(tokenizer)}"
        )
    return tokenizer


def _facts(
    folder: Path, config: HuggingFaceConfig, codec: EncodecModel, tokenizer: PreTrainedTokenizerBase
) -> CheckpointFacts:
    """What the folder says of its model."""
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    decoder: Any = config.decoder
    start = generation.get("decoder_start_token_id", decoder.pad_token_id)
    if start != decoder.vocab_size:
        raise ValueError(
            f"expected decoding in {folder} to start from token {decoder.vocab_size}, the one after the codes, "
            f"got {start}"
        )
    check_fit(folder, decoder, codec)
    stereo = decoder.audio_channels == 2
    sound: Any = codec.config
    frame_rate = sound.sampling_rate / sound.hop_length
    longest = generation.get("max_length")
    if longest is not None and (not isinstance(longest, int) or longest < 1):
        raise ValueError(f"expected a max_length of 1 step or more in {folder / GENERATION}, got {longest!r}")
    return CheckpointFacts(
        model=model_configuration(config, _melody_rate(folder), min(tokenizer.model_max_length, MAX_TOKENS)),
        frame_rate=frame_rate,
        segment_seconds=longest / frame_rate if longest else SEGMENT_SECONDS,
        text_encoder=None,
        text_encoder_digest=None,
        codec=CodecFacts(
            reference=None,
            identity=codebook_identity(codec, decoder.num_codebooks // decoder.audio_channels),
            sample_rate=sound.sampling_rate,
            frame_rate=frame_rate,
            codebooks=decoder.num_codebooks,
            cardinality=decoder.vocab_size,
            channels=2 if stereo else sound.audio_channels,
        ),
    )


def _melody_rate(folder: Path) -> float:
    """Frames a second of a melody as the folder's feature extractor makes them, wherever that is described."""
    features: dict[str, Any] = {}
    if (folder / FEATURES).is_file():
        features = read_json(folder / FEATURES)
    elif (folder / PROCESSOR).is_file():
        features = read_json(folder / PROCESSOR).get("feature_extractor", {})
    if features.get("feature_extractor_type") != MusicgenMelodyFeatureExtractor.__name__:
        return MELODY_RATE
    rate, hop = features.get("sampling_rate"), features.get("hop_length")
    if not (isinstance(rate, int) and isinstance(hop, int) and rate > 0 and hop > 0):
        raise ValueError(f"expected a feature extractor with sampling_rate and hop_length in {folder}, got {features}")
    return rate / hop


def _feature_extractor(
    config: HuggingFaceConfig, facts: CheckpointFacts
) -> EncodecFeatureExtractor | MusicgenMelodyFeatureExtractor:
    """What makes melodies, or sound to go on from, of waveforms."""
    if isinstance(config, MusicgenMelodyConfig):
        return MusicgenMelodyFeatureExtractor(chunk_length=math.ceil(facts.segment_seconds))
    decoder: Any = config.decoder
    sound: Any = config.audio_encoder
    return EncodecFeatureExtractor(
        feature_size=2 if decoder.audio_channels == 2 else sound.audio_channels,
        sampling_rate=sound.sampling_rate,
        chunk_length_s=sound.chunk_length_s,
        overlap=sound.overlap,
        padding_side="left",
    )
