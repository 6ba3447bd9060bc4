/* GPU performance monitoring: "GpmSupport 1" on the GPU, "Gpm.<metric> <number>" on it or on an instance. What two samples tell
   is the reading at the time of the later one. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define H(d) (*(void *const *)&(d))
#define METRICS 128

struct sample {
    char id[128];
    double value[METRICS];
    char has[METRICS];
};

static struct sample *as_sample(const void *s) { return *(struct sample *const *)s; }

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t d, nvmlGpmSupport_t *out) {
    struct sim_section *sec;
    int code = sim_enter("nvmlGpmQueryDeviceSupport", H(d), &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    const char *v = sim_get(sec, "GpmSupport", 0);
    out->isSupportedDevice = v != NULL && atoi(v) != 0;
    sim_leave();
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *out) {
    struct sim_section *sec;
    int code = sim_enter("nvmlGpmSampleAlloc", NULL, &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    struct sample *s = calloc(1, sizeof *s);
    memcpy(out, &s, sizeof s);
    sim_leave();
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t s) {
    free(as_sample(&s));
    return NVML_SUCCESS;
}

static void take(struct sample *s, const struct sim_section *sec) {
    memset(s, 0, sizeof *s);
    snprintf(s->id, sizeof s->id, "%s", sec->id);
    for (int i = 0; i < sec->n; i++) {
        unsigned int metric;
        if (strncmp(sec->keys[i], "Gpm.", 4) != 0 || (metric = strtoul(sec->keys[i] + 4, NULL, 10)) >= METRICS) continue;
        s->has[metric] = 1;
        s->value[metric] = strtod(sec->vals[i], NULL);
    }
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t d, nvmlGpmSample_t s) {
    struct sim_section *sec;
    int code = sim_enter("nvmlGpmSampleGet", H(d), &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    int able = sim_get(sec, "GpmSupport", 0) != NULL;
    if (able) take(as_sample(&s), sec);
    sim_leave();
    return able ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t d, unsigned int gi, nvmlGpmSample_t s) {
    struct sim_section *sec, *mig;
    int code = sim_enter("nvmlGpmMigSampleGet", H(d), &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    code = SIM_NOT_FOUND;
    for (int i = 0; (mig = sim_mig(sec, i)) != NULL; i++) {
        const char *own = sim_get(mig, "GpuInstanceId", 0);
        if (own == NULL || strtoul(own, NULL, 10) != gi) continue;
        take(as_sample(&s), mig);
        code = SIM_OK;
        break;
    }
    sim_leave();
    return (nvmlReturn_t)code;
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get) {
    struct sim_section *sec;
    int code = sim_enter("nvmlGpmMetricsGet", NULL, &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    sim_leave();
    struct sample *before = as_sample(&get->sample1), *after = as_sample(&get->sample2);
    if (before == after || before->id[0] == 0 || strcmp(before->id, after->id) != 0) return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int i = 0; i < get->numMetrics; i++) {
        unsigned int m = get->metrics[i].metricId;
        int has = m < METRICS && after->has[m];
        get->metrics[i].nvmlReturn = has ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
        get->metrics[i].value = has ? after->value[m] : 0;
    }
    return NVML_SUCCESS;
}
