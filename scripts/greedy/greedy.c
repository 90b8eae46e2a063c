/* Counts primes, and wants far more fuel than it gets.
 *
 * One call of on_tick sieves 262,144 numbers, some millions of fuel against a slice of 200,000. So the host pauses it in the
 * middle of the sieve and goes on in the next tick; nothing here knows of that, but the tick's number shows it afterwards. */
#include "../../sdk/c/aether.h"

AETHER_SCRIPT(64);

enum { SEGMENT = 1 << 18, SMALL_MAX = 1 << 16 };

/* What is saved. `from` is where the next segment begins. Beyond SMALL_MAX squared the sieve would miss factors: start again. */
static struct {
    uint32_t layout, from;
    uint64_t primes, segments;
} state = {.layout = 1};

/* Primes below SMALL_MAX, of which the segments are sieved. */
static uint16_t small[6542];
static uint32_t small_count;
/* One bit for a number that is not prime. */
static uint8_t composite[SEGMENT / 8];

static inline bool is_composite(uint32_t n) { return composite[n >> 3] >> (n & 7) & 1; }

static void find_small(void) {
    for (uint32_t n = 2; n < SMALL_MAX; n++) {
        if (is_composite(n)) continue;
        small[small_count++] = (uint16_t)n;
        for (uint32_t m = n * 2; m < SMALL_MAX; m += n) composite[m >> 3] |= (uint8_t)(1 << (m & 7));
    }
}

/* How many primes there are from `from` to before `from + SEGMENT`. */
static uint32_t sieve(uint32_t from) {
    __builtin_memset(composite, 0, sizeof composite);
    for (uint32_t i = 0; i < small_count; i++) {
        uint32_t p = small[i];
        if ((uint64_t)p * p >= (uint64_t)from + SEGMENT) break;
        uint32_t first = p * p > from ? p * p : (from + p - 1) / p * p;
        for (uint32_t m = first - from; m < SEGMENT; m += p) composite[m >> 3] |= (uint8_t)(1 << (m & 7));
    }
    uint32_t primes = 0;
    for (uint32_t n = 0; n < SEGMENT; n++) primes += from + n >= 2 && !is_composite(n);
    return primes;
}

AETHER_EXPORT(on_tick) void on_tick(float dt) {
    (void)dt;
    uint64_t began = aether_tick();
    if (!small_count) find_small();
    if (state.from > UINT32_MAX - SEGMENT * 2u) state.from = 0, state.primes = 0;
    uint32_t found = sieve(state.from);
    state.primes += found;
    state.from += SEGMENT;
    state.segments++;
    aether_text line = {0};
    aether_put_u64(&line, state.primes);
    aether_put(&line, " primes below ");
    aether_put_u64(&line, state.from);
    aether_put(&line, "; this segment took ");
    aether_put_u64(&line, aether_tick() - began + 1);
    aether_put(&line, " ticks");
    aether_log(AETHER_INFO, line.bytes);
}

AETHER_EXPORT(save_state) uint64_t save_state(void) { return aether_saved(&state, sizeof state); }

AETHER_EXPORT(restore_state) int32_t restore_state(uint32_t from_version, const void *saved, uint32_t len) {
    (void)from_version;
    if (len != sizeof state || *(const uint32_t *)saved != state.layout) return 1;
    aether_copy(&state, saved, len);
    return 0;
}
