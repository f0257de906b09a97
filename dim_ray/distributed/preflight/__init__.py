"""Every node is asked before a run whether it is ready."""
