"""Keep a storage small and sound."""
