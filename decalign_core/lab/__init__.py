"""Where experiments are described, run, scored and recorded."""
