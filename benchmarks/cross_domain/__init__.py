"""Whether types learned from a source data set help with a target data set."""
