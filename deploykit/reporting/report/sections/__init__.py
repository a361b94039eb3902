"""The questions of a report, one module each.

Each module has `section` or `sections`: records in, sections out; None or () if the records do not answer it.
"""
