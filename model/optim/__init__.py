"""How weights are updated: AdamW, Muon, schedule, clipping, averages, and how much of a device an update uses."""
