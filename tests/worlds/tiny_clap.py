"""A small CLAP of random weights, in the files that transformers reads."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

from tests.worlds.tiny_models import WORDS


def clap_folder(folder: Path, width: int) -> Path:
    """Write a CLAP whose embeddings have `width` numbers, at 16 kHz with windows of 10 s."""
    vocabulary = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    extractor = ClapFeatureExtractor(
        feature_size=64,
        sampling_rate=16_000,
        hop_length=640,
        max_length_s=10,
        fft_window_size=1024,
        frequency_min=50,
        frequency_max=8_000,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    extractor.save_pretrained(folder)
    torch.manual_seed(3)
    text = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    audio: dict[str, Any] = {"spec_size": 128, "num_mel_bins": 64, "patch_embeds_hidden_size": 16, "hidden_size": 64}
    audio |= {"depths": [1, 1, 1], "num_attention_heads": [2, 4, 8], "num_classes": 2}
    config = ClapConfig(
        text_config=text | {"intermediate_size": 32, "max_position_embeddings": 80},
        audio_config=audio,
        projection_dim=width,
    )
    network = ClapModel(config)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.mul_(5.0)  # otherwise the last layers hardly depend on the input
    network.save_pretrained(folder)
    return folder
