"""Where examples come from, and how few of them are drawn."""
