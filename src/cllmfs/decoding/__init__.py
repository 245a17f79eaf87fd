"""Decodes spans with a model."""
