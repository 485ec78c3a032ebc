"""The halves of a codec for inference on a CPU: convolutions over channels-last memory, in blocks of time."""
