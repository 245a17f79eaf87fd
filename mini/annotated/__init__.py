"""Real text, annotated densely: every mention that somebody might ask for, under an open vocabulary of types."""
