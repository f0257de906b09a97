"""Code shared by the commands: flags, configuration, clusters, and what is printed."""
