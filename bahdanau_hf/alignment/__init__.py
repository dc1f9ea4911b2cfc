"""Which source word a target word belongs to: attention, a statistical model, hand-made links."""
