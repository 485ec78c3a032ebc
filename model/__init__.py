"""Tensors in, tensors out: patterns, conditioners, the language model, the codec. No files, no environment, no network.

One legend of dimensions holds for every shape in this package:

    B  batch                    K  codebooks of the codec
    T  frames of the codec      S  interleaved steps of a pattern
    D  width of the model       H  attention heads
    L  length of a condition    F  frames of chroma
    E  width of an embedding    V  entries of a codebook (cardinality)
    P  frames of a prompt       N  samples of a waveform
    C  channels                 G  heads of keys and values
    W  branches of guidance     R  rows, the branches of all sequences
"""
