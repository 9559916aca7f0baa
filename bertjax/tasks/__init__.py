"""From labelled files to features and metrics: one file a kind of task."""
