"""Loading a codec: an EnCodec folder in transformers' format, published or trained here, as a `Codec`."""

from pathlib import Path

from transformers import EncodecModel

from model.codec.codec import Codec, codebook_identity
from stages.checkpoints.folder import CodecFacts, load_encodec


def codec_facts(network: EncodecModel, codebooks: int, channels: int, reference: str | None = None) -> CodecFacts:
    """What there is to say of a codec whose codes a model speaks.

    Args:
        codebooks: K of the codes; twice the network's own levels in use where a mono network encodes both sides.
        channels: of the sound that the codes stand for.
        reference: where the codec was had.

    Raises:
        ValueError: the network has no such levels.
    """
    config = network.config
    return CodecFacts(
        reference=reference,
        identity=codebook_identity(network, codebooks * config.audio_channels // channels),
        sample_rate=config.sampling_rate,
        frame_rate=config.sampling_rate / config.hop_length,
        codebooks=codebooks,
        cardinality=config.codebook_size,
        channels=channels,
    )


def load_codec(path: Path, device: str = "cpu", codebooks: int | None = None) -> Codec:
    """The codec of a local folder (`context.weights(reference).path`).

    Args:
        codebooks: how many levels to use; None takes all.

    Raises:
        ValueError: the folder holds no EnCodec, or one that a `Codec` cannot be.
    """
    return Codec(load_encodec(path), device, codebooks)
