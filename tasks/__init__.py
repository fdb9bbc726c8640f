"""The six reliability tasks and selective prediction, one a file."""
