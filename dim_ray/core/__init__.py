"""The method, in PyTorch alone: runs on any machine that has torch."""
