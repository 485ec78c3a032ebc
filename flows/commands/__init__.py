"""The commands of `segue`: one file for each family of commands, and what they share."""
