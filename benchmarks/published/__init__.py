"""Published support sets and episodes, for comparison with published figures."""
