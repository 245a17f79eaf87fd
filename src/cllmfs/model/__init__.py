"""The base model and its LoRA adapter."""
