"""What a user does: pre-train, fine-tune, predict, look at it all in a demo."""
