"""What is computed per region of interest: boxes and masks."""
