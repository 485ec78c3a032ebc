"""What is done to recordings and clips, a stage a module, and what stages share: where Arrow meets tensors."""
