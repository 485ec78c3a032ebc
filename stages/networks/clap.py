"""Joint embeddings of sound and words: CLAP (Wu et al., arXiv:2211.06687), from either of its two forms.

A LAION `.pt` checkpoint is read by the `laion_clap` package, a model folder by `transformers.ClapModel`; with the same
weights the two agree. Both cut recordings over ten seconds at random, so windows are chosen here, and none is longer
than the model's. Sentences go through the network one at a time, because a row must not depend on its neighbours, not
even in the last bit. On a CPU, where a batch is no faster, windows do so too; on an accelerator the windows of one
recording share passes.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import huggingface_hub.constants
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoFeatureExtractor,
    ClapFeatureExtractor,
    ClapModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from stages.audio import Samples, resample, to_mono
from stages.networks.loading import load_network, load_pickle, load_tokenizer

LONGEST_TEXT = 77
"""Most tokens of a sentence; LAION's models were trained with no more."""

AUDIO_NETWORKS = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}
"""Width of the first layer -> LAION's name of the audio network."""

ROBERTA_WIDTH, ROBERTA_HEADS = 768, 12
"""Width and heads of the only text network in LAION's non-fusion checkpoints (its width is fixed in the package's
code)."""

WINDOWS_AT_ONCE = 16
"""Windows of a recording in one pass on an accelerator."""

_PATCHING = threading.Lock()

Filling = Literal["repeatpad", "repeat", "pad"]
"""How sound that is shorter than a window is filled up."""

SMALLEST_POWER = 1e-10
"""Floor of a band's power: -100 dB."""


def fill(sound: Float[Tensor, "B N"], samples: int, how: Filling) -> Float[Tensor, "B M"]:
    """Bring sounds to a length of `samples`.

    A short sound is repeated as often as it fits and then padded with zeros (`repeatpad`, as CLAP was trained),
    repeated and cut off (`repeat`), or only padded with zeros (`pad`).

    Raises:
        ValueError: the sounds have no samples, or more than `samples`.
    """
    length = sound.shape[1]
    if not 1 <= length <= samples:
        raise ValueError(f"expected 1 to {samples} samples, got {length}")
    times = {"repeatpad": samples // length, "repeat": -(-samples // length), "pad": 1}[how]
    repeated = sound.tile(times)[:, :samples]
    return functional.pad(repeated, (0, samples - repeated.shape[1]))


def mel_decibels(
    sound: Float[Tensor, "B N"], bank: Float[Tensor, "bins M"], window: int, hop: int
) -> Float32[Tensor, "B T M"]:
    """Measure the power of each band in every frame, dB; T = N // hop + 1.

    It is computed in double precision, as by `transformers.ClapFeatureExtractor` (arXiv:2211.06687, 3.3), but for many
    windows and all their frames at once, on the device of `sound`.

    Args:
        sound: waveforms of one length, more than half a window.
        bank: weight of each of the `window // 2 + 1` frequencies in each of the M bands.
        window: length of the periodic Hann window and of the Fourier transform, samples.
        hop: samples between frames; frame t is centred on sample t * hop.
    """
    hann = torch.hann_window(window, dtype=torch.float64, device=sound.device)
    padded = functional.pad(sound.double()[:, None], (window // 2, window // 2), mode="reflect")[:, 0]
    spectrum = torch.fft.rfft(padded.unfold(-1, window, hop) * hann)
    power = spectrum.real.square() + spectrum.imag.square()  # half the time of `abs`, which guards against overflow
    decibels: Tensor = 10 * (power @ bank.double()).clamp(min=SMALLEST_POWER).log10()
    return decibels.float()


@dataclass(frozen=True)
class Windows:
    """The embeddings of a recording, of unit length, one for each window, with the windows' starts in seconds."""

    starts: list[float]
    embeddings: Float32[npt.NDArray[np.float32], "W E"]


@dataclass(frozen=True, eq=False)
class JointEmbedder:
    """A CLAP model as two functions into one space. The cosine of two embeddings there says how well a sound and words
    match."""

    sample_rate: int
    """Sample rate that the audio network was trained at, Hz."""
    window: int
    """Samples of a window."""
    device: str
    windows_at_once: int
    """Windows of a recording in one pass."""
    audio: Callable[[Float32[Tensor, "W N"]], Float[Tensor, "W E"]]
    """Embeds windows of one length, which are on the device."""
    text: Callable[[str], Float[Tensor, " E"]] | None
    """Embeds a sentence; None where the weights came without a vocabulary."""

    def embed_audio(self, samples: Float[Samples, "C N"], sample_rate: int, hop_seconds: float) -> Windows:
        """Embed a recording's windows, one every `hop_seconds`.

        The last window ends with the recording. Only a recording shorter than a window is filled up, by repeating it,
        as in training (arXiv:2211.06687, 3.3).

        Raises:
            ValueError: there are no samples, or the hop is not positive.
        """
        if not samples.shape[1] or hop_seconds <= 0:
            raise ValueError(f"expected samples and a positive hop, got {samples.shape[1]} and {hop_seconds}")
        mono = resample(to_mono(samples), sample_rate, self.sample_rate)[0]
        # The 16-bit round trip is part of LAION's input.
        sound = (torch.from_numpy(mono).to(self.device).clamp(-1, 1) * 32_767).to(torch.int16).float() / 32_767
        starts = window_starts(len(sound), self.window, round(hop_seconds * self.sample_rate))
        embeddings = []
        with torch.no_grad():
            for first in range(0, len(starts), self.windows_at_once):
                group = starts[first : first + self.windows_at_once]
                embeddings.append(
                    self.audio(torch.stack([sound[start : start + self.window] for start in group])).cpu()
                )
        return Windows([start / self.sample_rate for start in starts], torch.cat(embeddings).numpy())

    def embed_text(self, texts: Sequence[str]) -> Float32[npt.NDArray[np.float32], "B E"]:
        """Embed sentences; embeddings have unit length.

        Raises:
            ValueError: there is no sentence, or the weights came without a vocabulary.
        """
        if self.text is None:
            raise ValueError(
                "expected a vocabulary (RoBERTa's tokenizer.json) beside a LAION checkpoint to embed words, got none"
            )
        if not texts:
            raise ValueError("expected at least one text, got none")
        with torch.no_grad():
            return np.stack([self.text(text).cpu().numpy() for text in texts])


def window_starts(length: int, window: int, hop: int) -> list[int]:
    """Return the starts of the windows in a recording of `length` samples: one every `hop`, and a last one that ends
    with the recording."""
    last = max(length - window, 0)
    return [*range(0, last, max(hop, 1)), last]


def load_joint_embedder(
    path: Path, device: str = "cpu", vocabulary: Path | None = None, windows_at_once: int | None = None
) -> JointEmbedder:
    """Load a CLAP model.

    Args:
        path: a LAION checkpoint (a file), or a folder with a `transformers.ClapModel`, its feature extractor and
            tokenizer.
        vocabulary: RoBERTa's `tokenizer.json`, for the words of a LAION checkpoint, which has none.
        windows_at_once: windows of a recording in one pass; None takes what suits the device.

    Raises:
        ValueError: the path is neither, has feature fusion (which draws its input at random), or cannot be loaded
            safely.
    """
    batch_size = windows_at_once or (1 if device == "cpu" else WINDOWS_AT_ONCE)
    return (
        _from_folder(path, device, batch_size) if path.is_dir() else _from_laion(path, device, batch_size, vocabulary)
    )


def _from_folder(path: Path, device: str, windows_at_once: int) -> JointEmbedder:
    try:
        network = load_network(ClapModel, path, "eager")
        extractor: Any = AutoFeatureExtractor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if not isinstance(extractor, ClapFeatureExtractor) or extractor.padding not in get_args(Filling):
            raise ValueError(f"a {type(extractor).__name__} with the padding {getattr(extractor, 'padding', None)!r}")
        tokenizer = load_tokenizer(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"expected a CLAP folder (config, weights, feature extractor, tokenizer) in {path}, got {error}"
        ) from error
    network = network.eval().to(device)
    if network.config.audio_config.enable_fusion or extractor.truncation == "fusion":
        raise ValueError(f"expected a CLAP model without feature fusion, got one with it in {path}")
    bank = torch.from_numpy(extractor.mel_filters_slaney).to(device)
    filling: Any = extractor.padding

    def audio(windows: Float32[Tensor, "W N"]) -> Float[Tensor, "W E"]:
        filled = fill(windows, extractor.nb_max_samples, filling)
        spectrogram = mel_decibels(filled, bank, extractor.fft_window_size, extractor.hop_length)
        pooled = network.audio_model(input_features=spectrogram[:, None]).pooler_output
        return functional.normalize(network.audio_projection(pooled), dim=-1)

    def text(words: str) -> Float[Tensor, " E"]:
        pooled = network.text_model(**_tokens(tokenizer, words, device)).pooler_output
        return functional.normalize(network.text_projection(pooled), dim=-1)[0]

    return JointEmbedder(extractor.sampling_rate, extractor.nb_max_samples, device, windows_at_once, audio, text)


def _tokens(tokenizer: PreTrainedTokenizerBase, words: str, device: str) -> dict[str, Tensor]:
    encoded = tokenizer(words, truncation=True, max_length=LONGEST_TEXT, return_tensors="pt")
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}


def _from_laion(path: Path, device: str, windows_at_once: int, vocabulary: Path | None) -> JointEmbedder:
    checkpoint = load_pickle(path)
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"expected a LAION CLAP checkpoint (a state_dict) in {path}, got {type(checkpoint).__name__}")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    # A buffer that older versions of transformers stored and newer ones compute.
    state.pop("text_branch.embeddings.position_ids", None)
    network, settings = _build_laion(path, state)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"expected a LAION CLAP checkpoint in {path}, got {str(error)[:300]}") from error
    network.eval().to(device)
    tokenizer = _vocabulary(vocabulary) if vocabulary else None
    from laion_clap.training.data import get_audio_features

    longest = settings["clip_samples"]

    def audio(windows: Float32[Tensor, "W N"]) -> Float[Tensor, "W E"]:
        features = [get_audio_features({}, window, longest, "rand_trunc", "repeatpad", settings) for window in windows]
        embeddings: Tensor = network.get_audio_embedding(features)
        return embeddings

    def text(words: str) -> Float[Tensor, " E"]:
        assert tokenizer is not None
        embedding: Tensor = network.get_text_embedding(_tokens(tokenizer, words, device))[0]
        return embedding

    sizes = (settings["sample_rate"], longest, device, windows_at_once)
    return JointEmbedder(*sizes, audio, text if tokenizer else None)


def _build_laion(path: Path, state: Mapping[str, Tensor]) -> tuple[Any, dict[str, Any]]:
    """Build LAION's network with the sizes of its weights, and return it with the settings of its audio side."""
    try:
        width = state["audio_branch.patch_embed.proj.weight"].shape[0]
        words, positions = (
            state[f"text_branch.embeddings.{kind}_embeddings.weight"].shape[0] for kind in ("word", "position")
        )
        feedforward_width = state["text_branch.encoder.layer.0.intermediate.dense.weight"].shape[0]
    except KeyError as error:
        raise ValueError(
            f"expected a LAION CLAP checkpoint with RoBERTa and HTSAT in {path}, got none with {error}"
        ) from error
    if any(".mel_conv2d." in name for name in state):
        raise ValueError(f"expected a CLAP model without feature fusion, got one with it in {path}")
    if width not in AUDIO_NETWORKS:
        raise ValueError(f"expected an audio network of the widths {list(AUDIO_NETWORKS)}, got {width} in {path}")
    layers = {match[1] for name in state if (match := re.match(r"text_branch\.encoder\.layer\.(\d+)\.", name))}
    text = RobertaConfig(
        vocab_size=words,
        hidden_size=ROBERTA_WIDTH,
        num_hidden_layers=len(layers),
        num_attention_heads=ROBERTA_HEADS,
        intermediate_size=feedforward_width,
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    with _no_downloads(text):
        from laion_clap.hook import create_model

        network, settings = create_model(AUDIO_NETWORKS[width], "roberta", precision="fp32", device=torch.device("cpu"))
    return network, settings["audio_cfg"]


@contextmanager
def _no_downloads(text: RobertaConfig) -> Iterator[None]:
    """Return a context that keeps LAION's package from fetching three tokenizers when it is imported, and RoBERTa's
    weights when a network is built. The checkpoint replaces all of them, so RoBERTa is built from its sizes."""
    roberta: Any = RobertaModel
    with _PATCHING:
        offline, huggingface_hub.constants.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE, True
        roberta.from_pretrained = classmethod(lambda cls, name: cls(text))
        try:
            yield
        finally:
            del roberta.from_pretrained  # uncovers the inherited one
            huggingface_hub.constants.HF_HUB_OFFLINE = offline


def _vocabulary(path: Path) -> PreTrainedTokenizerFast:
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="<pad>", unk_token="<unk>")
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ValueError(f"expected RoBERTa's tokenizer.json at {file}, got {error}") from error
