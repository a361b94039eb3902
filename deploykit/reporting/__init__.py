"""Run studies and turn their records into a report."""
