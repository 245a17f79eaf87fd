"""Turns texts and entity types into model input."""
