"""The six reliability tasks, one a file."""
