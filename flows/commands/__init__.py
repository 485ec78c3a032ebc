"""The commands of `segue`, a file for each family, and what they share."""
