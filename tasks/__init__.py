"""The six reliability tasks, selective prediction and retrieval, one a file."""
