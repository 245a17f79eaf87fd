"""A causal LM behind one door."""
