"""Random weights in the forms and sizes of the published ones: MusicGen, and what lies around it.

Sizes are those of the files that facebook/musicgen-*, facebook/encodec_32khz and google-t5/t5-base have on the hub, of
Demucs' htdemucs and of LAION's music_audioset_epoch_15_esc_90.14. The words of vocabularies are this project's.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from demucs.htdemucs import HTDemucs
from safetensors.torch import load_file, save_file
from transformers import (
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    GenerationConfig,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
)

from stages.checkpoints.audiocraft.checkpoint import write_audiocraft
from stages.checkpoints.huggingface.checkpoint import read_hugging_face
from stages.checkpoints.precision import Precision, StoredType
from stages.demo.separator import save_separator
from stages.demo.text_encoder import ROBERTA_TOKENS, T5_TOKENS, compose_captions, learn_vocabulary

CARDINALITY, SAMPLE_RATE, WINDOW = 2048, 32_000, 1500
"""Codes of a codebook, Hz, and frames of a training window: 30 s at 50 a second."""


@dataclass(frozen=True)
class Size:
    """What differs between the published models."""

    width: int
    layers: int
    heads: int
    melody: bool = False
    stereo: bool = False

    @property
    def codebooks(self) -> int:
        return 8 if self.stereo else 4


SIZES = {
    "musicgen-small": Size(1024, 24, 16),
    "musicgen-medium": Size(1536, 48, 24),
    "musicgen-melody": Size(1536, 48, 24, melody=True),
    "musicgen-stereo-small": Size(1024, 24, 16, stereo=True),
}


def write_hugging_face_form(name: str, folder: Path, dtype: StoredType, shard: str = "50GB") -> Path:
    """Write a model as its repository on the hub has it: `shard` is the most that a file of weights holds. All numbers
    are those of half precision, whatever they are written as, so that each form of a model is the same model."""
    size = SIZES[name]
    decoder = {
        **{"vocab_size": CARDINALITY, "pad_token_id": CARDINALITY, "bos_token_id": CARDINALITY},
        **{"hidden_size": size.width, "num_hidden_layers": size.layers, "num_attention_heads": size.heads},
        **{"ffn_dim": 4 * size.width, "num_codebooks": size.codebooks, "audio_channels": 2 if size.stereo else 1},
    }
    parts: dict[str, Any] = {
        "text_encoder": _t5_config().to_dict(),
        "audio_encoder": codec_config().to_dict(),
        "decoder": decoder,
    }
    torch.manual_seed(0)
    model: Any
    if size.melody:
        model = MusicgenMelodyForConditionalGeneration(MusicgenMelodyConfig(**parts, num_chroma=12, chroma_length=235))
    else:
        model = MusicgenForConditionalGeneration(MusicgenConfig(**parts))
    _fill_codebooks(model.audio_encoder)
    model.half().to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    GenerationConfig(
        **{"bos_token_id": CARDINALITY, "pad_token_id": CARDINALITY, "decoder_start_token_id": CARDINALITY},
        **{"do_sample": True, "guidance_scale": 3.0, "max_length": WINDOW},
    ).save_pretrained(folder)
    _t5_vocabulary().save_pretrained(folder)
    if size.melody:
        MusicgenMelodyFeatureExtractor(chunk_length=30).save_pretrained(folder)
    else:
        channels = 2 if size.stereo else 1
        EncodecFeatureExtractor(channels, SAMPLE_RATE, padding_side="left").save_pretrained(folder)
    return folder


def write_audiocraft_form(hugging_face: Path, folder: Path, dtype: StoredType = "float16") -> Path:
    """Write the model of a folder of `write_hugging_face_form` as AudioCraft publishes it: weights in half precision
    and the codec, with the text encoder by its name."""
    trained = read_hugging_face(hugging_face)
    facts = trained.facts.model_copy(update={"text_encoder": "t5-base"})
    folder.mkdir()
    write_audiocraft(replace(trained, facts=facts), folder, Precision(dtype, rounds=True))
    return folder


def write_text_encoder(hugging_face: Path, folder: Path) -> Path:
    """Write the text encoder of a folder of `write_hugging_face_form` as google-t5/t5-base is written."""
    tensors = {
        name.removeprefix("text_encoder."): value.float()
        for file in hugging_face.glob("*.safetensors")
        for name, value in load_file(file).items()
        if name.startswith("text_encoder.")
    }
    _t5_config().save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _t5_vocabulary().save_pretrained(folder)
    T5EncoderModel.from_pretrained(folder)  # which finds every weight that it needs
    return folder


def write_codec(folder: Path) -> Path:
    """Write facebook/encodec_32khz."""
    torch.manual_seed(1)
    network: Any = EncodecModel(codec_config())
    _fill_codebooks(network)
    network.save_pretrained(folder)
    return folder


def write_separator(folder: Path) -> Path:
    """Write htdemucs: four stems, 48 channels, segments of 7.8 s, a transformer of 512 channels."""
    folder.mkdir()
    torch.manual_seed(2)
    network = HTDemucs(
        ["drums", "bass", "other", "vocals"], bottom_channels=512, segment=7.8, t_layers=5, t_sparse_self_attn=False
    )
    save_separator(network, folder)
    return folder


def write_clap(folder: Path) -> Path:
    """Write LAION's CLAP for music, HTSAT-base with RoBERTa-base, and a vocabulary beside it; return the checkpoint."""
    from stages.networks import clap

    text = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    with clap._no_downloads(text):
        torch.manual_seed(3)
        from laion_clap.hook import create_model

        network, _ = create_model("HTSAT-base", "roberta", precision="fp32", device=torch.device("cpu"))
    folder.mkdir()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"epoch": 15, "name": "music", "state_dict": state}, folder / "music.pt")
    learn_vocabulary(compose_captions(0), 2_000, ROBERTA_TOKENS).save_pretrained(folder)
    return folder / "music.pt"


def codec_config() -> EncodecConfig:
    """The configuration of facebook/encodec_32khz."""
    sizes: dict[str, Any] = {
        **{"sampling_rate": SAMPLE_RATE, "audio_channels": 1, "normalize": False, "target_bandwidths": [2.2]},
        **{"num_filters": 64, "num_residual_layers": 1, "upsampling_ratios": [8, 5, 4, 4], "num_lstm_layers": 2},
        **{"codebook_size": CARDINALITY, "codebook_dim": 128, "hidden_size": 128},
        **{"use_causal_conv": False, "use_conv_shortcut": False},
    }
    return EncodecConfig(**sizes)


def _fill_codebooks(network: Any) -> None:
    """Give a codec's codebooks entries, which transformers leaves at zero."""
    with torch.no_grad():
        for layer in network.quantizer.layers:
            layer.codebook.embed.normal_()


def _t5_config() -> T5Config:
    sizes: dict[str, Any] = {
        **{"vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
        **{"feed_forward_proj": "relu", "pad_token_id": 0, "eos_token_id": 1},
    }
    return T5Config(**sizes)


def _t5_vocabulary() -> Any:
    return learn_vocabulary(compose_captions(0), 2_000, T5_TOKENS)
