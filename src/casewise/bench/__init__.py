"""What each fast path of training brings on one machine, measured there."""
