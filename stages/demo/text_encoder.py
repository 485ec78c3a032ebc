"""A small T5 encoder (Raffel et al., arXiv:1910.10683) with a vocabulary learned from captions.

Its weights are random: it learns together with the language model, which must be told to fine-tune it."""

from pathlib import Path

import torch
from transformers import T5Config, T5EncoderModel

from model.optim.train_state import step_seed
from stages.demo.config import TextEncoderConfig
from stages.demo.vocabulary import T5, captions_of, learn_vocabulary


def save_text_encoder(config: TextEncoderConfig, seed: int, folder: Path) -> int:
    """Write a folder that `T5EncoderModel` and `AutoTokenizer` read; gives the number of its parameters.

    Raises:
        ValueError: the width cannot be divided among the heads.
    """
    if config.width % config.heads:
        raise ValueError(f"expected a width that {config.heads} heads divide, got {config.width}")
    tokenizer = learn_vocabulary(captions_of(seed), config.vocabulary, T5)
    sizes = T5Config(
        vocab_size=len(tokenizer),
        d_model=config.width,
        d_kv=config.width // config.heads,
        d_ff=2 * config.width,
        num_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        model = T5EncoderModel(sizes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
