"""Runs at the start of every Python process of the images, KFP's executor among them, before anything is imported:
numeric libraries get as many threads as the container has processors."""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # kubeface is not there yet while an image is built
    from kubeface.runtime.processors import limit_threads

    limit_threads()
