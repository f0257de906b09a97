"""Students: networks trained only on generated images, or on real ones at the same budget."""
