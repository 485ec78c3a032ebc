"""Running stages: their order, their jobs on threads or a cluster, what they take, how they stop and fail."""
