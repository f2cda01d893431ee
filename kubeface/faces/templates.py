"""Names of the templates that say what of a photograph is its crop; geometry.py makes the crops."""

WHOLE = "whole_224"  # the middle square of a whole photograph, without a face
