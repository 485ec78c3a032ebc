"""Recipes: what a run is asked for, from presets, a file, the command line or a form of Prefect's page."""
