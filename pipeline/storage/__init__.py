"""Files at a path, `file://` or `s3://` URL."""
