"""Deliveries, which `segue export` makes for others: clips under readable names, or tables as a data set.

This package is not a stage, since no run makes deliveries. Like a stage, it imports only itself, the packages that
stages share and lower layers.
"""
