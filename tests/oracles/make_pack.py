"""Makes packs of reference numbers anew by running AudioCraft 1.3.0, and compares them with the committed ones.

It runs in an environment of its own, which has AudioCraft and not this project:

    uv venv --python 3.11 /tmp/audiocraft
    uv pip install --python /tmp/audiocraft -r tests/oracles/requirements.txt
    uv pip install --python /tmp/audiocraft --no-deps audiocraft==1.3.0
    /tmp/audiocraft/bin/python tests/oracles/make_pack.py /tmp/packs              # computes and compares
    /tmp/audiocraft/bin/python tests/oracles/make_pack.py /tmp/packs --seed 7     # other weights and inputs

Weights, codes and conditions come from the committed packs; with `--seed` they are drawn anew in the same shapes, and
`SEGUE_ORACLES=/tmp/packs` then holds the project to numbers that nobody has seen before. Families that are not named in
`FAMILIES` are copied as they are.
"""

import argparse
import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
TOLERANCE = 2e-5
"""How far a float may lie from the committed one, where it comes from another processor."""

Tensors = dict[str, Tensor]
Facts = dict[str, Any]


class Pack:
    """One pack: its JSON, the tensors that were committed, and those that are computed here."""

    def __init__(self, folder: Path, name: str, seed: int | None) -> None:
        self.name = name
        self.facts: Facts = json.loads((folder / f"{name}.json").read_text())
        self.committed = load_file(folder / f"{name}.safetensors")
        self.computed: Tensors = {}
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def given(self, name: str, redraw: bool = True) -> Tensor:
        """Return an input, taken over into the new pack: the committed one, or another of its shape and spread."""
        if name not in self.computed:
            value = self.committed[name]
            if self.generator is not None and redraw:
                if value.is_floating_point():
                    spread = value.std() if value.numel() > 1 else value.abs().mean()
                    value = value.mean() + spread * torch.randn(value.shape, generator=self.generator)
                elif int(value.max()) > 1:
                    value = torch.randint(0, int(value.max()) + 1, value.shape, generator=self.generator).to(value)
            self.computed[name] = value
        return self.computed[name]

    def given_under(self, prefix: str) -> Tensors:
        """Return all inputs whose names begin with a prefix, without it; tables of rotary positions stay as they are."""
        names = [name for name in self.committed if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.given(name, redraw=".rope." not in name) for name in names}

    def put(self, **tensors: Tensor) -> None:
        """Keep results; `__` in a keyword stands for a dot."""
        for name, value in tensors.items():
            self.computed[name.replace("__", ".")] = value.detach().clone().contiguous()

    def write(self, folder: Path) -> None:
        """Write the pack, in the committed order of names."""
        assert self.computed.keys() == self.committed.keys(), self.computed.keys() ^ self.committed.keys()
        save_file({name: self.computed[name] for name in self.committed}, folder / f"{self.name}.safetensors")
        (folder / f"{self.name}.json").write_text(json.dumps(self.facts, ensure_ascii=False, indent=1) + "\n")


def stand_in_for_what_no_number_depends_on() -> None:
    """Let AudioCraft be imported without PyAV, xformers (its torch backend computes) and spaCy (words by spaces)."""
    for name in ("av", "spacy", "xformers", "xformers.ops"):
        sys.modules[name] = types.ModuleType(name)
    ops: Any = sys.modules["xformers.ops"]
    ops.unbind, ops.memory_efficient_attention = torch.unbind, None
    ops.LowerTriangularMask = type("LowerTriangularMask", (), {})
    setattr(sys.modules["xformers"], "ops", ops)  # noqa: B010

    def words(text: str) -> list[Any]:
        return [types.SimpleNamespace(text=w, lemma_=w, is_stop=False) for w in text.lower().split()]

    setattr(sys.modules["spacy"], "load", lambda language: words)  # noqa: B010


class FixedConditions(nn.Module):
    """A provider of conditions that answers with tensors of a pack, one set a call, in their order."""

    def __init__(self, answers: list[dict[str, tuple[Tensor, Tensor]]]) -> None:
        super().__init__()
        self.answers = list(answers)

    def tokenize(self, attributes: Any) -> Any:
        return attributes

    def forward(self, tokenized: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return self.answers.pop(0)


def pattern_provider(case: Facts, codebooks: int) -> Any:
    """Return AudioCraft's provider of a pattern that a pack names."""
    from audiocraft.modules import codebooks_patterns as patterns

    kinds = {
        "delay": patterns.DelayedPatternProvider,
        "partial_stereo": patterns.DelayedPatternProvider,
        "parallel": patterns.ParallelPatternProvider,
        "unroll": patterns.UnrolledPatternProvider,
        "coarse_first": patterns.CoarseFirstPattern,
        "musiclm": patterns.MusicLMPattern,
    }
    kind = next(provider for name, provider in kinds.items() if case["provider"].startswith(name))
    return kind(codebooks, **case["args"])


def build_model(facts: Facts, case: Facts, weights: Tensors, conditions: list[Any] | None = None) -> Any:
    """Return AudioCraft's language model with the weights and settings of a case."""
    from audiocraft.models.lm import LMModel
    from audiocraft.modules.conditioners import ConditionFuser

    named: dict[str, Facts] = {
        "delay": {"provider": "delay", "args": {"delays": facts["delays"]}},
        "delay[0,0,1,1,2,2,3,3]": {"provider": "delay", "args": {"delays": [0, 0, 1, 1, 2, 2, 3, 3]}},
        "parallel": {"provider": "parallel", "args": {}},
        "unroll": {"provider": "unroll", "args": {}},
        "coarse_first": {"provider": "coarse_first", "args": {}},
        "musiclm(group_by=2)": {"provider": "musiclm", "args": {"group_by": 2}},
    }
    fusions = {how: [] for how in ("sum", "prepend", "cross", "input_interpolate")} | case.get("fuse2cond", {})
    own = ("dim", "num_heads", "num_layers", "hidden_scale", "card", "n_q", "norm", "norm_first", "bias_proj", "bias_ff")
    own += ("bias_attn", "activation", "causal", "positional_embedding", "max_period", "positional_scale", "layer_scale")
    own += ("dropout", "memory_efficient", "cross_attention", "xpos", "qk_layer_norm", "past_context", "custom")
    own += ("kv_repeat",)
    settings = {name: facts[name] for name in own if name in facts} | case.get("overrides", {})
    model = LMModel(
        pattern_provider(named[case.get("pattern", "delay")], settings["n_q"]),
        FixedConditions(conditions or []),
        ConditionFuser(fusions, cross_attention_pos_emb=case.get("cross_attention_pos_emb", False)),
        cfg_coef=3.0,
        **settings,
    )
    model.load_state_dict(weights)
    return model.eval()


def model_of(packs: Callable[[str], Pack], case: Facts, conditions: list[Any] | None = None) -> Any:
    """Return the model of a case that names its pack of weights."""
    pack = packs(case["weights"])
    return build_model(pack.facts["config"], case, pack.given_under(""), conditions)


def make_weights(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Take the weights of a network over."""
    pack.given_under("")


def make_patterns(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Lay codes and logits out by every pattern, and turn them back."""
    for case in pack.facts["cases"]:
        key, special, frames = case["key"], case["special_token"], case["timesteps"]
        pattern = pattern_provider(case, case["n_q"]).get_pattern(frames)
        codes = pack.given(f"{key}.codes", redraw=False)
        case["layout"] = [[[place.t, place.q] for place in step] for step in pattern.layout]
        case["num_sequence_steps"], case["max_delay"] = pattern.num_sequence_steps, pattern.max_delay
        case["first_step_with_timestep"] = [pattern.get_first_step_with_timesteps(t) for t in range(frames)]
        for mode, valid in (("full", False), ("valid", True)):
            sequence, indexes, mask = pattern.build_pattern_sequence(codes, special, keep_only_valid_steps=valid)
            put(pack, f"{key}.{mode}", seq=sequence, seq_indexes=indexes, seq_mask=mask)
            back = pattern.revert_pattern_sequence(sequence, -1, keep_only_valid_steps=valid)
            put(pack, f"{key}.{mode}", **dict(zip(("rev", "rev_indexes", "rev_mask"), back, strict=True)))
            put(pack, f"{key}.{mode}", **logits_turned_back(pattern, case["n_q"], sequence.shape[-1], valid))
        if f"{key}.short.logits_rev" not in pack.committed:
            continue
        short = pattern.build_pattern_sequence(codes, special, keep_only_valid_steps=True)[0].shape[-1] - 1
        put(pack, f"{key}.short", **logits_turned_back(pattern, case["n_q"], short, False))


def logits_turned_back(pattern: Any, codebooks: int, steps: int, valid: bool) -> Tensors:
    """Return what a pattern makes of logits that count upwards."""
    ramp = torch.arange(2 * 3 * codebooks * steps, dtype=torch.float32).reshape(2, 3, codebooks, steps)
    back = pattern.revert_pattern_logits(ramp, float("nan"), keep_only_valid_steps=valid)
    return dict(zip(("logits_rev", "logits_rev_indexes", "logits_rev_mask"), back, strict=True))


def put(pack: Pack, key: str, **tensors: Tensor) -> None:
    """Keep results under a key."""
    pack.put(**{f"{key}.{name}": value for name, value in tensors.items()})


def make_lm_forward(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Run networks over whole sequences: fused input, logits, losses and gradients."""
    from audiocraft.solvers.musicgen import MusicGenSolver

    def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        mean, each = MusicGenSolver._compute_cross_entropy(None, logits, targets, mask)
        return mean, torch.stack(each)

    codes, lengths = pack.given("codes"), pack.given("valid_lengths", redraw=False)
    padding = torch.arange(codes.shape[-1]) < lengths[:, None, None]
    padding = padding.expand_as(codes)
    padded = torch.where(padding, codes, pack.facts["config"]["special_token_id"])
    pack.put(padding_mask=padding, padded_codes=padded)
    for case in pack.facts["cases"]:
        name, model = case["name"], model_of(packs, case)
        conditions = {
            condition: (pack.given(f"{name}.cond.{condition}"), pack.given(f"{name}.cond_mask.{condition}"))
            for condition in case["condition_order"]
        }
        seen: Tensors = {}

        def watch(module: Any, arguments: Any, fused: Any, seen: Tensors = seen) -> None:
            seen.update(fused=fused[0]) if fused[1] is None else seen.update(fused=fused[0], cross_src=fused[1])

        def watch_input(module: Any, arguments: Any, seen: Tensors = seen) -> None:
            seen.update(emb_sum=arguments[0].clone())  # the fuser adds in place

        model.fuser.register_forward_pre_hook(watch_input)
        model.fuser.register_forward_hook(watch)
        output = model.compute_predictions(codes, [], conditions)
        fused = dict(seen)
        mean, each = cross_entropy(output.logits, codes, output.mask)
        mean.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        put(pack, name, **fused, logits=output.logits, mask=output.mask, ce=mean, ce_per_codebook=each)
        put(pack, name, grad_norm=torch.stack([g.pow(2).sum() for g in gradients.values()]).sum().sqrt())
        for kept in [n for n in pack.committed if n.startswith(f"{name}.grad.")]:
            pack.put(**{kept: gradients[kept.removeprefix(f"{name}.grad.")]})
        with torch.no_grad():
            whole = model.compute_predictions(codes, [], conditions, keep_only_valid_steps=False)
            put(pack, f"{name}.full", mask=whole.mask)
            if f"{name}.full.logits" in pack.committed:
                put(pack, f"{name}.full", logits=whole.logits)
            output = model.compute_predictions(padded, [], conditions)
            mask = output.mask & padding
            mean, each = cross_entropy(output.logits, padded, mask)
            put(pack, f"{name}.padded", ce=mean, ce_per_codebook=each, mask=mask)


@contextmanager
def recorded_argmax() -> Iterator[list[Tensor]]:
    """Collect the guided logits of greedy decoding, of which AudioCraft takes the largest."""
    steps: list[Tensor] = []
    argmax = torch.argmax

    def record(logits: Tensor, dim: int, keepdim: bool) -> Tensor:
        steps.append(logits.clone())
        return argmax(logits, dim=dim, keepdim=keepdim)

    with mock.patch.object(torch, "argmax", record):
        yield steps


def make_lm_generate(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Decode greedily, with every kind of guidance, prompt and pattern."""
    from audiocraft.modules.conditioners import ConditioningAttributes

    for case in pack.facts["cases"]:
        key = case["key"]
        answers = []
        for part in ("cfg", "cond", "null"):
            names = [n.removeprefix(f"{key}.{part}.") for n in pack.committed if n.startswith(f"{key}.{part}.")]
            if names:
                order = sorted(names, key=["description", "genre", "self_wav"].index)
                answers.append({n: (null_rows(pack, key, part, n), mask_of(pack, key, part, n)) for n in order})
        model = model_of(packs, case, answers)
        with recorded_argmax() as steps:
            tokens = model.generate(
                prompt=pack.given(f"{key}.prompt") if case["prompt_len"] else None,
                conditions=[ConditioningAttributes() for _ in range(2)] if answers else [],
                num_samples=None if case["prompt_len"] or answers else 2,
                max_gen_len=case["max_gen_len"],
                use_sampling=False,
                cfg_coef=case["cfg_coef"],
                two_step_cfg=case["two_step_cfg"],
            )
        logits = torch.stack(steps, 1)
        best = logits.topk(2).values
        case["min_top2_gap"] = float((best[..., 0] - best[..., 1]).min())
        case["distinct_tokens"] = int(tokens.unique().numel())
        put(pack, key, tokens=tokens)
        if f"{key}.step_logits" in pack.committed:
            put(pack, key, step_logits=logits)


def null_rows(pack: Pack, key: str, part: str, condition: str) -> Tensor:
    """Return a condition; null rows are zeros, whatever is drawn."""
    value, committed = pack.given(f"{key}.{part}.{condition}"), pack.committed[f"{key}.{part}.{condition}"]
    return value.mul_(committed.ne(0).any(-1, keepdim=True))


def mask_of(pack: Pack, key: str, part: str, condition: str) -> Tensor:
    return pack.given(f"{key}.{part}_mask.{condition}", redraw=False)


def make_lm_variants(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Run networks of other forms: logits of a whole sequence, and greedy tokens."""
    codes = pack.given("codes")
    for case in pack.facts["cases"]:
        name = case["name"]
        model = build_model(pack.facts["config"], case, pack.given_under(f"{name}.weights."))
        with torch.no_grad():
            output = model.compute_predictions(codes, [], {})
        put(pack, name, logits=output.logits, mask=output.mask)
        put(pack, name, tokens=model.generate(num_samples=2, max_gen_len=16, use_sampling=False))


def make_sampling(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Record the distribution that AudioCraft draws from, by temperature, top-k and top-p."""
    from audiocraft.models.lm import LMModel
    from audiocraft.utils import utils

    logits = pack.given("logits")

    class Answer:
        """A model that says the same logits whatever it is asked."""

        cfg_coef, two_step_cfg, _fsdp = 1.0, False, None

        def __call__(self, sequence: Tensor, conditions: Any, condition_tensors: Any) -> Tensor:
            return logits[:, :, None]

    def sample(**settings: Any) -> Tensor:
        return LMModel._sample_next_token(Answer(), torch.zeros(2, 4, 1), {}, {}, **settings)

    for case in pack.facts["cases"]:
        drawn: list[Tensor] = []
        multinomial = utils.multinomial

        def record(probabilities: Tensor, num_samples: int, drawn: list[Tensor] = drawn) -> Tensor:
            drawn.append(probabilities.clone())
            return multinomial(probabilities, num_samples)

        knobs = {"temp": case["temperature"], "top_k": case["top_k"], "top_p": case["top_p"]}
        with mock.patch.object(utils, "multinomial", record):
            sample(use_sampling=True, **knobs)
        probabilities = drawn[0]
        if case["top_p"] > 0:  # drawn from in descending order: bring it back into the vocabulary's
            order = torch.softmax(logits / case["temperature"], -1).sort(-1, descending=True).indices
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, probabilities)
        put(pack, case["key"], probs=probabilities, kept=probabilities.ne(0).sum(-1))
    pack.put(argmax=sample(use_sampling=False).squeeze(-1))


def make_chroma(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Extract melodies, and condition on them where the mix stands for its stems."""
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


def make_conditioning(pack: Pack, packs: Callable[[str], Pack]) -> None:
    """Turn labels, words, text and joint embeddings into vectors, and draw what is dropped."""
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
            """What a tokenizer of transformers gives back."""

            def to(self, device: str) -> "Batch":
                return self

        batch = Batch(input_ids=ids, attention_mask=ids.ne(0).long())
        conditioner.t5_tokenizer = lambda entries, batch=batch, **settings: batch
        inputs = conditioner.tokenize(texts)
        embedding, mask = conditioner(inputs)
        put(pack, f"t5.{tag}", attention_mask_after_zeroing=inputs["attention_mask"], out=embedding, out_mask=mask)
        put(pack, f"t5.{tag}", hidden=encoder(**inputs).last_hidden_state)


def make_joint(pack: Pack, ac: Any) -> None:
    """Condition on joint embeddings, quantised and as they are."""
    facts = pack.facts["joint"]
    embedding, empty = pack.given("joint.embed"), torch.tensor(facts["empty_idx"])

    class Given(ac.JointEmbeddingConditioner):
        """Joint embeddings that are there already."""

        def _get_embed(self, x: Any) -> Any:
            return embedding, empty

    for quantize in (True, False):
        width = pack.committed["joint.output_proj.bias"].numel()
        sizes = {"n_q": facts["n_q"], "bins": facts["bins"], "kmeans_init": False}
        conditioner = Given(facts["dim"], width, "cpu", "clap", quantize=quantize, **(sizes if quantize else {}))
        conditioner.output_proj.load_state_dict(
            {n: pack.given(f"joint.output_proj.{n}") for n in ("weight", "bias")}
        )
        conditioner.eval()
        if quantize:
            for level, layer in enumerate(conditioner.quantizer.vq.layers):
                layer._codebook.embed.copy_(pack.given(f"joint.codebook.{level}"))
            result = conditioner.quantizer(embedding.view(-1, facts["dim"], 1), frame_rate=1)
            put(pack, "joint", codes=result.codes, quantized=result.x.view(-1, facts["dim"]))
        out, mask = conditioner(None)
        put(pack, f"joint.quant{int(quantize)}", out=out, mask=mask)


def drops(ac: Any, facts: Facts, order: list[str] | None) -> list[Any]:
    """Return, call by call, what dropout of conditions drops of a batch of one."""
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


FAMILIES: dict[str, Callable[[Pack, Callable[[str], Pack]], None]] = {
    "lm_weights_self": make_weights,
    "lm_weights_cross": make_weights,
    "lm_weights_stereo8": make_weights,
    "patterns": make_patterns,
    "lm_forward": make_lm_forward,
    "lm_generate": make_lm_generate,
    "lm_variants": make_lm_variants,
    "sampling": make_sampling,
    "chroma": make_chroma,
    "conditioning": make_conditioning,
}


def compare(pack: Pack) -> bool:
    """Print how far a pack lies from the committed one, and return whether it is the same within the tolerance."""
    worst, exact, unequal = 0.0, 0, []
    for name, value in pack.computed.items():
        committed = pack.committed[name]
        if torch.equal(value.nan_to_num(), committed.nan_to_num()) and value.dtype == committed.dtype:
            exact += 1
        elif value.shape != committed.shape or not value.is_floating_point():
            unequal.append(name)
        else:
            assert torch.equal(value.isnan(), committed.isnan()), name
            worst = max(worst, float((value - committed).nan_to_num().abs().max()))
            unequal += [name] if worst > TOLERANCE else []
    print(f"{pack.name}: {exact} of {len(pack.computed)} tensors to the bit, others at most {worst:.1e} apart", end="")
    print(f"; NOT EQUAL: {', '.join(unequal)}" if unequal else "")
    return not unequal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write; made if it is not there")
    parser.add_argument("--seed", type=int, help="draw other weights and inputs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stand_in_for_what_no_number_depends_on()
    arguments.out.mkdir(parents=True, exist_ok=True)
    packs: dict[str, Pack] = {}

    def pack_of(name: str) -> Pack:
        return packs.setdefault(name, Pack(HERE, name, arguments.seed))

    equal = True
    for name, make in FAMILIES.items():
        pack = pack_of(name)
        make(pack, pack_of)
        pack.write(arguments.out)
        equal = (arguments.seed is not None or compare(pack)) and equal
    for path in (*HERE.glob("*.json"), *HERE.glob("*.safetensors")):
        if path.stem not in FAMILIES:
            shutil.copy(path, arguments.out)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
