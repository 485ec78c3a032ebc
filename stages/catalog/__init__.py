"""What the catalog should hold: the lines of a requests file, and how they name the sounds that they refer to."""
