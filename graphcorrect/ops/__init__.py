"""Operations on tensors: each file holds one, its definition in plain torch, its gradient, and its kernels' rule."""
