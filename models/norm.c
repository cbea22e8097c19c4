/* Batch norm of bfloat16 maps in channels_last, together with the shortcut sum and the ReLU that follow it.
 *
 * models/kernels.py compiles and calls this file.
 *
 * A map is a matrix of N rows and C channels, N = batch x height x width. For norm and ReLU, forward and
 * backward, PyTorch reads or writes a map 14 times, and its loops over few channels do not fill a
 * vector. This code needs 8 times. Sums are float32 within a chunk of rows and double over the chunks.
 * It runs on one thread, because starting another costs as much as a small map.
 *
 * The loops work on whole tiles of 64 numbers. So G rows are taken as one period of P = G C numbers,
 * where P is a multiple of 64, and the values of each channel are repeated G times. The rows that remain
 * at the end are computed number by number.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#define LANES 16
#define VECTORS 4             /* of a tile: its sums stay in registers */
#define TILE (LANES * VECTORS)
#define CHUNK 16384           /* numbers: the chunks of two or three maps fit into the cache of a core */
#define LEAST_PERIODS 32      /* of a chunk: with fewer, its sums cost more than its numbers */
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;
typedef float vf __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2)));

INLINE vf widen(const bf16 *p) {
#ifdef __AVX512BW__ /* one instruction; GCC 12 makes five of the portable form */
    return (vf)_mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
#else
    vh half;
    memcpy(&half, p, sizeof half);
    return (vf)(__builtin_convertvector(half, vu) << 16);
#endif
}

/* Rounds to nearest, ties to even. A NaN stays a NaN. */
INLINE void narrow(bf16 *p, vf v) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    vu bits = (vu)v, nan = (vu)(v != v);
    vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vh half = __builtin_convertvector((nan & 0x7fc0) | (~nan & rounded), vh);
    memcpy(p, &half, sizeof half);
#endif
}

INLINE float widen1(bf16 h) {
    uint32_t bits = (uint32_t)h << 16;
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

INLINE bf16 narrow1(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return v != v ? 0x7fc0 : (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* ReLU and its gradient as in PyTorch: they pass NaN on. */
INLINE vf positive(vf v) { return (vf)((vu)v & ~(vu)(v < 0)); }
INLINE vf where_positive(vf g, vf y) { return (vf)((vu)g & ~(vu)(y <= 0)); }
INLINE float positive1(float v) { return v < 0 ? 0 : v; }
INLINE float where_positive1(float g, float y) { return y <= 0 ? 0 : g; }

INLINE vf at(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

typedef struct {
    const bf16 *x, *shortcut, *grad, *y;
    bf16 *out, *masked;
    const float *a, *b, *c, *slope, *offset; /* one value for each channel, repeated over a period */
    double *sums;   /* C sums, then C sums of products */
    float *scratch; /* two periods: both kinds of sums of one chunk */
    int64_t rows, channels, period;
    int relu;
} Maps;

static void period_of(Maps *m, int64_t rows, int64_t channels) {
    int64_t group = 1;
    while (group * channels % TILE) group++;
    m->rows = rows, m->channels = channels, m->period = group * channels;
}

static void repeat(float *to, const float *from, const Maps *m) {
    for (int64_t at = 0; at < m->period; at += m->channels) memcpy(to + at, from, 4 * m->channels);
}

typedef void (*Pass)(const Maps *, int64_t from, int64_t to, int64_t vector_to);

static void over_chunks(const Maps *m, Pass pass) {
    int64_t numbers = m->rows * m->channels, periods = CHUNK / m->period;
    int64_t chunk = (periods > LEAST_PERIODS ? periods : LEAST_PERIODS) * m->period;
    for (int64_t from = 0; from < numbers; from += chunk) {
        int64_t to = from + chunk < numbers ? from + chunk : numbers;
        pass(m, from, to, from + (to - from) / m->period * m->period);
    }
}

/* --- Passes over a map. Constant arguments make the compiler specialise them. --------------------------- */

/* out = relu(a x + b + shortcut) */
INLINE void apply(const Maps *m, int64_t from, int64_t to, int64_t vector_to, int sum, int relu) {
    const bf16 *restrict x = m->x, *restrict shortcut = m->shortcut;
    const float *restrict a = m->a, *restrict b = m->b;
    bf16 *restrict out = m->out;
    const int64_t period = m->period;
    for (int64_t base = from; base < vector_to; base += period)
        for (int64_t i = 0; i < period; i += LANES) {
            vf v = widen(x + base + i) * at(a + i) + at(b + i);
            if (sum) v += widen(shortcut + base + i);
            narrow(out + base + i, relu ? positive(v) : v);
        }
    for (int64_t j = vector_to; j < to; j++) {
        float v = widen1(x[j]) * a[j - vector_to] + b[j - vector_to];
        if (sum) v += widen1(shortcut[j]);
        out[j] = narrow1(relu ? positive1(v) : v);
    }
}

/* How the backward pass finds out where the ReLU was inactive.
 *
 * OPEN: there was no ReLU. BY_OUTPUT: from the output. BY_INPUT: from the output before rounding,
 * computed from x again; this reads one map less, and it agrees because rounding never makes a positive
 * number zero or less. OF_MAP: not a backward pass; the sums of the map itself are wanted. */
enum { OPEN, BY_OUTPUT, BY_INPUT, OF_MAP };

INLINE vf behind(int relu, vf g, vf x, const bf16 *y, const float *slope, const float *offset) {
    if (relu == BY_OUTPUT) return where_positive(g, widen(y));
    if (relu == BY_INPUT) return where_positive(g, x * at(slope) + at(offset));
    return g;
}

INLINE float behind1(int relu, float g, float x, const bf16 *y, const float *slope, const float *offset) {
    if (relu == BY_OUTPUT) return where_positive1(g, widen1(*y));
    if (relu == BY_INPUT) return where_positive1(g, x * *slope + *offset);
    return g;
}

/* Adds the sums of g and of g (x - b) to `sums`.
 *
 * g is the gradient before the ReLU, which is also written to `masked` if `keep`; for OF_MAP it is x - b
 * itself. b is close to the mean, so that little precision is lost by cancellation. */
INLINE void add_sums(const Maps *m, int64_t from, int64_t to, int64_t vector_to, int relu, int keep) {
    const bf16 *restrict x = m->x, *restrict grad = m->grad, *restrict y = m->y;
    const float *restrict b = m->b, *restrict slope = m->slope, *restrict offset = m->offset;
    bf16 *restrict masked = m->masked;
    const int64_t period = m->period, channels = m->channels;
    float *first = m->scratch, *second = first + period;
    for (int64_t i = 0; i < period; i += TILE) {
        vf one[VECTORS] = {0}, two[VECTORS] = {0};
        for (int64_t j = from + i; j < vector_to; j += period)
            for (int k = 0; k < VECTORS; k++) {
                const int64_t at_ = i + k * LANES, j_ = j + k * LANES;
                vf map = widen(x + j_), off = map - at(b + at_), g = off;
                if (relu != OF_MAP)
                    g = behind(relu, widen(grad + j_), map, y + j_, slope + at_, offset + at_);
                if (keep) narrow(masked + j_, g);
                one[k] += g, two[k] += g * off;
            }
        memcpy(first + i, one, sizeof one);
        memcpy(second + i, two, sizeof two);
    }
    for (int64_t j = vector_to; j < to; j++) {
        const int64_t at_ = j - vector_to;
        float map = widen1(x[j]), off = map - b[at_], g = off;
        if (relu != OF_MAP) g = behind1(relu, widen1(grad[j]), map, y + j, slope + at_, offset + at_);
        if (keep) masked[j] = narrow1(g);
        first[at_] += g, second[at_] += g * off;
    }
    for (int64_t at_ = channels; at_ < period; at_ += channels)
        for (int64_t c = 0; c < channels; c++) first[c] += first[at_ + c], second[c] += second[at_ + c];
    for (int64_t c = 0; c < channels; c++) m->sums[c] += first[c], m->sums[channels + c] += second[c];
}

/* out = a g + b x + c */
INLINE void input_gradient(const Maps *m, int64_t from, int64_t to, int64_t vector_to, int relu) {
    const bf16 *restrict x = m->x, *restrict grad = m->grad, *restrict y = m->y;
    const float *restrict a = m->a, *restrict b = m->b, *restrict c = m->c;
    const float *restrict slope = m->slope, *restrict offset = m->offset;
    bf16 *restrict out = m->out;
    const int64_t period = m->period;
    for (int64_t base = from; base < vector_to; base += period)
        for (int64_t i = 0; i < period; i += LANES) {
            vf map = widen(x + base + i),
               g = behind(relu, widen(grad + base + i), map, y + base + i, slope + i, offset + i);
            narrow(out + base + i, g * at(a + i) + (map * at(b + i) + at(c + i)));
        }
    for (int64_t j = vector_to; j < to; j++) {
        const int64_t at_ = j - vector_to;
        float map = widen1(x[j]), g = behind1(relu, widen1(grad[j]), map, y + j, slope + at_, offset + at_);
        out[j] = narrow1(g * a[at_] + (map * b[at_] + c[at_]));
    }
}

static void applied(const Maps *m, int64_t from, int64_t to, int64_t vector_to) {
    if (m->shortcut) {
        if (m->relu) apply(m, from, to, vector_to, 1, 1);
        else apply(m, from, to, vector_to, 1, 0);
    } else if (m->relu) apply(m, from, to, vector_to, 0, 1);
    else apply(m, from, to, vector_to, 0, 0);
}

static void moments(const Maps *m, int64_t from, int64_t to, int64_t vector_to) {
    add_sums(m, from, to, vector_to, OF_MAP, 0);
}

static void summed(const Maps *m, int64_t from, int64_t to, int64_t vector_to) {
    if (m->relu == OPEN) add_sums(m, from, to, vector_to, OPEN, 0);
    else if (m->relu == BY_INPUT) add_sums(m, from, to, vector_to, BY_INPUT, 0);
    else if (m->masked) add_sums(m, from, to, vector_to, BY_OUTPUT, 1);
    else add_sums(m, from, to, vector_to, BY_OUTPUT, 0);
}

static void returned(const Maps *m, int64_t from, int64_t to, int64_t vector_to) {
    if (m->relu == OPEN) input_gradient(m, from, to, vector_to, OPEN);
    else if (m->relu == BY_INPUT) input_gradient(m, from, to, vector_to, BY_INPUT);
    else input_gradient(m, from, to, vector_to, BY_OUTPUT);
}

/* --- Functions that Python calls. They return 0, or 1 if there is no memory. ---------------------------- */

/* Not inlined, so that forward and backward pass compute the same bits. */
static __attribute__((noinline)) float slope_of(float weight, float invstd) { return weight * invstd; }
static __attribute__((noinline)) float offset_of(float bias, float mean, float slope) {
    return bias - mean * slope;
}

/* The norm in training: with the batch's statistics; updates the running ones.
 *
 * shortcut: may be NULL. mean, invstd: outputs that the backward pass needs. */
int norm_train(const bf16 *x, const bf16 *shortcut, bf16 *out, const float *weight, const float *bias,
               float *running_mean, float *running_var, float *mean, float *invstd, double momentum,
               double eps, int64_t rows, int64_t channels, int relu) {
    Maps m = {.x = x, .shortcut = shortcut, .out = out, .relu = relu};
    period_of(&m, rows, channels);
    double *sums = calloc(1, 16 * channels + 4 * (4 * m.period + 2 * channels));
    if (!sums) return 1;
    float *a = (float *)(sums + 2 * channels), *b = a + m.period, *near = b + m.period,
        *slope = near + channels;
    m.a = a, m.b = b, m.sums = sums, m.scratch = slope + channels;
    for (int64_t c = 0; c < channels; c++) near[c] = widen1(x[c]);
    repeat(b, near, &m);
    over_chunks(&m, moments);
    for (int64_t c = 0; c < channels; c++) {
        double off = sums[c] / rows, var = sums[channels + c] / rows - off * off;
        if (var < 0) var = 0;
        mean[c] = (float)(near[c] + off), invstd[c] = (float)(1 / sqrt(var + eps));
        running_mean[c] += (float)(momentum * (near[c] + off - running_mean[c]));
        running_var[c] += (float)(momentum * (var * rows / (rows - 1) - running_var[c]));
        slope[c] = slope_of(weight[c], invstd[c]), near[c] = offset_of(bias[c], mean[c], slope[c]);
    }
    repeat(a, slope, &m), repeat(b, near, &m);
    over_chunks(&m, applied);
    free(sums);
    return 0;
}

/* The norm in evaluation: with the running statistics. shortcut: may be NULL. */
int norm_eval(const bf16 *x, const bf16 *shortcut, bf16 *out, const float *weight, const float *bias,
              const float *running_mean,
              const float *running_var, double eps, int64_t rows, int64_t channels, int relu) {
    Maps m = {.x = x, .shortcut = shortcut, .out = out, .relu = relu};
    period_of(&m, rows, channels);
    float *room = malloc(4 * (2 * m.period + 2 * channels));
    if (!room) return 1;
    float *a = room, *b = a + m.period, *slope = b + m.period, *offset = slope + channels;
    m.a = a, m.b = b;
    for (int64_t c = 0; c < channels; c++) {
        slope[c] = (float)(weight[c] / sqrt(running_var[c] + eps));
        offset[c] = bias[c] - running_mean[c] * slope[c];
    }
    repeat(a, slope, &m), repeat(b, offset, &m);
    over_chunks(&m, applied);
    free(room);
    return 0;
}

/* The gradients of norm_train by x, shortcut, weight and bias.
 *
 * masked: the gradient by the shortcut; NULL if there is no ReLU or no shortcut. y: the output of
 * norm_train if there are both ReLU and shortcut; otherwise NULL. */
int norm_backward(const bf16 *grad, const bf16 *x, const bf16 *y, const float *weight, const float *bias,
                  const float *mean, const float *invstd, bf16 *of_x, bf16 *masked, float *of_weight,
                  float *of_bias, int64_t rows, int64_t channels, int relu) {
    Maps m = {.x = x, .grad = grad, .y = y, .out = of_x, .masked = masked,
        .relu = !relu ? OPEN : y ? BY_OUTPUT : BY_INPUT};
    period_of(&m, rows, channels);
    double *sums = calloc(1, 16 * channels + 4 * (7 * m.period + 3 * channels));
    if (!sums) return 1;
    float *a = (float *)(sums + 2 * channels), *b = a + m.period, *c_ = b + m.period, *slope = c_ + m.period,
        *offset = slope + m.period;
    float *one = offset + m.period, *two = one + channels, *three = two + channels;
    m.a = a, m.b = b, m.c = c_, m.slope = slope, m.offset = offset, m.sums = sums,
        m.scratch = three + channels;
    for (int64_t c = 0; c < channels; c++)
        one[c] = slope_of(weight[c], invstd[c]), two[c] = offset_of(bias[c], mean[c], one[c]);
    repeat(slope, one, &m), repeat(offset, two, &m), repeat(b, mean, &m);
    over_chunks(&m, summed);
    for (int64_t c = 0; c < channels; c++) {
        double sum = sums[c], along = sums[channels + c] * invstd[c];
        of_bias[c] = (float)sum, of_weight[c] = (float)along;
        /* w invstd (g - sum / N - xhat along / N), xhat = (x - mean) invstd */
        two[c] = (float)(-one[c] * invstd[c] * along / rows);
        three[c] = (float)(-one[c] * sum / rows - (double)two[c] * mean[c]);
    }
    repeat(a, one, &m), repeat(b, two, &m), repeat(c_, three, &m);
    if (masked) m.grad = masked, m.relu = OPEN;
    over_chunks(&m, returned);
    free(sums);
    return 0;
}
