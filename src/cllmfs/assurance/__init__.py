"""What can be promised about a model: thresholds with a guarantee, and what tuning makes a base forget."""
