"""RetinaNet's head and losses."""
