"""Whether a promised recall or precision holds on other texts, and what it costs."""
