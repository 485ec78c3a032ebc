"""Work in processes of their own, many calls at a time, with the results in order: what reads recordings uses it."""
