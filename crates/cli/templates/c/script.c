/* Counts how often it is asked, and tells. */
#include "aether.h"

AETHER_SCRIPT(256);

/* What is saved. It begins with a number for its layout: raise it when the fields change. */
static struct {
    uint32_t layout, asked;
    float seconds;
} state = {.layout = 1};

AETHER_EXPORT(on_start) void on_start(void) { aether_log(AETHER_INFO, "{{name}} begins"); }

AETHER_EXPORT(on_tick) void on_tick(float dt) { state.seconds += dt; }

AETHER_EXPORT(on_message)
void on_message(uint64_t from, uint64_t call, const char *data, uint32_t method_len, uint32_t payload_len) {
    (void)from, (void)payload_len;
    if (!aether_is(data, method_len, "count")) return;
    state.asked++;
    aether_text answer = {0};
    aether_put_u64(&answer, state.asked);
    aether_reply(call, answer.bytes, answer.len);
}

AETHER_EXPORT(save_state) uint64_t save_state(void) { return aether_saved(&state, sizeof state); }

AETHER_EXPORT(restore_state) int32_t restore_state(uint32_t from_version, const void *saved, uint32_t len) {
    (void)from_version;
    if (len != sizeof state || *(const uint32_t *)saved != state.layout) return 1;
    aether_copy(&state, saved, len);
    return 0;
}
