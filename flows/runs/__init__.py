"""Running stages: their order, their jobs on threads or a cluster, estimates, stopping and failing."""
