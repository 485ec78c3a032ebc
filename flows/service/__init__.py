"""The service: Prefect's server, pools and workers on this machine, and what an operator sees on its page."""
