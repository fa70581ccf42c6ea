"""Training: the loop (torch only), the Ray Train worker that runs it, and the job's driver."""
