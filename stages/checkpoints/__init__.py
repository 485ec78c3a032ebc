"""Trained language models as folders: this project's own form, and those of other projects, read and written."""
