"""A music model small enough for tests, with everything a real one has: text, melody and joint embedding."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from model.conditioning.config import ClapConfig, MelodyConfig, MusicModelConfig, TextConfig
from model.lm.config import LanguageModelConfig
from model.music_model import MusicModel

WORDS = ["<pad>", "</s>", "<unk>", "calm", "piano", "at", "night", "drums", "loud", "fast", "bass", "in", "C", "minor"]
WORDS += ["with", "strings", "and"]
CLAP_WIDTH = 8


def tokenizer() -> PreTrainedTokenizerFast:
    """A vocabulary of a dozen words, with an end token like T5's."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def text_encoder() -> T5EncoderModel:
    torch.manual_seed(5)
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=len(WORDS), dropout_rate=0.1)
    return T5EncoderModel(config)


def config(finetune: bool = False, **language: object) -> MusicModelConfig:
    sizes = {"codebooks": 3, "cardinality": 24, "width": 32, "heads": 4, "layers": 2}
    fusions = {"cross": ("description", "clap"), "prepend": ("chroma",)}
    return MusicModelConfig(
        language_model=LanguageModelConfig.model_validate(sizes | fusions | language),
        description=TextConfig(width=16, finetune=finetune),
        chroma=MelodyConfig(frames=6),
        clap=ClapConfig(width=CLAP_WIDTH),
    )


def music_model(settings: MusicModelConfig | None = None, seed: int = 0) -> MusicModel:
    encoder = text_encoder()
    torch.manual_seed(seed)
    return MusicModel(settings or config(), encoder, tokenizer()).eval()


def melody(*classes: int) -> torch.Tensor:
    """A one-hot chroma [F, 12]."""
    return F.one_hot(torch.tensor(classes), 12).float()


def random_codes(batch: int, frames: int, seed: int = 0, codebooks: int = 3, cardinality: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(cardinality, (batch, codebooks, frames), generator=generator)
