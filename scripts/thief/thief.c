/* A thief that sneaks from one tempting place to the next and runs from guards.
 *
 * When a guard arrests it (the broadcast `arrest` with its id), it sits in its lair for a while and then tries again. */
#include "../../sdk/c/aether.h"

AETHER_SCRIPT(256);

static const float SNEAK = 1.2f, RUN = 3.6f; /* metres a second */
static const float AFRAID = 7.0f;            /* metres to a guard */
static const float JAIL = 8.0f;              /* seconds */
static const float LOITER = 3.0f;            /* seconds at a tempting place */

/* What tempts it, in this order. */
static const char *const TEMPTING[] = {"merchant", "customer", "toybox"};
enum { TEMPTATIONS = sizeof TEMPTING / sizeof *TEMPTING };

/* What is saved. */
static struct {
    uint32_t layout, temptation, arrests;
    float jailed, loitered; /* seconds: to go, and so far */
    aether_vec3 lair;
    uint32_t has_lair;
} state = {.layout = 1};

static aether_entity me;
static bool listening;

/* Walks over the ground; true when it is there. */
static bool go(aether_vec3 here, aether_vec3 to, float speed) {
    aether_vec3 way = aether_vec(to.x - here.x, 0, to.z - here.z);
    bool there = aether_length(way) < 1.5f;
    aether_set_velocity(me, there ? aether_vec(0, 0, 0) : aether_resized(way, speed));
    return there;
}

AETHER_EXPORT(on_tick) void on_tick(float dt) {
    if (!listening) listening = aether_subscribe("arrest") == 0;
    aether_vec3 here, there;
    if (me <= 0 && (me = aether_self()) <= 0) return;
    if (aether_get_position(me, &here) < 0) return;
    if (!state.has_lair) state.lair = here, state.has_lair = 1;

    if (state.jailed > 0) {
        state.jailed -= dt;
        if (state.jailed > 0) return;
        aether_remove_component(me, "jailed");
        aether_log(AETHER_INFO, "out again");
    }
    aether_entity guard = aether_nearest(here, AFRAID, "guard");
    if (guard > 0 && aether_get_position(guard, &there) == 0) {
        /* Away from the guard, a little towards the lair: not into the nearest corner. */
        aether_vec3 away = aether_add(aether_resized(aether_sub(here, there), 3), aether_resized(aether_sub(state.lair, here), 1));
        aether_set_velocity(me, aether_resized(aether_vec(away.x, 0, away.z), RUN));
        state.loitered = 0;
        return;
    }
    aether_entity goal = aether_nearest(here, 200, TEMPTING[state.temptation % TEMPTATIONS]);
    if (goal <= 0 || aether_get_position(goal, &there) < 0) {
        state.temptation++;
        return;
    }
    if (!go(here, there, SNEAK)) return;
    state.loitered += dt;
    if (state.loitered < LOITER) return;
    state.loitered = 0;
    state.temptation++;
    aether_play("coins", here, 0.5f, 1, 10, false);
}

AETHER_EXPORT(on_event)
void on_event(uint32_t kind, uint64_t a, uint64_t b, const char *data, uint32_t topic_len, uint32_t payload_len) {
    (void)a, (void)b;
    if (kind != AETHER_BROADCAST || !aether_is(data, topic_len, "arrest") || payload_len != 8) return;
    aether_entity who;
    aether_copy(&who, data + topic_len, 8);
    if (who != me || me <= 0) return;
    state.arrests++;
    state.jailed = JAIL;
    /* Guards leave it alone for so long. */
    aether_set_component(me, "jailed", "yes", 3);
    aether_set_position(me, state.lair);
    aether_set_velocity(me, aether_vec(0, 0, 0));
    aether_text line = {0};
    aether_put(&line, "arrested, ");
    aether_put_u64(&line, state.arrests);
    aether_put(&line, state.arrests == 1 ? " time" : " times");
    aether_log(AETHER_INFO, line.bytes);
}

AETHER_EXPORT(on_stop) void on_stop(void) {
    if (me > 0) aether_set_velocity(me, aether_vec(0, 0, 0));
}

AETHER_EXPORT(save_state) uint64_t save_state(void) { return aether_saved(&state, sizeof state); }

AETHER_EXPORT(restore_state) int32_t restore_state(uint32_t from_version, const void *saved, uint32_t len) {
    (void)from_version;
    if (len != sizeof state || *(const uint32_t *)saved != state.layout) return 1;
    aether_copy(&state, saved, len);
    return 0;
}
