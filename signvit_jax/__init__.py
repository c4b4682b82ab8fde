"""Sign-language translation in JAX/Flax: a signed video goes in, text comes out."""
