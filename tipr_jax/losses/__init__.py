"""Loss functions: pure functions of the global batch, scalars in float32."""
