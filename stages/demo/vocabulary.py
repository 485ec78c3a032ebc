"""Vocabularies out of captions: byte-level BPE (Sennrich et al., arXiv:1508.07909), so that every text can be written
in it, small because captions of one kind use few words."""

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from stages.demo.music import FIRST_INDEX
from stages.demo.synthesis import caption, compose
from stages.demo.synthesis.captions import TEMPLATES

CAPTIONED_PIECES = 500
"""Pieces whose captions make a vocabulary: enough for every key, tempo, instrument and mood."""

LONGEST_TEXT = 77
"""Tokens; as CLAP's text side (arXiv:2211.06687, 2.2)."""


@dataclass(frozen=True)
class Marks:
    """The special tokens of a model family in the order of their ids, and the ids that are put around a text."""

    tokens: tuple[str, ...]
    before: str | None
    after: str


ROBERTA = Marks(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "<s>", "</s>")
T5 = Marks(("<pad>", "</s>", "<unk>"), None, "</s>")


def captions_of(seed: int) -> Iterable[str]:
    """Every kind of sentence about many pieces."""
    for index in range(CAPTIONED_PIECES):
        piece = compose(seed, FIRST_INDEX + index)
        for variant in range(len(TEMPLATES)):
            yield caption(piece, variant)


def learn_vocabulary(captions: Iterable[str], size: int, marks: Marks) -> PreTrainedTokenizerFast:
    """A tokenizer that `AutoTokenizer.from_pretrained` reads once it is saved. Case is not kept.

    Args:
        captions: what it is learned from.
        size: largest number of tokens; the 256 bytes and the marks are always among them.
        marks: the special tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(marks.tokens),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    around = [mark for mark in (marks.before, marks.after) if mark]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{marks.before + ' ' if marks.before else ''}$A {marks.after}",
        special_tokens=[(mark, marks.tokens.index(mark)) for mark in around],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=marks.before,
        eos_token=marks.after,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=LONGEST_TEXT,
    )
