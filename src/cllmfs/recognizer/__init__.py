"""The recognizer: fit, predict, evaluate, save, load."""

from cllmfs.recognizer.recognizer import EntityRecognizer

__all__ = ["EntityRecognizer"]
