"""Encoders for other programs: timm, ONNX, torch.export, with a card, each checked against our own features."""
