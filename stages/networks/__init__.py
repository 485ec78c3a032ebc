"""Networks that are not ours, from files: Demucs, CLAP, transformers' own, without running what a file might name."""
