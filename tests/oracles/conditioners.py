"""AudioCraft's conditioners: chroma, labels, words, text, joint embeddings, and dropout of conditions."""

from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from pack import Facts, Pack, Packs, put
from torch import Tensor


def make_chroma(pack: Pack, packs: Packs) -> None:
    """Extract melodies, and condition on them, with the mix in place of its stems."""
    from audiocraft.modules.chroma import ChromaExtractor
    from audiocraft.modules.conditioners import ChromaStemConditioner, WavCondition

    wav, short = pack.given("wav"), pack.given("wav_short")
    null, silence = torch.zeros(1, 1), torch.zeros(1, 16_384)
    for name, argmax in (("raw", False), ("argmax", True)):
        extract = ChromaExtractor(32_000, 12, 14, argmax=argmax)
        put(pack, name, chroma=extract(wav), chroma_short=extract(short))
        put(pack, name, chroma_null=extract(null), chroma_silence=extract(silence))
        pack.put(fbanks_nonzero_sum=extract.fbanks.sum(1))
    pack.put(raw_r12__chroma=ChromaExtractor(32_000, 12, 12)(wav))
    pack.put(argmax_sr16k_hop1000__chroma=ChromaExtractor(16_000, 12, 12, winhop=1000, argmax=True)(wav))

    def condition(wavs: Tensor, lengths: list[int]) -> WavCondition:
        rows = len(lengths)
        return WavCondition(wavs, torch.tensor(lengths), [32_000] * rows, [None] * rows, [None] * rows)

    half = F.pad(wav[:, : wav.shape[-1] // 2], (0, wav.shape[-1] // 2))
    frames, half_frames = wav.shape[-1], wav.shape[-1] // 2
    separator = mock.Mock(sources=["drums", "bass", "other", "vocals"])
    separator.to.return_value = separator
    for match in (False, True):
        with mock.patch("demucs.pretrained.get_model", return_value=separator):
            conditioner = ChromaStemConditioner(24, 32_000, 12, 14, 4.0, match_len_on_eval=match, argmax=True)
        conditioner.eval()._get_stemmed_wav = lambda mix, rate: mix
        weights = {n: pack.given(f"cond.output_proj.{n}") for n in ("weight", "bias")}
        conditioner.output_proj.load_state_dict(weights)
        tags = {
            "batch": condition(torch.stack([wav, half]), [frames, half_frames]),
            "null": condition(torch.zeros(1, 1, 1), [0]),
            "with_null": condition(torch.stack([wav, torch.zeros_like(wav)]), [frames, 0]),
        }
        for tag, value in tags.items():
            embedding, mask = conditioner(value)
            put(pack, f"cond.match{int(match)}.{tag}", embed=embedding, mask=mask)
    full = pack.given("chunk.full_chroma")
    for name in [n for n in pack.committed if n.startswith("chunk.seek")]:
        seek, samples = name.removeprefix("chunk.seek").split(".len")
        where = WavCondition(torch.zeros(1, 1, int(samples)), torch.tensor([0]), [32_000], [None], [float(seek)])
        pack.put(**{name: conditioner._extract_chroma_chunk(full, where, 0)})


def make_conditioning(pack: Pack, packs: Packs) -> None:
    """Turn labels, words, text and joint embeddings into vectors, and draw which conditions are dropped."""
    from audiocraft.modules import conditioners as ac
    from audiocraft.utils.utils import hash_trick

    facts = pack.facts
    facts["hash_bins"] = {
        bins: {text: hash_trick(text, int(bins)) for text in texts} for bins, texts in facts["hash_bins"].items()
    }
    projection = {n: pack.given(f"lut.output_proj.{n}") for n in ("weight", "bias")}
    lut = facts["lut"]
    for name, tokenizer, texts in (
        ("lut", "noop", lut["texts_noop"]),
        ("lut_ws", "whitespace", lut["texts_whitespace"]),
    ):
        table = ac.LUTConditioner(lut["n_bins"], lut["dim"], lut["output_dim"], tokenizer, lut["pad_idx"])
        table.embed.load_state_dict({"weight": pack.given("lut.embed.weight")})
        table.output_proj.load_state_dict(projection)
        for key, words in ((name, texts), (f"{name}.allnull", [None, None])):
            tokens, mask = table.tokenize(words)
            put(pack, key, tokens=tokens, mask=mask, out=table((tokens, mask))[0])
    make_text(pack, ac)
    make_joint(pack, ac)
    for name, modules in (("cfg_dropout", None), ("attribute_dropout", facts["attribute_dropout"]["order"])):
        facts[name]["drops_per_call"] = drops(ac, facts[name], modules)


def make_text(pack: Pack, ac: Any) -> None:
    """Run a T5 encoder of random weights over given token ids."""
    from transformers import T5Config, T5EncoderModel

    facts = pack.facts["t5"]
    encoder = T5EncoderModel(T5Config(**facts["config"], feed_forward_proj=facts["feed_forward_proj"]))
    encoder.load_state_dict(pack.given_under("t5.weights."))
    name, width = "t5-small", facts["config"]["d_model"]
    with (
        mock.patch.object(ac.T5Tokenizer, "from_pretrained", return_value=None),
        mock.patch.object(ac.T5EncoderModel, "from_pretrained", return_value=encoder),
        mock.patch.dict(ac.T5Conditioner.MODELS_DIMS, {name: width}),
    ):
        conditioner = ac.T5Conditioner(name, pack.committed["t5.output_proj.bias"].numel(), False, "cpu")
    conditioner.output_proj.load_state_dict({n: pack.given(f"t5.output_proj.{n}") for n in ("weight", "bias")})
    for tag, texts in facts["texts"].items():
        ids = pack.given(f"t5.{tag}.input_ids", redraw=False)

        class Batch(dict):
            """The result type of transformers' tokenizers."""

            def to(self, device: str) -> "Batch":
                return self

        batch = Batch(input_ids=ids, attention_mask=ids.ne(0).long())
        conditioner.t5_tokenizer = lambda entries, batch=batch, **settings: batch
        inputs = conditioner.tokenize(texts)
        embedding, mask = conditioner(inputs)
        put(pack, f"t5.{tag}", attention_mask_after_zeroing=inputs["attention_mask"], out=embedding, out_mask=mask)
        put(pack, f"t5.{tag}", hidden=encoder(**inputs).last_hidden_state)


def make_joint(pack: Pack, ac: Any) -> None:
    """Condition on joint embeddings, quantised and plain."""
    facts = pack.facts["joint"]
    embedding, empty = pack.given("joint.embed"), torch.tensor(facts["empty_idx"])

    class Given(ac.JointEmbeddingConditioner):
        """Joint embeddings that are given directly."""

        def _get_embed(self, x: Any) -> Any:
            return embedding, empty

    for quantize in (True, False):
        width = pack.committed["joint.output_proj.bias"].numel()
        sizes = {"n_q": facts["n_q"], "bins": facts["bins"], "kmeans_init": False}
        conditioner = Given(facts["dim"], width, "cpu", "clap", quantize=quantize, **(sizes if quantize else {}))
        conditioner.output_proj.load_state_dict({n: pack.given(f"joint.output_proj.{n}") for n in ("weight", "bias")})
        conditioner.eval()
        if quantize:
            for level, layer in enumerate(conditioner.quantizer.vq.layers):
                layer._codebook.embed.copy_(pack.given(f"joint.codebook.{level}"))
            result = conditioner.quantizer(embedding.view(-1, facts["dim"], 1), frame_rate=1)
            put(pack, "joint", codes=result.codes, quantized=result.x.view(-1, facts["dim"]))
        out, mask = conditioner(None)
        put(pack, f"joint.quant{int(quantize)}", out=out, mask=mask)


def drops(ac: Any, facts: Facts, order: list[str] | None) -> list[Any]:
    """Return, call by call, what dropout of conditions drops in a batch of one."""
    from audiocraft.modules.conditioners import ConditioningAttributes, WavCondition

    def attributes() -> Any:
        wav = WavCondition(torch.ones(1, 1, 9), torch.tensor([9]), [32_000], [None], [0.0])
        return ConditioningAttributes(text={"description": "a", "genre": "b"}, wav={"self_wav": wav})

    def dropped(sample: Any, name: str) -> bool:
        kind, attribute = name.split(".")
        value = sample[kind][attribute]
        return value is None if kind == "text" else int(value.length[0]) == 0

    if order is None:
        module = ac.ClassifierFreeGuidanceDropout(facts["p"], seed=facts["seed"]).train()
        return [dropped(module([attributes()])[0], "text.genre") for _ in facts["drops_per_call"]]
    module = ac.AttributeDropout(facts["p"], seed=facts["seed"]).train()
    samples = [module([attributes()])[0] for _ in facts["drops_per_call"]]
    return [[dropped(sample, name) for name in order] for sample in samples]
