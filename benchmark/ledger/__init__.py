"""What was computed: records, per-sample columns, and one content-addressed store."""
