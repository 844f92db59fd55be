"""Operations on tensors: each file holds one, its definition in plain torch, its gradient, and the rule of its kernels."""
