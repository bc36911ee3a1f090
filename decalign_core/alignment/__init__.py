"""Pure functions on distributions: no parameters, no modality names, only tensors and records of tensors."""
