/* Event sets. A GPU's "event <seq> <type> <data>" lines with a seq above what a set has seen are delivered, lowest first. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"
#include "sim.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_MEMBERS 128

struct set {
    int n;
    struct { void *dev; unsigned long long types, seen; } member[MAX_MEMBERS];
};

#define H(d) (*(void *const *)&(d))

static struct set *as_set(const void *s) { return *(struct set *const *)s; }

/* next_event is the lowest event after seen in a section, or 0. */
static unsigned long long next_event(const struct sim_section *sec, unsigned long long seen, unsigned long long *type, unsigned long long *data) {
    unsigned long long best = 0;
    const char *v;
    for (int i = 0; (v = sim_get(sec, "event", i)) != NULL; i++) {
        unsigned long long seq, t, x;
        if (sscanf(v, "%llu %llu %llu", &seq, &t, &x) != 3 || seq <= seen || (best != 0 && seq >= best)) continue;
        best = seq;
        *type = t;
        *data = x;
    }
    return best;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out) {
    struct sim_section *sec;
    int code = sim_enter("nvmlEventSetCreate", NULL, &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    struct set *s = calloc(1, sizeof *s);
    memcpy(out, &s, sizeof s);
    sim_leave();
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    free(as_set(&set));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, nvmlEventSet_t set) {
    struct sim_section *sec;
    int code = sim_enter("nvmlDeviceRegisterEvents", H(d), &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    struct set *s = as_set(&set);
    if (s->n < MAX_MEMBERS) {
        unsigned long long seen = 0, next, t, x;
        while ((next = next_event(sec, seen, &t, &x)) != 0) seen = next;
        s->member[s->n].dev = H(d);
        s->member[s->n].types = types;
        s->member[s->n++].seen = seen;
    }
    sim_leave();
    return NVML_SUCCESS;
}

/* poll looks once; SIM_TIMEOUT means nothing new. */
static int poll_once(const char *fn, struct set *s, nvmlEventData_t *out) {
    struct sim_section *sec;
    int code = sim_enter(fn, NULL, &sec);
    if (code != SIM_OK) return code;
    code = SIM_TIMEOUT;
    for (int i = 0; i < s->n && code == SIM_TIMEOUT; i++) {
        unsigned long long type, data, seq;
        seq = next_event(sim_by_id(s->member[i].dev), s->member[i].seen, &type, &data);
        if (seq == 0) continue;
        s->member[i].seen = seq;
        if ((type & s->member[i].types) == 0) continue;
        memset(out, 0, sizeof *out);
        memcpy(&out->device, &s->member[i].dev, sizeof out->device);
        out->eventType = type;
        out->eventData = data;
        out->gpuInstanceId = out->computeInstanceId = 0xFFFFFFFF;
        code = SIM_OK;
    }
    sim_leave();
    return code;
}

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* As with the real driver, whoever waits costs nothing: it sleeps until the state changes. */
static void wait_change(int fd, long ms) {
    if (fd < 0) {
        sim_sleep_ms(ms < 20 ? ms : 20);
        return;
    }
    char events[4096];
    struct pollfd p = {fd, POLLIN, 0};
    if (poll(&p, 1, (int)ms) > 0)
        while (read(fd, events, sizeof events) > 0) {
        }
}

static nvmlReturn_t wait_for(const char *fn, nvmlEventSet_t set, nvmlEventData_t *out, unsigned int ms) {
    int fd = ms > 0 ? sim_watch() : -1;
    long until = now_ms() + ms;
    for (;;) {
        int code = poll_once(fn, as_set(&set), out);
        long left = until - now_ms();
        if (code != SIM_TIMEOUT || left <= 0) {
            if (fd >= 0) close(fd);
            return (nvmlReturn_t)code;
        }
        wait_change(fd, left);
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t s, nvmlEventData_t *out, unsigned int ms) { return wait_for("nvmlEventSetWait", s, out, ms); }
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t s, nvmlEventData_t *out, unsigned int ms) { return wait_for("nvmlEventSetWait_v2", s, out, ms); }
