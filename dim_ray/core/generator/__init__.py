"""Generator and discriminator: stage 1, the adversarial prior, and stage 2, matching."""
