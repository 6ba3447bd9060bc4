/* Field values: "FieldValue.<id> <number>", or "d<number>" for one of type double, nan included. Those that another call answers
   too have that call's reading, unless they have one of their own. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define H(d) (*(void *const *)&(d))

static const struct alias {
    unsigned int id;
    const char *key;
    int word, narrow;
} aliases[] = {
    {NVML_FI_DEV_ECC_SBE_VOL_TOTAL, "TotalEccErrors.0.0", 0, 0},
    {NVML_FI_DEV_ECC_DBE_VOL_TOTAL, "TotalEccErrors.1.0", 0, 0},
    {NVML_FI_DEV_ECC_SBE_AGG_TOTAL, "TotalEccErrors.0.1", 0, 0},
    {NVML_FI_DEV_ECC_DBE_AGG_TOTAL, "TotalEccErrors.1.1", 0, 0},
    {NVML_FI_DEV_RETIRED_PENDING, "RetiredPagesPendingStatus", 0, 1},
    {NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, "TotalEnergyConsumption", 0, 0},
    {NVML_FI_DEV_PCIE_REPLAY_COUNTER, "PcieReplayCounter", 0, 1},
    {NVML_FI_DEV_REMAPPED_COR, "RemappedRows", 0, 1},
    {NVML_FI_DEV_REMAPPED_UNC, "RemappedRows", 1, 1},
    {NVML_FI_DEV_REMAPPED_PENDING, "RemappedRows", 2, 1},
    {NVML_FI_DEV_REMAPPED_FAILURE, "RemappedRows", 3, 1},
};

static const char *word(const char *v, int n) {
    while (v != NULL && n-- > 0) {
        v = strchr(v, ' ');
        if (v != NULL) v++;
    }
    return v;
}

static void fill(nvmlFieldValue_t *f, const char *v, int narrow) {
    f->nvmlReturn = v == NULL ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
    f->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    f->value.ullVal = 0;
    if (v == NULL) return;
    if (*v == 'd') {
        f->valueType = NVML_VALUE_TYPE_DOUBLE;
        f->value.dVal = strtod(v + 1, NULL);
        return;
    }
    unsigned long long x = strtoull(v, NULL, 10);
    if (narrow) {
        f->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
        f->value.uiVal = (unsigned int)x;
        return;
    }
    f->value.ullVal = x;
}

/* NVLink's counters are of one link, "FieldValue.<id>.<link>", unless the scope says of all: "FieldValue.<id>". */
static void key_of(const nvmlFieldValue_t *f, char *key, size_t size) {
    int of_link = f->fieldId >= NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX && f->fieldId <= NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX;
    if (of_link && f->scopeId != 0xFFFFFFFF) snprintf(key, size, "FieldValue.%u.%u", f->fieldId, f->scopeId);
    else snprintf(key, size, "FieldValue.%u", f->fieldId);
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int n, nvmlFieldValue_t *values) {
    struct sim_section *sec = NULL;
    int code = sim_enter("nvmlDeviceGetFieldValues", H(d), &sec);
    if (code != SIM_OK) return (nvmlReturn_t)code;
    for (int i = 0; i < n; i++) {
        char key[64];
        int narrow = 0;
        key_of(&values[i], key, sizeof key);
        const char *v = sim_get(sec, key, 0);
        for (size_t a = 0; v == NULL && a < sizeof aliases / sizeof *aliases; a++) {
            if (aliases[a].id != values[i].fieldId) continue;
            narrow = aliases[a].narrow;
            v = word(sim_get(sec, aliases[a].key, 0), aliases[a].word);
            break;
        }
        fill(&values[i], v, narrow);
    }
    sim_leave();
    return NVML_SUCCESS;
}
