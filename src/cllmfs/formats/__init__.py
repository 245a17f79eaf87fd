"""Files of labelled sentences: one file a format."""

from cllmfs.formats.writing import convert, iter_texts, read_examples, read_labels, write_examples, write_labels

__all__ = ["convert", "iter_texts", "read_examples", "read_labels", "write_examples", "write_labels"]
