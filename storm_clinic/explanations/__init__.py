"""Which tiles a model's risk comes from, whether that can be believed, and how it is handed on."""
