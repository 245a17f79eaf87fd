"""The documentation, and what keeps its figures those of the results."""
