"""The noisy quadratic model: closed forms, simulations, tables."""
