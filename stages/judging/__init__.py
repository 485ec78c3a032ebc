"""Judging a sound: what was asked for, what is detected in it, whether the two agree, and what is wrong with it.

Stages that judge clips share it: `gate`, before a clip is one, and `evaluate`, which scores those that are. The same
functions judge recordings, so that no number of a clip stands without one to compare it with.
"""
