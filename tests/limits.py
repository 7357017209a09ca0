"""Bounds of tests that another machine must not break: seconds of a hang, rounding of float32."""

# Seconds after which a subprocess counts as hanging. It says nothing about speed: beside other busy
# processes a start of JAX and TensorFlow alone takes a minute.
HANGS = 900

ULP = 2.0**-23  # the spacing of float32 just above 1
