/* A bell that rings every five seconds: the topic `bell`, with how often it has rung. The example of the guide for C. */
#include "../../sdk/c/aether.h"

AETHER_SCRIPT(256);

/* What is saved. A change of its layout needs another number. */
static struct {
    uint32_t layout, rings;
    float wait; /* seconds to the next ring */
} state = {.layout = 1, .wait = 5};

AETHER_EXPORT(on_tick) void on_tick(float dt) {
    state.wait -= dt;
    if (state.wait > 0) return;
    aether_text count = {0};
    aether_put_u64(&count, state.rings + 1);
    /* Not sent (rate-limited, say): the next tick tries again. */
    if (aether_broadcast("bell", count.bytes, count.len) < 0) return;
    state.rings++;
    state.wait += 5;
}

AETHER_EXPORT(save_state) uint64_t save_state(void) { return aether_saved(&state, sizeof state); }

AETHER_EXPORT(restore_state) int32_t restore_state(uint32_t from_version, const void *saved, uint32_t len) {
    (void)from_version;
    if (len != sizeof state || *(const uint32_t *)saved != state.layout) return 1;
    aether_copy(&state, saved, len);
    return 0;
}
