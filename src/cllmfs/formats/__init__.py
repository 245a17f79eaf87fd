"""Labeled files: one file here for each format, and one table of all formats."""

from cllmfs.formats.labels import read_labels, write_labels
from cllmfs.formats.reading import iter_texts, read_examples
from cllmfs.formats.validation import validate_file
from cllmfs.formats.writing import convert, write_examples

__all__ = ["convert", "iter_texts", "read_examples", "read_labels", "validate_file", "write_examples", "write_labels"]
