"""Small models trained on synthesised music in minutes, in the very formats that the published ones come in.

They let a machine without network or accelerator run every stage as it is. What each learns from is composed for it
alone (`music`), so the demo corpus is as new to a stand-in as a user's recordings are to the published weights."""
