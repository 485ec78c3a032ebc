"""Deliveries, which `segue export` makes for others: clips under readable names, or tables as a data set.

No stage, as no run makes them; like one it imports its own room and the shared ones below.
"""
