"""Texts and types as model input."""
