"""Labeled files: one file here for each format, and one table of all formats."""

from cllmfs.formats.labels import read_labels, write_labels
from cllmfs.formats.reading import examples_of, iter_texts, read_examples
from cllmfs.formats.rules.repeats import trouble_in
from cllmfs.formats.validation import validate_file
from cllmfs.formats.writing import convert, write_examples

__all__ = [
    "convert",
    "examples_of",
    "iter_texts",
    "read_examples",
    "read_labels",
    "trouble_in",
    "validate_file",
    "write_examples",
    "write_labels",
]
