"""Where Arrow meets tensors: a room or a file a stage, and the rooms that stages share.

Stages, in the order of a whole run: `demo`, `ingest`, `train_codec`, `demo.models`, `chroma`, `clap`, `tokenize`,
`train`, `requests`, `generate`, `decode`, `evaluate`, `report`. Rooms that they share: `pipeline` (what runs a stage),
`audio` (recordings in and out), `networks` (networks that are not ours), `checkpoints` (trained models as folders).
"""
