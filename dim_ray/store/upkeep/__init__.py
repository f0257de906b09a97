"""Keeping a storage small and sound."""
