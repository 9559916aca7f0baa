"""Run directories: their files, their records, and the compilation cache."""
