"""Loading a codec: an EnCodec folder in transformers' format, published or trained here, as a `Codec`."""

from pathlib import Path

import torch
from transformers import EncodecModel

from model.codec.codec import Codec


def load_codec(path: Path, device: str = "cpu", codebooks: int | None = None) -> Codec:
    """The codec of a local folder (`context.weights(reference).path`).

    Args:
        codebooks: how many levels to use; None takes all.

    Raises:
        ValueError: the folder holds no EnCodec, or one that a `Codec` cannot be.
    """
    try:
        network = EncodecModel.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"expected an EnCodec folder (config.json, model.safetensors) in {path}, got {error}"
        ) from error
    return Codec(network, device, codebooks)
