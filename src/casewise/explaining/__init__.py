"""`casewise explain`: where the networks of a finished run looked, shown in the original images and measured."""
