"""What all commands share: flags and files into a configuration, where it runs, and what is printed."""
