"""What the stage `evaluate` compares clips with: other models, the codec's limits, what the model learned from."""
