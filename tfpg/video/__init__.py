"""Films: a virtual display where one is needed, streaming video files, recorded episodes."""

# What a film can show of a policy, from what any has to what few have.
OVERLAYS = ("caption", "action", "bars", "value", "entropy", "epsilon", "saliency")
