"""The chain of all jobs: shards, sweep, training, evaluation, registration, batch inference."""
