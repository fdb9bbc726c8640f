"""From records to conclusions: load, compare, decide. Table, report, search and trackers print what it says."""
