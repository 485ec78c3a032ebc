"""CLAP models for tests: random weights in LAION's form, the same in transformers' form, and a vocabulary."""

import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast, RobertaConfig

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SENTENCES = ["a slow folk song with guitar", "Techno!", "a" * 400]


def write_vocabulary(folder: Path) -> Path:
    """Write a byte-level vocabulary like RoBERTa's; return the path of tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=77
    ).save_pretrained(folder)
    return folder / "tokenizer.json"


def laion_network(seed: int) -> torch.nn.Module:
    """LAION's smallest network, with one text layer, random weights and nontrivial batch-norm statistics."""
    from stages.networks import clap

    text = RobertaConfig(
        vocab_size=300, num_hidden_layers=1, intermediate_size=64, max_position_embeddings=90, type_vocab_size=1
    )
    with clap._no_downloads(text), torch.random.fork_rng():
        torch.manual_seed(seed)
        from laion_clap.hook import create_model

        network, _ = create_model("HTSAT-tiny", "roberta", precision="fp32", device=torch.device("cpu"))
        with torch.no_grad():
            network.audio_branch.bn0.running_mean.normal_(-20, 5)
            network.audio_branch.bn0.running_var.uniform_(50, 200)
    return network


def write_laion(path: Path, network: torch.nn.Module) -> None:
    """Write a checkpoint in the form of LAION's training: wrapped names, an old buffer, the epoch beside the
    weights."""
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(90)[None]
    torch.save({"epoch": 3, "name": "test", "state_dict": state}, path)


def write_transformers(folder: Path, network: torch.nn.Module) -> None:
    """Write the same weights as a folder of transformers' ClapModel, with feature extractor and vocabulary."""
    config = ClapConfig(
        text_config={
            "vocab_size": 300,
            "num_hidden_layers": 1,
            "intermediate_size": 64,
            "max_position_embeddings": 90,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
        },
        audio_config={"depths": [2, 2, 6, 2], "patch_embeds_hidden_size": 96},
    )
    model = ClapModel(config)
    wanted = model.state_dict()
    converted = {}
    for name, value in network.state_dict().items():
        for new, part in _renamed(name, value):
            if new in wanted:
                converted[new] = part
    missing = [
        name for name in wanted if name not in converted and "position_ids" not in name and "token_type" not in name
    ]
    missing = [name for name in missing if "relative_position_index" not in name and "num_batches" not in name]
    assert missing == [], missing
    model.load_state_dict(converted, strict=False)
    model.save_pretrained(folder)
    ClapFeatureExtractor(
        truncation="rand_trunc", padding="repeatpad", frequency_min=50, frequency_max=14_000
    ).save_pretrained(folder)
    write_vocabulary(folder)


RENAMED = [
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.relative", ".attention.self.relative"),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^(text|audio)_projection\.0\.", r"\1_projection.linear1."),
    (r"^(text|audio)_projection\.2\.", r"\1_projection.linear2."),
    (r"^logit_scale_(a|t)$", r"logit_scale_\1"),
]


def _renamed(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    if ".attn.qkv." in name:
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return [(name.replace(".attn.qkv.", f".attention.self.{part}."), rows) for part, rows in parts]
    return [(name, value)]
