"""Spans read off a model."""
