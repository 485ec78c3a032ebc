"""Networks from local folders in transformers' form, whole and without running what the folder might name."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase


def load_network(kind: Any, path: Path, attention: str) -> Any:
    """A network of transformers in float32, on the CPU.

    Args:
        kind: its class.
        path: its folder.
        attention: how it attends (`eager`, `sdpa`), which is said, as a configuration could name kernels to fetch and
            run.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: there is none, or some of its weights are missing: those would be
            random numbers, with no more than a warning.
    """
    network, report = kind.from_pretrained(
        path, dtype=torch.float32, attn_implementation=attention, local_files_only=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"no weights for {', '.join(missing[:3])}")
    return network


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; code that it might bring for it is never run.

    Raises:
        OSError, ValueError: there is none.
    """
    return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
