"""Predictions, embeddings and scores of trained models."""
