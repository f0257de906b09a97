"""What a study would take, before it runs."""
