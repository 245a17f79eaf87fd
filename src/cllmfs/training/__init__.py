"""From few labelled sentences to an adapter."""
