/* Event sets. A GPU's "event <seq> <type> <data>" lines with a seq above what a set has seen are delivered, lowest first. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static nvmlReturn_t wait_for(const char *fn, nvmlEventSet_t set, nvmlEventData_t *out, unsigned int ms) {
    struct set *s = as_set(&set);
    for (;;) {
        int code = poll_once(fn, s, out);
        if (code != SIM_TIMEOUT || ms == 0) return (nvmlReturn_t)code;
        unsigned int step = ms < 20 ? ms : 20;
        sim_sleep_ms(step);
        ms -= step;
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t s, nvmlEventData_t *out, unsigned int ms) { return wait_for("nvmlEventSetWait", s, out, ms); }
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t s, nvmlEventData_t *out, unsigned int ms) { return wait_for("nvmlEventSetWait_v2", s, out, ms); }
