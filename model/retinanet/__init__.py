"""RetinaNet's head and its losses."""
