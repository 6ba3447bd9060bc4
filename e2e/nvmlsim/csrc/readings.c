/* Calls whose answer is a few numbers or a string. The key in the state file is the call's name after "nvmlDeviceGet",
   with its selectors appended: ClockInfo.1 is nvmlDeviceGetClockInfo(device, 1). No key means not supported.
   nvml.h is left out on purpose: to the ABI its enums are ints and its flat structs arrays. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int u32;
typedef unsigned long long u64;

static const char *find(struct sim_section *sec, const char *fn, int nsel, const u32 *sel) {
    char key[160];
    int at = snprintf(key, sizeof key, "%s", strncmp(fn, "nvmlDeviceGet", 13) == 0 ? fn + 13 : fn + 4);
    for (int i = 0; i < nsel; i++) at += snprintf(key + at, sizeof key - at, ".%u", sel[i]);
    return sim_get(sec, key, 0);
}

static int read_numbers(const char *fn, void *dev, int nsel, const u32 *sel, int n, int wide, void *const *out) {
    struct sim_section *sec;
    int code = sim_enter(fn, dev, &sec);
    if (code != SIM_OK) return code;
    const char *v = find(sec, fn, nsel, sel);
    char *end = (char *)v;
    for (int i = 0; v != NULL && i < n; i++) {
        u64 x = strtoull(end, &end, 0);
        if (out[i] == NULL) continue;
        if (wide) *(u64 *)out[i] = x;
        else *(u32 *)out[i] = (u32)x;
    }
    sim_leave();
    return v == NULL ? SIM_NOT_SUPPORTED : SIM_OK;
}

static int read_string(const char *fn, void *dev, char *out, u32 size) {
    struct sim_section *sec;
    int code = sim_enter(fn, dev, &sec);
    if (code != SIM_OK) return code;
    const char *v = find(sec, fn, 0, NULL);
    if (v == NULL) code = SIM_NOT_SUPPORTED;
    else if (strlen(v) + 1 > size) code = SIM_TOO_SMALL;
    else strcpy(out, v);
    sim_leave();
    return code;
}

#define NUM1(fn, T, wide)                                                  \
    int fn(void *d, T *a) {                                                \
        void *out[] = {a};                                                 \
        return read_numbers(#fn, d, 0, NULL, 1, wide, out);                \
    }
#define NUM2(fn, T, wide)                                                  \
    int fn(void *d, T *a, T *b) {                                          \
        void *out[] = {a, b};                                              \
        return read_numbers(#fn, d, 0, NULL, 2, wide, out);                \
    }
#define NUM4(fn)                                                           \
    int fn(void *d, u32 *a, u32 *b, u32 *c, u32 *e) {                      \
        void *out[] = {a, b, c, e};                                        \
        return read_numbers(#fn, d, 0, NULL, 4, 0, out);                   \
    }
#define SEL1(fn)                                                           \
    int fn(void *d, u32 s, u32 *a) {                                       \
        void *out[] = {a};                                                 \
        return read_numbers(#fn, d, 1, &s, 1, 0, out);                     \
    }
#define SEL2(fn, T, wide)                                                  \
    int fn(void *d, u32 s, u32 t, T *a) {                                  \
        u32 sel[] = {s, t};                                                \
        void *out[] = {a};                                                 \
        return read_numbers(#fn, d, 2, sel, 1, wide, out);                 \
    }
#define SEL3(fn)                                                           \
    int fn(void *d, u32 s, u32 t, u32 u, u64 *a) {                         \
        u32 sel[] = {s, t, u};                                             \
        void *out[] = {a};                                                 \
        return read_numbers(#fn, d, 3, sel, 1, 1, out);                    \
    }
#define FLAT(fn, T, wide, n)                                               \
    int fn(void *d, T *a) {                                                \
        void *out[n];                                                      \
        for (int i = 0; i < n; i++) out[i] = a + i;                        \
        return read_numbers(#fn, d, 0, NULL, n, wide, out);                \
    }
#define STR(fn)                                                            \
    int fn(void *d, char *out, u32 size) { return read_string(#fn, d, out, size); }

STR(nvmlDeviceGetName) STR(nvmlDeviceGetUUID) STR(nvmlDeviceGetSerial) STR(nvmlDeviceGetBoardPartNumber)
STR(nvmlDeviceGetVbiosVersion)

NUM1(nvmlDeviceGetMinorNumber, u32, 0) NUM1(nvmlDeviceGetBrand, u32, 0) NUM1(nvmlDeviceGetArchitecture, u32, 0)
NUM1(nvmlDeviceGetMaxPcieLinkGeneration, u32, 0) NUM1(nvmlDeviceGetMaxPcieLinkWidth, u32, 0)
NUM1(nvmlDeviceGetGpuMaxPcieLinkGeneration, u32, 0)
NUM1(nvmlDeviceGetCurrPcieLinkGeneration, u32, 0) NUM1(nvmlDeviceGetCurrPcieLinkWidth, u32, 0)
NUM1(nvmlDeviceGetPcieReplayCounter, u32, 0) NUM1(nvmlDeviceGetNumaNodeId, u32, 0)
NUM1(nvmlDeviceGetPersistenceMode, u32, 0) NUM1(nvmlDeviceGetDisplayMode, u32, 0) NUM1(nvmlDeviceGetDisplayActive, u32, 0)
NUM1(nvmlDeviceGetComputeMode, u32, 0) NUM1(nvmlDeviceGetPowerManagementLimit, u32, 0)
NUM1(nvmlDeviceGetPowerManagementDefaultLimit, u32, 0) NUM1(nvmlDeviceGetEnforcedPowerLimit, u32, 0)
NUM1(nvmlDeviceGetPowerUsage, u32, 0) NUM1(nvmlDeviceGetTotalEnergyConsumption, u64, 1) NUM1(nvmlDeviceGetFanSpeed, u32, 0)
NUM1(nvmlDeviceGetPerformanceState, u32, 0) NUM1(nvmlDeviceGetNumGpuCores, u32, 0) NUM1(nvmlDeviceGetMemoryBusWidth, u32, 0)
NUM1(nvmlDeviceGetMaxMigDeviceCount, u32, 0) NUM1(nvmlDeviceGetGpuInstanceId, u32, 0)
NUM1(nvmlDeviceGetComputeInstanceId, u32, 0) NUM1(nvmlDeviceGetVirtualizationMode, u32, 0)
NUM1(nvmlDeviceGetCurrentClocksEventReasons, u64, 1) NUM1(nvmlDeviceGetCurrentClocksThrottleReasons, u64, 1)
NUM1(nvmlDeviceGetSupportedEventTypes, u64, 1) NUM1(nvmlDeviceGetRetiredPagesPendingStatus, u32, 0)
NUM1(nvmlDeviceGetAddressingMode, u32, 0)

NUM2(nvmlDeviceGetCudaComputeCapability, u32, 0) NUM2(nvmlDeviceGetEccMode, u32, 0) NUM2(nvmlDeviceGetMigMode, u32, 0)
NUM2(nvmlDeviceGetPowerManagementLimitConstraints, u32, 0) NUM2(nvmlDeviceGetEncoderUtilization, u32, 0)
NUM2(nvmlDeviceGetDecoderUtilization, u32, 0) NUM2(nvmlDeviceGetJpgUtilization, u32, 0) NUM2(nvmlDeviceGetOfaUtilization, u32, 0)
NUM4(nvmlDeviceGetRemappedRows)

SEL1(nvmlDeviceGetClockInfo) SEL1(nvmlDeviceGetMaxClockInfo) SEL1(nvmlDeviceGetTemperature)
SEL1(nvmlDeviceGetTemperatureThreshold) SEL1(nvmlDeviceGetPcieThroughput) SEL1(nvmlDeviceGetNvLinkState)
SEL1(nvmlDeviceGetNvLinkVersion) SEL1(nvmlDeviceGetNvLinkRemoteDeviceType)
SEL2(nvmlDeviceGetTotalEccErrors, u64, 1) SEL2(nvmlDeviceGetNvLinkErrorCounter, u64, 1) SEL2(nvmlDeviceGetNvLinkCapability, u32, 0)
SEL3(nvmlDeviceGetMemoryErrorCounter)

FLAT(nvmlDeviceGetMemoryInfo, u64, 1, 3) FLAT(nvmlDeviceGetBAR1MemoryInfo, u64, 1, 3) FLAT(nvmlDeviceGetUtilizationRates, u32, 0, 2)
