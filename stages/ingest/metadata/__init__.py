"""What is said of recordings, by whom, and made safe."""
