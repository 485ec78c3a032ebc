"""What runs a stage: its contract, what is out of date, the runner, and the processes and memory that it may use."""
