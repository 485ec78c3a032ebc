"""The loop that making clips is compared with: `python -m tests.benchmarks.clips_loop MODEL REQUESTS FOLDER THREADS
BATCH`.

It follows transformers' own documentation: the model loaded once, requests of nearly equal length in batches,
`generate`, and each clip cut to its seconds, brought to -16 LUFS by pyloudnorm and written as FLAC by soundfile.
`codes.npz` holds the codes of each clip, by the request's name, for comparison. Only what this needs is imported.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import pyloudnorm
import soundfile
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

LOUDNESS, PEAK = -16.0, 0.89
"""Loudness in LUFS and highest sample (full scale 1): the defaults of `segue`, -1 dB for the peak."""


def work(model_folder: str, requests: str, folder: Path, at_once: int) -> None:
    """Make every clip of a requests file, in batches of `at_once`."""
    model = MusicgenForConditionalGeneration.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    rate, frame_rate = model.config.audio_encoder.sampling_rate, model.config.audio_encoder.frame_rate
    codes: dict[str, np.ndarray] = {}
    decode = model.audio_encoder.decode

    def listen(audio_codes: torch.Tensor, **options: object) -> object:
        heard.append(audio_codes[0])
        return decode(audio_codes=audio_codes, **options)

    model.audio_encoder.decode = listen
    with open(requests, encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["seconds"]))
    for first in range(0, len(rows), at_once):
        batch = rows[first : first + at_once]
        heard: list[torch.Tensor] = []
        frames = max(round(float(row["seconds"]) * frame_rate) for row in batch)
        inputs = tokenizer([row["description"] for row in batch], padding=True, return_tensors="pt")
        with torch.inference_mode():
            sounds = model.generate(**inputs, guidance_scale=3.0, do_sample=False, max_length=frames + 4)
        for row, sound, made in zip(batch, sounds.float().numpy(), heard[0].numpy(), strict=True):
            samples = sound[0, : round(float(row["seconds"]) * rate)]
            loudness = pyloudnorm.Meter(rate).integrated_loudness(samples)
            samples = samples * 10 ** ((LOUDNESS - loudness) / 20)
            samples = samples * min(1.0, PEAK / np.abs(samples).max())
            soundfile.write(folder / f"{row['name']}.flac", samples, rate)
            codes[row["name"]] = made[:, : round(float(row["seconds"]) * frame_rate)].astype(np.uint16)
    np.savez(folder / "codes.npz", **codes)  # type: ignore[arg-type]  # its stub has a positional for every name


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    work(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[5]))
