"""Judging a sound: what was asked for, what is detected in it, whether the two agree, and what is wrong with it.

The stages that judge clips share this package: `gate`, which judges takes before they become clips, and `evaluate`,
which scores clips. The same functions judge recordings, so that every number about clips can be compared with one about
recordings.
"""
