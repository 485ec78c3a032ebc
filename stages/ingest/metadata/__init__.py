"""The metadata of recordings: where it is found, and how it is made safe."""
