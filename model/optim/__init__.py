"""How weights are updated: AdamW, schedule, clipping, averaged weights, and how much of a device an update uses."""
