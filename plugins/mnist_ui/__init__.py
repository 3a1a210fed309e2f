"""The pages about the models: what they show, how it looks, who may see it."""
