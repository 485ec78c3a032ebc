"""How a language model is trained: what it begins with, examples drawn, steps taken, state kept, results judged."""
