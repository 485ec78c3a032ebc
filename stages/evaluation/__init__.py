"""What the stage `evaluate` compares clips with: other models, the codec's limits, recordings that were learned from."""
