"""The questions of a report, a module each: records in, a section out, or None where they don't tell."""
