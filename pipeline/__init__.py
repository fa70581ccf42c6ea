"""Everything that touches data, clusters, stores and trackers."""
