"""How ``cllmfs-mini`` is made: data, start, training, evaluation, export; run with ``python -m mini.train``."""
