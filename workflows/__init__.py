"""The command line: one verb per file; each parses, calls one pipeline function and prints."""
