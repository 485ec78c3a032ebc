"""Deliveries: what leaves a store for others, made by `segue export`: clips under human names, or tables as a data set.

No stage, as no run makes them; like one it imports its own room and the shared ones below.
"""
