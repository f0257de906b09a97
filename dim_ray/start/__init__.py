"""What lets a command start anywhere: files that hide modules, and streams of any encoding."""
