"""Data sets as uint8 tensors on the device, in splits."""
