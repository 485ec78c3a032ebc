"""How far apart the windows of a long clip begin (MusicGen, arXiv:2306.05284, 3.1)."""

STRIDE = 0.6
"""As a share of a window (AudioCraft: `extend_stride`, 18 s of MusicGen's 30)."""


def stride_frames(share: float, window: int) -> int:
    """The same in frames, for windows of so many."""
    return max(1, int(share * window))
