"""Trained learners as one ONNX or TorchScript graph each, which gives the predictions of casewise without it."""
