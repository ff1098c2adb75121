#pragma once

#include "kernels.h"

// The inverse of A = M + lambda I in products of matrices, for devices without a factorisation.
//
// M is symmetric, has no negative eigenvalue, and its trace is d: so those of A are between lambda and lambda + d. Newton-Schulz
// steps X <- rho X (2 I - rho A X) take the eigenvalues t of A X from [l, 1] to [4 l/(1 + l)^2, 1] if rho = 2/(1 + l): from 1/129 to
// 1 - 1e-4 in seven steps. (Pan, Schreiber, "An Improved Newton Iteration for the Generalized Inverse of a Matrix, with
// Applications", SIAM J. Sci. Stat. Comput. 12, 1991: the scaled steps.)
//
// Backends round the factors of a product to 10 bits (TF32, half). A step corrects the errors of those before it, so only the last
// two are computed in more bits: each factor as the sum of two that have 10 bits.
//
//   m: F32 [d, d, n_head]; result: F32 [d, d, n_head], to about 1e-4
ggml_tensor * capkv_build_inverse(ggml_context * ctx, ggml_tensor * m, ggml_tensor * eye, float lambda);

// x as hi + lo along dim 0: hi has 10 bits, lo is the rest: F32 [2 ne0, ne1, ne2]
ggml_tensor * capkv_build_split(ggml_context * ctx, ggml_tensor * x);
