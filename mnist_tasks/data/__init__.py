"""Where digits come from: sources and their readers, the inbox, validation, and the dataset on disk."""
