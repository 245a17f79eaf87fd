"""Trains an adapter on a few labeled sentences."""
