"""From a frequency-regularized network to a small plain one; nothing is here yet."""
