// Guidance, and the weighted sum that gives the next latent: see `plain_update` in op.py. All values are float32.
//
// Grid: (blocks for the values of a picture, samples). weights: [2 + taps, samples]. guides: the place of this
// evaluation's eps after guidance; those of earlier evaluations lie before it.

extern "C" __global__ void canny2image_update(float* x, const float* noise, const float* eps, const float* scale,
                                              const float* weights, float* guides, int values, int taps) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");  // see runtime/early_launch.py
#endif
    const int i = blockIdx.x * blockDim.x + threadIdx.x, n = blockIdx.y, samples = gridDim.y;
    if (i >= values) return;
    const int at = n * values + i, all = samples * values;
    const float without = eps[all + at], guide = without + scale[n] * (eps[at] - without);
    float sum = weights[n] * x[at] + weights[samples + n] * noise[at] + weights[2 * samples + n] * guide;
    for (int tap = 1; tap < taps; ++tap) sum += weights[(2 + tap) * samples + n] * guides[at - tap * all];
    guides[at] = guide;
    x[at] = sum;
}
