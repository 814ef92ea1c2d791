"""Performance history: asv measures it over commits; here it is started, read and shown."""
