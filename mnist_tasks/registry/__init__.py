"""The model directory: versions, the champion, its history, and how to repair or go back."""
