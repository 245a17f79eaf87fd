"""Systems measured side by side: what is run, what it gave, tables and figures of it."""
