"""Builders that prepare the data sets as TFDS data sets; importing one needs TensorFlow.

TFDS names a builder after the package it is in, and every name may exist once in a process. So each
data set has a package of its own here, with a README on its licence and on how to obtain it.
"""
