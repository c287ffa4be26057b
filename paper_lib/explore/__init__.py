"""What a reader does with trained models: load them, look into them, take them apart."""
