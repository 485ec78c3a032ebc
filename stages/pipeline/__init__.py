"""What runs a stage: the contract, what is stale, the runner, and the processes and memory that a stage may use."""
