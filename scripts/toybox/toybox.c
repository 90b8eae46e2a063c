/* A pen of balls and crates that are kicked about.
 *
 * Every two seconds one toy gets an impulse; what falls or rolls out is put back. Bounces are counted from contact events, and
 * the loud ones are heard, as far as the audio allowance goes. */
#include "../../sdk/c/aether.h"

AETHER_SCRIPT(256);

enum { BALLS = 6, CRATES = 3, TOYS = BALLS + CRATES };

static const float KICK_EVERY = 2.0f;  /* seconds */
static const float PEN_RADIUS = 8.0f;  /* metres */
static const float FLOOR = -1.0f;      /* below this a toy has fallen out of the world */
static const float LOUD = 2.0f;        /* metres a second */
static const float BOUNCE_EVERY = 0.1f; /* seconds between two sounds */

/* What is saved, as it lies in memory. */
static struct {
    uint32_t layout; /* raised when the fields change */
    uint32_t bounces, resets;
    float until_kick;
    aether_vec3 middle;
    aether_entity toys[TOYS]; /* 0: to be spawned */
} state = {.layout = 1};

static bool placed;
static float until_sound;

static void place(void) {
    if (placed) return;
    placed = true;
    if (aether_length(state.middle) == 0) aether_get_position(aether_self(), &state.middle);
}

/* Somewhere above the pen. */
static aether_vec3 above(void) {
    float x = aether_random_between(-3, 3), z = aether_random_between(-3, 3);
    return aether_add(state.middle, aether_vec(x, aether_random_between(2, 5), z));
}

static void spawn_missing(void) {
    for (int i = 0; i < TOYS; i++) {
        if (state.toys[i]) continue;
        aether_entity toy = aether_spawn(i < BALLS ? "ball" : "crate", above());
        if (toy < 0) return; /* the allowance comes back next tick */
        state.toys[i] = toy;
    }
}

static void kick(float dt) {
    state.until_kick -= dt;
    if (state.until_kick > 0) return;
    state.until_kick = KICK_EVERY;
    int which = (int)(aether_random() % TOYS);
    aether_vec3 at;
    if (!state.toys[which] || aether_get_position(state.toys[which], &at) < 0) return;
    /* Towards the middle and up; a crate of 10 kg needs more than a ball of 0.5 kg. */
    float strength = which < BALLS ? 2.5f : 45.0f;
    aether_vec3 way = aether_resized(aether_sub(state.middle, at), strength);
    aether_apply_impulse(state.toys[which], aether_vec(way.x, strength, way.z));
}

/* Puts back what left, and forgets what somebody destroyed. */
static void tidy(void) {
    static aether_body bodies[TOYS];
    if (aether_read_bodies(state.toys, TOYS, bodies) < 0) return;
    for (int i = 0; i < TOYS; i++) {
        if (!bodies[i].entity) {
            state.toys[i] = 0;
            continue;
        }
        aether_vec3 away = aether_sub(bodies[i].position, state.middle);
        if (bodies[i].position.y > FLOOR && away.x * away.x + away.z * away.z < PEN_RADIUS * PEN_RADIUS) continue;
        aether_set_position(state.toys[i], above());
        aether_set_velocity(state.toys[i], aether_vec(0, 0, 0));
        state.resets++;
    }
}

AETHER_EXPORT(on_start) void on_start(void) {
    place();
    spawn_missing();
}

AETHER_EXPORT(on_tick) void on_tick(float dt) {
    place();
    until_sound -= dt;
    tidy();
    spawn_missing();
    kick(dt);
}

AETHER_EXPORT(on_event)
void on_event(uint32_t kind, uint64_t a, uint64_t b, const char *data, uint32_t topic_len, uint32_t payload_len) {
    (void)b, (void)data, (void)topic_len, (void)payload_len;
    if (kind != AETHER_CONTACT_BEGAN) return;
    if (++state.bounces % 100 == 0) {
        aether_text line = {0};
        aether_put_u64(&line, state.bounces);
        aether_put(&line, " bounces, ");
        aether_put_u64(&line, state.resets);
        aether_put(&line, " toys put back");
        aether_log(AETHER_INFO, line.bytes);
    }
    if (until_sound > 0) return;
    aether_vec3 at, velocity;
    if (aether_get_velocity((aether_entity)a, &velocity) < 0 || aether_get_position((aether_entity)a, &at) < 0) return;
    float speed = aether_length(velocity);
    if (speed < LOUD) return;
    until_sound = BOUNCE_EVERY;
    aether_play("bounce", at, speed > 10 ? 1.0f : speed / 10, 1, 20, false);
}

AETHER_EXPORT(on_stop) void on_stop(void) {
    for (int i = 0; i < TOYS; i++)
        if (state.toys[i]) aether_destroy(state.toys[i]);
}

AETHER_EXPORT(save_state) uint64_t save_state(void) { return aether_saved(&state, sizeof state); }

AETHER_EXPORT(restore_state) int32_t restore_state(uint32_t from_version, const void *saved, uint32_t len) {
    (void)from_version;
    if (len != sizeof state || *(const uint32_t *)saved != state.layout) return 1;
    aether_copy(&state, saved, len);
    return 0;
}
