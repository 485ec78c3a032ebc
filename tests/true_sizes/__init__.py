"""The published models at their true sizes, with random weights: what they need, and whether whole runs of them pass.

`python -m tests.true_sizes musicgen-small musicgen-melody` makes the weights, runs the presets a stage a process, and
prints the most memory and the time of each; its tests are slow ones. No network is asked for anything.
"""
