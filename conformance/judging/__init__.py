"""From measurements to verdicts: statistics, noise, bands, and the exit status of a session."""
