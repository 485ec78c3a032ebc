"""Loading networks of other projects (Demucs, CLAP, transformers' own) without running code that a file may name."""
