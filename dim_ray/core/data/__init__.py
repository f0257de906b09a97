"""From a source to uint8 tensors on the device, in splits."""
