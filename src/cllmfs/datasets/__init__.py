"""Data sets: where examples come from, and how a few of them are drawn."""
