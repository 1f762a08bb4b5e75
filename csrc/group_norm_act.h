// Group normalisation and an activation as one operation. With one channel per group it is instance normalisation.
// The schemas, with shapes and dtypes, are in kernels/group_norm_act/compiled.py, which also makes inputs dense.
#pragma once

#include "norm_act.h"

namespace fastvgan {
namespace cpu {

ThreeTensors group_norm_act(Tensor x, int64_t groups, OptionalTensor weight, OptionalTensor bias, double eps,
                            int64_t activation, double slope);
ThreeTensors group_norm_act_backward(Tensor dy, Tensor x, int64_t groups, OptionalTensor weight, OptionalTensor bias,
                                     Tensor mean, Tensor inverse, int64_t activation, double slope);

}  // namespace cpu
}  // namespace fastvgan
