"""A codec's encoder and decoder for inference on a CPU: convolutions over channels-last memory, in blocks of time."""
