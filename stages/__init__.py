"""Stages, where Arrow meets tensors: a package or module for each stage, and packages that stages share.

The stages, in the order of a whole run: `demo`, `ingest`, `train_codec`, `demo.models`, `chroma`, `clap`, `tokenize`,
`train`, `requests`, `generate`, `decode`, `evaluate`, `report`. The shared packages: `pipeline` (what runs a stage),
`audio` (recordings in and out), `networks` (networks that are not ours), `checkpoints` (trained models as folders).
"""
