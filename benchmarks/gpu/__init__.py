"""Speed and memory of large bases on a GPU."""
