"""Training: the step (``loop``, torch only), its worker inside Ray Train, and the job's driver."""
