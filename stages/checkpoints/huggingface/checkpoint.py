"""MusicGen in Hugging Face's form, read and written: a folder that holds all of a model.

```
config.json              text encoder, codec and decoder, of `MusicgenForConditionalGeneration` or, with a melody
                         before the codes, `MusicgenMelodyForConditionalGeneration`
model.safetensors        the weights of all three, and the projections between them
generation_config.json   how transformers generates unless told otherwise
tokenizer*, preprocessor_config.json    what its processor reads
```

A folder is read without transformers' own loader of such models: its tensors are read by name, and no code in the files
is run. The tensors are in one file, or in several with an index, as safetensors or, in older folders, as PyTorch's
pickles, which are read by the restricted unpickler. Tensors that are missing, unknown or of another shape, and parts
that do not fit together, are refused.

The form does not state the length of the training windows. Published folders imply it by the longest sequence that they
generate, `max_length` = seconds * frame rate (1500 for 30 s), and so do the folders written here.
"""

import json
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

from model.codec.codec import coder_of
from model.conditioning.config import ChromaConfig
from model.lm.positions import position_table
from model.music_model import MusicModel
from stages.checkpoints.disk_errors import disk_errors
from stages.checkpoints.facts import DISTILLED, CheckpointFacts, ModelDescription
from stages.checkpoints.huggingface.configuration import (
    HuggingFaceConfig,
    config_from_hugging_face,
    config_to_hugging_face,
    read_hugging_face_config,
    read_json_object,
)
from stages.checkpoints.huggingface.names import (
    POSITION_TABLE,
    add_identities,
    remove_identities,
    weights_from_hugging_face,
    weights_to_hugging_face,
)
from stages.checkpoints.native import TrainedModel, check_codec, describe_codec
from stages.checkpoints.precision import Precision
from stages.networks.loading import floats_of, load_pickle, load_tokenizer, read_safetensors, without_bars

SAFETENSORS = "model.safetensors"
WEIGHT_FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files that may hold the weights; if there are several, the first of this list counts."""
GENERATION, FEATURES, PROCESSOR = "generation_config.json", "preprocessor_config.json", "processor_config.json"
SEGMENT_SECONDS, MAX_TOKENS = 30.0, 512
"""Values of the published models, for folders that do not state them: training windows in seconds, and tokens of a
description."""
GUIDANCE, TOP_K = 3.0, 250
"""Guidance coefficient and top-k that MusicGen generates with (arXiv:2306.05284, 3.1)."""
TEXT_ENCODER = "description.encoder."
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
"""Files of T5's tokenizer; one of them is enough."""
POSITION_PERIOD = 10_000.0
"""Longest period of transformers' sinusoids, steps / 2π."""


def read_hugging_face(folder: Path) -> TrainedModel:
    """Read the model in a local folder, with its codec, on the CPU in evaluation mode and float32.

    Raises:
        ValueError: the folder holds no MusicGen, one that lacks a part, or one whose parts do not fit together.
    """
    config = read_hugging_face_config(folder)
    tensors = _read_tensors(folder)
    codec = _take_network(EncodecModel, config.audio_encoder, tensors, "audio_encoder.", folder)
    encoder = _take_network(T5EncoderModel, config.text_encoder, tensors, "text_encoder.", folder)
    tokenizer = _read_tokenizer(folder, encoder)
    facts = _read_facts(folder, config, codec, tokenizer)
    with torch.device("meta"):  # the weights come from the file; this saves a random start
        model = MusicModel(facts.model, encoder, tokenizer)
    shapes = {name: value.shape for name, value in model.state_dict().items() if not name.startswith(TEXT_ENCODER)}
    try:
        _check_positions(tensors.pop(POSITION_TABLE, None), config)
        add_identities(tensors, config)
        weights = weights_from_hugging_face(tensors, shapes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    model.load_weights(weights)
    return TrainedModel(model.eval(), facts, codec.eval())


def describe_hugging_face(folder: Path) -> ModelDescription:
    """Read what the model in a local folder is, without its weights.

    Raises:
        ValueError: the folder holds no MusicGen.
    """
    config = read_hugging_face_config(folder)
    decoder: Any = config.decoder
    sound: Any = config.audio_encoder
    frame_rate = sound.sampling_rate / math.prod(sound.upsampling_ratios)
    return ModelDescription(
        model=config_from_hugging_face(config, _melody_rate(folder), MAX_TOKENS),
        segment_seconds=_segment_seconds(folder, _generation_settings(folder), frame_rate),
        channels=2 if decoder.audio_channels == 2 else sound.audio_channels,
    )


def read_hugging_face_codec(folder: Path) -> EncodecModel:
    """Read the codec in the folder of such a model, on the CPU. Other weights are not read.

    Raises:
        ValueError: the folder holds no MusicGen, or its codec is not complete.
    """
    tensors = _read_tensors(folder, "audio_encoder.")
    codec: EncodecModel = _take_network(
        EncodecModel, read_hugging_face_config(folder).audio_encoder, tensors, "audio_encoder.", folder
    )
    return codec


@disk_errors()
def write_hugging_face(trained: TrainedModel, folder: Path, precision: Precision = Precision()) -> None:
    """Write a model into an existing folder, so that `from_pretrained` of transformers' model and processor read it.

    Its logits agree with this project's up to rounding: without a melody for any description, alone or in a batch; with
    a melody only outside of batches, where transformers attends to the padding before the codes.

    Raises:
        ValueError: no codec is given, or not the model's; or the model has a feature that transformers' MusicGen lacks.
    """
    model, facts = trained.model, trained.facts
    if trained.codec is None:
        raise ValueError("expected a codec to write with the model, as Hugging Face's form includes it, got none")
    codec = trained.codec
    if not isinstance(codec, EncodecModel):
        kind = coder_of(codec).kind
        raise ValueError(f"expected an EnCodec, the only codec of Hugging Face's MusicGen, got {kind}")
    if model.description is None:
        raise ValueError("expected a model that reads descriptions, as Hugging Face's MusicGen does, got one without")
    encoder, tokenizer = model.description.encoder, model.description.tokenizer
    config: Any = config_to_hugging_face(facts.model, encoder.config, codec)
    _check_written_codec(facts, config, codec)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(TEXT_ENCODER)}
    tensors = weights_to_hugging_face(weights)
    remove_identities(tensors, config)
    for prefix, network in (("text_encoder.", encoder), ("audio_encoder.", codec)):
        tensors |= {prefix + name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    tensors.pop("text_encoder.encoder.embed_tokens.weight", None)  # the same as `shared`
    save_file(precision.of(tensors), folder / SAFETENSORS, metadata={"format": "pt"})
    config.dtype = precision.stored
    config.save_pretrained(folder)
    special = facts.model.language_model.cardinality
    GenerationConfig(
        bos_token_id=special,
        decoder_start_token_id=special,
        pad_token_id=special,
        do_sample=True,
        guidance_scale=GUIDANCE if facts.distilled_guidance is None else 1.0,
        **({} if facts.distilled_guidance is None else {DISTILLED: facts.distilled_guidance}),
        top_k=TOP_K,
        max_length=round(facts.segment_seconds * facts.frame_rate),
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _feature_extractor(config, facts).save_pretrained(folder)


def _read_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read all tensors whose names begin with `prefix`, by name, on the CPU; floating-point tensors as float32.

    Raises:
        ValueError: there are none, or a file is missing, damaged, or holds something other than tensors.
    """
    weights_file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights_file is None:
        raise ValueError(f"expected weights in {folder} ({', '.join(WEIGHT_FILES)}), got none")
    tensors: dict[str, Tensor] = {}
    for file in _indexed_files(weights_file) if weights_file.suffix == ".json" else [weights_file]:
        tensors |= _read_tensor_file(file, prefix)
    return tensors


def _indexed_files(index: Path) -> list[Path]:
    """Return the files that an index names, which must all be beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"expected an index with a weight_map in {index}, got {error}") from error
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ValueError(f"expected every file that {index} names in its folder, got none named {name!r}")
    return [index.parent / name for name in names]


def _read_tensor_file(file: Path, prefix: str) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_safetensors(file, prefix)
    tensors = load_pickle(file, mapped=False)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f"expected tensors by name in {file}, got something else")
    return floats_of({name: tensors.pop(name) for name in [*tensors] if name.startswith(prefix)})


def _take_network(network_class: Any, config: Any, tensors: dict[str, Tensor], prefix: str, folder: Path) -> Any:
    """Build one of the networks in a checkpoint from the tensors under `prefix`, and remove these from `tensors`."""
    names = [name for name in tensors if name.startswith(prefix)]
    state = {name.removeprefix(prefix): tensors.pop(name) for name in names}
    try:
        with without_bars():
            network, report = network_class.from_pretrained(
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


def _read_tokenizer(folder: Path, encoder: T5EncoderModel) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        # transformers would return an empty tokenizer and raise no error.
        raise ValueError(f"expected a tokenizer in {folder} ({' or '.join(TOKENIZER_FILES)}), got none")
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


def _read_facts(
    folder: Path, config: HuggingFaceConfig, codec: EncodecModel, tokenizer: PreTrainedTokenizerBase
) -> CheckpointFacts:
    """Read the facts that the folder states of its model."""
    generation = _generation_settings(folder)
    decoder: Any = config.decoder
    start = generation.get("decoder_start_token_id", decoder.pad_token_id)
    if start != decoder.vocab_size:
        raise ValueError(
            f"expected decoding in {folder} to start from token {decoder.vocab_size}, the one after the codes, "
            f"got {start}"
        )
    _check_decoder_and_codec(folder, decoder, codec)
    sound: Any = codec.config
    channels = 2 if decoder.audio_channels == 2 else sound.audio_channels
    codec_facts = describe_codec(codec, decoder.num_codebooks, channels)
    return CheckpointFacts(
        model=config_from_hugging_face(config, _melody_rate(folder), min(tokenizer.model_max_length, MAX_TOKENS)),
        frame_rate=codec_facts.frame_rate,
        segment_seconds=_segment_seconds(folder, generation, codec_facts.frame_rate),
        text_encoder=None,
        text_encoder_digest=None,
        codec=codec_facts,
        distilled_guidance=generation.get(DISTILLED),
    )


def _generation_settings(folder: Path) -> dict[str, Any]:
    """Read the settings that transformers generates with; empty where the folder has none."""
    return read_json_object(folder / GENERATION) if (folder / GENERATION).is_file() else {}


def _segment_seconds(folder: Path, generation: dict[str, Any], frame_rate: float) -> float:
    """Return the length of the windows that a model was trained on, seconds: that of the longest sequence that the
    folder's settings generate."""
    longest = generation.get("max_length")
    if longest is not None and (not isinstance(longest, int) or longest < 1):
        raise ValueError(f"expected a max_length of 1 step or more in {folder / GENERATION}, got {longest!r}")
    return longest / frame_rate if longest else SEGMENT_SECONDS


def _melody_rate(folder: Path) -> float:
    """Return the frames of a melody a second, from the folder's feature extractor, in whichever file it is
    described."""
    features: dict[str, Any] = {}
    if (folder / FEATURES).is_file():
        features = read_json_object(folder / FEATURES)
    elif (folder / PROCESSOR).is_file():
        features = read_json_object(folder / PROCESSOR).get("feature_extractor", {})
    if features.get("feature_extractor_type") != MusicgenMelodyFeatureExtractor.__name__:
        return ChromaConfig().frame_rate
    rate, hop = features.get("sampling_rate"), features.get("hop_length")
    if not (isinstance(rate, int) and isinstance(hop, int) and rate > 0 and hop > 0):
        raise ValueError(f"expected a feature extractor with sampling_rate and hop_length in {folder}, got {features}")
    return rate / hop


def _feature_extractor(
    config: HuggingFaceConfig, facts: CheckpointFacts
) -> EncodecFeatureExtractor | MusicgenMelodyFeatureExtractor:
    """Return the feature extractor that turns waveforms into melodies or, without melodies, into prompts."""
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


def _check_decoder_and_codec(where: object, decoder: Any, codec: EncodecModel) -> None:
    """Raise ValueError unless a decoder's codes are the codec's."""
    config: Any = codec.config
    levels, rest = divmod(decoder.num_codebooks, decoder.audio_channels)
    if rest:
        raise ValueError(
            f"expected an even num_codebooks for the stereo decoder in {where}, got {decoder.num_codebooks}"
        )
    if levels > config.num_quantizers:
        raise ValueError(
            f"expected a codec of at least {levels} codebooks, as the decoder in {where} uses, "
            f"got {config.num_quantizers}"
        )
    if decoder.vocab_size != config.codebook_size:
        raise ValueError(
            f"expected a codec of cardinality {decoder.vocab_size}, as the decoder in {where} uses, "
            f"got {config.codebook_size}"
        )
    if decoder.audio_channels == 2 and config.audio_channels != 1:
        raise ValueError(
            f"expected a mono codec for each channel of the stereo decoder in {where}, "
            f"got one of {config.audio_channels} channels"
        )


def _check_positions(table: Tensor | None, config: HuggingFaceConfig) -> None:
    """Raise ValueError if a table of sinusoids among the weights is not the one that the model computes."""
    if table is None:
        return
    decoder: Any = config.decoder
    wanted = position_table(len(table), decoder.hidden_size, POSITION_PERIOD, table.device)
    # The phases of far positions differ in their last bits, because transformers rounds the frequencies differently.
    if table.shape != wanted.shape or not torch.allclose(table, wanted, rtol=0, atol=1e-3):
        raise ValueError(
            f"expected {POSITION_TABLE} to be sinusoids of period {POSITION_PERIOD:.0f}, got another table"
        )


def _check_written_codec(facts: CheckpointFacts, config: HuggingFaceConfig, codec: EncodecModel) -> None:
    """Raise ValueError unless the codec is the one of the model's codes, in the form that is written."""
    _check_decoder_and_codec("the model", config.decoder, codec)
    if facts.codec is not None:
        check_codec(codec, facts.codec, "the model")
    if facts.frame_rate != (rate := coder_of(codec).frame_rate):
        raise ValueError(f"expected a codec of {facts.frame_rate} frames a second, got {rate}")
    with torch.device("meta"):
        wanted = set(EncodecModel(codec.config).state_dict())
    if wanted != set(codec.state_dict()):
        raise ValueError("expected a codec as transformers loads it, got one whose weight norm is folded in")
