"""A small T5 encoder (Raffel et al., arXiv:1910.10683), and vocabularies learned from captions.

The encoder's weights are random. It learns together with the language model, whose configuration must therefore say
that the encoder is fine-tuned. The vocabularies are byte-level BPE (Sennrich et al., arXiv:1508.07909), so that any
text can be encoded. They are small because captions of one kind use few words."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from model.optim.train_state import step_seed
from stages.checkpoints.disk_errors import disk_errors
from stages.demo.config import TextEncoderConfig
from stages.demo.synthesis import caption, compose
from stages.demo.synthesis.captions import TEMPLATES
from stages.demo.training import FIRST_INDEX, seeded
from stages.networks.clap import LONGEST_TEXT
from stages.networks.loading import save_network

CAPTIONED_PIECES = 500
"""Number of pieces whose captions make a vocabulary: enough for every key, tempo, instrument and mood."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a model family in the order of their ids, and those before and after a text."""

    tokens: tuple[str, ...]
    before: str | None
    after: str


ROBERTA_TOKENS = SpecialTokens(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "<s>", "</s>")
T5_TOKENS = SpecialTokens(("<pad>", "</s>", "<unk>"), None, "</s>")


@disk_errors()
def save_text_encoder(config: TextEncoderConfig, seed: int, folder: Path) -> int:
    """Write a folder that `T5EncoderModel` and `AutoTokenizer` read, and return the encoder's number of parameters.

    Raises:
        ValueError: the width is not a multiple of the number of heads.
    """
    if config.width % config.heads:
        raise ValueError(f"expected a width that {config.heads} heads divide, got {config.width}")
    tokenizer = learn_vocabulary(compose_captions(seed), config.vocabulary, T5_TOKENS)
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
    with seeded(step_seed(seed, 0)):
        model = T5EncoderModel(sizes)
    save_network(model, folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def compose_captions(seed: int) -> Iterable[str]:
    """Compose many pieces, and yield a caption of every kind about each."""
    for index in range(CAPTIONED_PIECES):
        piece = compose(seed, FIRST_INDEX + index)
        for variant in range(len(TEMPLATES)):
            yield caption(piece, variant)


def learn_vocabulary(captions: Iterable[str], size: int, special: SpecialTokens) -> PreTrainedTokenizerFast:
    """Return a tokenizer that, once saved, `AutoTokenizer.from_pretrained` reads. Text becomes lower case.

    Args:
        captions: texts to learn from.
        size: largest number of tokens; the 256 bytes and the special tokens are always included.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(special.tokens),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    around = [token for token in (special.before, special.after) if token]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special.before + ' ' if special.before else ''}$A {special.after}",
        special_tokens=[(token, special.tokens.index(token)) for token in around],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special.before,
        eos_token=special.after,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=LONGEST_TEXT,
    )
