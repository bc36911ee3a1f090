"""A text encoder as a modality of the model."""
