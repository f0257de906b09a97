"""Classifiers trained on real images, and the pools that a distillation draws them from."""
