"""What has parameters: encoders, the cross-modal transformer, a text backbone."""
