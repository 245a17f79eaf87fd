"""Speed and memory of cllmfs and of other ways to do the same work."""
