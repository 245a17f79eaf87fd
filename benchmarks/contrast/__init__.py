"""What the contrastive objective contributes, in the base, in tuning and in the votes."""
