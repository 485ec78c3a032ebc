"""What the stage `generate` needs beside the model: the conditions of a request, and how long clips are parted."""
