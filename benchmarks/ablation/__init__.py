"""How much each part of cllmfs contributes: one setting changed at a time."""
