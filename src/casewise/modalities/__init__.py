"""What a network sees of a case: the interface of modalities, panels, the image store, and photographs."""
