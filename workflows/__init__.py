"""The command line, one job per file: parse, check, call one function of `pipeline`, print."""
