"""Pictures of hidden states with and without the contrastive objective."""
