"""The report's parts: what it finds, what it draws, and the one HTML page that holds it."""
