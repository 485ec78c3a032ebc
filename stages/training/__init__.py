"""How codecs and language models are trained: what they begin with, examples, steps, kept state, and judgement."""
