"""Run directories: their files, their records, and what is kept for later steps and commands."""
