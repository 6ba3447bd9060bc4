/* Calls of the library itself, handles, events, and those that fill structs. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTER(fn, dev)                                   \
    struct sim_section *sec = NULL;                      \
    int code = sim_enter(fn, dev, &sec);                 \
    if (code != SIM_OK) return (nvmlReturn_t)code;
#define LEAVE(result) do { sim_leave(); return (nvmlReturn_t)(result); } while (0)
#define H(d) (*(void *const *)&(d))

static nvmlDevice_t as_device(void *h) {
    nvmlDevice_t d;
    memcpy(&d, &h, sizeof d);
    return d;
}

nvmlReturn_t nvmlInit_v2(void) { return (nvmlReturn_t)sim_init("nvmlInit_v2"); }
nvmlReturn_t nvmlInit(void) { return (nvmlReturn_t)sim_init("nvmlInit"); }
nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; return (nvmlReturn_t)sim_init("nvmlInitWithFlags"); }
nvmlReturn_t nvmlShutdown(void) { return (nvmlReturn_t)sim_shutdown(); }

const char *nvmlErrorString(nvmlReturn_t r) {
    switch ((int)r) {
    case 0: return "Success";
    case 1: return "Uninitialized";
    case 2: return "Invalid Argument";
    case 3: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 15: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 18: return "Driver/library version mismatch";
    case 999: return "Unknown Error";
    default: return "Simulated error";
    }
}

static nvmlReturn_t system_string(const char *fn, const char *key, char *out, unsigned int size) {
    ENTER(fn, NULL);
    const char *v = sim_get(sec, key, 0);
    if (v != NULL) snprintf(out, size, "%s", v);
    LEAVE(v == NULL ? SIM_NOT_SUPPORTED : SIM_OK);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *v, unsigned int n) { return system_string("nvmlSystemGetDriverVersion", "DriverVersion", v, n); }
nvmlReturn_t nvmlSystemGetNVMLVersion(char *v, unsigned int n) { return system_string("nvmlSystemGetNVMLVersion", "NVMLVersion", v, n); }

static nvmlReturn_t cuda_version(const char *fn, int *v) {
    ENTER(fn, NULL);
    const char *s = sim_get(sec, "CudaDriverVersion", 0);
    if (s != NULL) *v = atoi(s);
    LEAVE(s == NULL ? SIM_NOT_SUPPORTED : SIM_OK);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *v) { return cuda_version("nvmlSystemGetCudaDriverVersion", v); }
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *v) { return cuda_version("nvmlSystemGetCudaDriverVersion_v2", v); }

static nvmlReturn_t count(const char *fn, unsigned int *n) {
    ENTER(fn, NULL);
    *n = sim_gpu_count();
    LEAVE(SIM_OK);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *n) { return count("nvmlDeviceGetCount_v2", n); }
nvmlReturn_t nvmlDeviceGetCount(unsigned int *n) { return count("nvmlDeviceGetCount", n); }

/* found hands out the handle of a section unless that GPU's own faults say no. */
static nvmlReturn_t found(const char *fn, struct sim_section *g, nvmlDevice_t *d) {
    if (g == NULL) LEAVE(SIM_NOT_FOUND);
    char id[128];
    snprintf(id, sizeof id, "%s", g->id);
    int code = sim_hold(id, fn);
    g = sim_by_id(id); /* the state may be another one by now */
    if (code == SIM_OK && g == NULL) code = SIM_LOST;
    if (code == SIM_OK) *d = as_device(sim_handle(g));
    LEAVE(code);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvmlDevice_t *d) {
    ENTER("nvmlDeviceGetHandleByIndex_v2", NULL);
    if (i >= (unsigned int)sim_gpu_count()) LEAVE(SIM_INVALID);
    return found("nvmlDeviceGetHandleByIndex_v2", sim_gpu(i), d);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *d) {
    ENTER("nvmlDeviceGetHandleByUUID", NULL);
    return found("nvmlDeviceGetHandleByUUID", sim_by_id(uuid), d);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *d) {
    ENTER("nvmlDeviceGetHandleByPciBusId_v2", NULL);
    struct sim_section *g = NULL;
    for (int i = 0; (g = sim_gpu(i)) != NULL; i++) {
        const char *own = sim_get(g, "PciInfo", 0);
        size_t n = strlen(bus);
        if (own != NULL && strlen(own) >= n && strcasecmp(own + strlen(own) - n, bus) == 0) break;
    }
    return found("nvmlDeviceGetHandleByPciBusId_v2", g, d);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t d, unsigned int *out) {
    ENTER("nvmlDeviceGetIndex", H(d));
    for (int i = 0; sim_gpu(i) != NULL; i++)
        if (sim_gpu(i) == sec) *out = i;
    for (int i = 0; sec->kind == 'm' && sim_mig(sec->parent, i) != NULL; i++)
        if (sim_mig(sec->parent, i) == sec) *out = i;
    LEAVE(SIM_OK);
}

static void fill_pci(const char *bus, const char *ids, nvmlPciInfo_t *p) {
    unsigned int function = 0, device_id = 0, subsystem = 0;
    memset(p, 0, sizeof *p);
    sscanf(bus, "%x:%x:%x.%x", &p->domain, &p->bus, &p->device, &function);
    if (ids != NULL) sscanf(ids, "%x %x", &device_id, &subsystem);
    p->pciDeviceId = device_id;
    p->pciSubSystemId = subsystem;
    snprintf(p->busIdLegacy, sizeof p->busIdLegacy, "%04X:%02X:%02X.%X", p->domain, p->bus, p->device, function);
    snprintf(p->busId, sizeof p->busId, "%08X:%02X:%02X.%X", p->domain, p->bus, p->device, function);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *p) {
    ENTER("nvmlDeviceGetPciInfo_v3", H(d));
    const char *bus = sim_get(sec, "PciInfo", 0);
    if (bus != NULL) fill_pci(bus, sim_get(sec, "PciIds", 0), p);
    LEAVE(bus == NULL ? SIM_NOT_SUPPORTED : SIM_OK);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *m) {
    ENTER("nvmlDeviceGetMemoryInfo_v2", H(d));
    const char *v = sim_get(sec, "MemoryInfo", 0), *r = sim_get(sec, "MemoryReserved", 0);
    unsigned long long total = 0, spare = 0, used = 0;
    if (v == NULL || sscanf(v, "%llu %llu %llu", &total, &spare, &used) != 3) LEAVE(SIM_NOT_SUPPORTED);
    m->total = total;
    m->reserved = r != NULL ? strtoull(r, NULL, 10) : 0;
    m->free = spare;
    m->used = used >= m->reserved ? used - m->reserved : used;
    LEAVE(SIM_OK);
}

/* process lines: "process <kind> <pid> <bytes>", kind compute, graphics or mps. */
static nvmlReturn_t processes(const char *fn, const char *kind, void *dev, unsigned int *n, nvmlProcessInfo_t *infos) {
    ENTER(fn, dev);
    unsigned int have = 0, room = *n;
    const char *v;
    for (int i = 0; (v = sim_get(sec, "process", i)) != NULL; i++) {
        char k[16];
        unsigned int pid;
        unsigned long long used = 0;
        if (sscanf(v, "%15s %u %llu", k, &pid, &used) < 2 || strcmp(k, kind) != 0) continue;
        if (have < room && infos != NULL) infos[have] = (nvmlProcessInfo_t){pid, used, 0xFFFFFFFF, 0xFFFFFFFF};
        have++;
    }
    *n = have;
    LEAVE(have > room ? SIM_TOO_SMALL : SIM_OK);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int *n, nvmlProcessInfo_t *p) {
    return processes("nvmlDeviceGetComputeRunningProcesses_v3", "compute", H(d), n, p);
}
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t d, unsigned int *n, nvmlProcessInfo_t *p) {
    return processes("nvmlDeviceGetGraphicsRunningProcesses_v3", "graphics", H(d), n, p);
}
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int *n, nvmlProcessInfo_t *p) {
    return processes("nvmlDeviceGetMPSComputeRunningProcesses_v3", "mps", H(d), n, p);
}

/* MIG. */
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned int i, nvmlDevice_t *mig) {
    ENTER("nvmlDeviceGetMigDeviceHandleByIndex", H(d));
    return found("nvmlDeviceGetMigDeviceHandleByIndex", sim_mig(sec, i), mig);
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t d, unsigned int *is) {
    ENTER("nvmlDeviceIsMigDeviceHandle", H(d));
    *is = sec->kind == 'm';
    LEAVE(SIM_OK);
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *d) {
    ENTER("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", H(mig));
    if (sec->kind != 'm') LEAVE(SIM_INVALID);
    return found("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", sec->parent, d);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t d, nvmlDeviceAttributes_t *a) {
    ENTER("nvmlDeviceGetAttributes_v2", H(d));
    const char *v = sim_get(sec, "Attributes", 0);
    memset(a, 0, sizeof *a);
    if (v != NULL)
        sscanf(v, "%u %u %u %llu", &a->multiprocessorCount, &a->gpuInstanceSliceCount, &a->computeInstanceSliceCount, &a->memorySizeMB);
    LEAVE(v == NULL ? SIM_NOT_SUPPORTED : SIM_OK);
}

/* GPU and compute instances are the sections of their MIG devices: those of one GPU instance stand for it, the first of them by
   handle. All are of the one profile that there is, one slice. */
enum { GI_PROFILE = 19, CI_PROFILE = 0 };

static int number(const struct sim_section *sec, const char *key) {
    const char *v = sim_get(sec, key, 0);
    return v == NULL ? -1 : atoi(v);
}

static struct sim_section *instance(const struct sim_section *gpu, unsigned int gi, int ci) {
    struct sim_section *m = NULL;
    for (int i = 0; (m = sim_mig(gpu, i)) != NULL; i++)
        if (number(m, "GpuInstanceId") == (int)gi && (ci < 0 || number(m, "ComputeInstanceId") == ci)) break;
    return m;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t d, unsigned int id, nvmlGpuInstance_t *gi) {
    ENTER("nvmlDeviceGetGpuInstanceById", H(d));
    struct sim_section *m = instance(sec, id, -1);
    if (m == NULL) LEAVE(SIM_NOT_FOUND);
    void *h = sim_handle(m);
    memcpy(gi, &h, sizeof *gi);
    LEAVE(SIM_OK);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t gi, unsigned int id, nvmlComputeInstance_t *ci) {
    ENTER("nvmlGpuInstanceGetComputeInstanceById", H(gi));
    struct sim_section *m = instance(sec->parent, number(sec, "GpuInstanceId"), id);
    if (m == NULL) LEAVE(SIM_NOT_FOUND);
    void *h = sim_handle(m);
    memcpy(ci, &h, sizeof *ci);
    LEAVE(SIM_OK);
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t gi, nvmlGpuInstanceInfo_t *info) {
    ENTER("nvmlGpuInstanceGetInfo", H(gi));
    memset(info, 0, sizeof *info);
    info->device = as_device(sim_handle(sec->parent));
    info->id = number(sec, "GpuInstanceId");
    info->profileId = GI_PROFILE;
    LEAVE(SIM_OK);
}

static nvmlReturn_t compute_info(const char *fn, nvmlComputeInstance_t ci, nvmlComputeInstanceInfo_t *info) {
    ENTER(fn, H(ci));
    memset(info, 0, sizeof *info);
    info->device = as_device(sim_handle(sec->parent));
    info->id = number(sec, "ComputeInstanceId");
    info->profileId = CI_PROFILE;
    LEAVE(SIM_OK);
}

nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t ci, nvmlComputeInstanceInfo_t *info) {
    return compute_info("nvmlComputeInstanceGetInfo_v2", ci, info);
}
nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t ci, nvmlComputeInstanceInfo_t *info) {
    return compute_info("nvmlComputeInstanceGetInfo", ci, info);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t d, unsigned int profile, nvmlGpuInstanceProfileInfo_t *info) {
    ENTER("nvmlDeviceGetGpuInstanceProfileInfo", H(d));
    if (profile != 0) LEAVE(SIM_NOT_SUPPORTED);
    memset(info, 0, sizeof *info);
    info->id = GI_PROFILE;
    info->sliceCount = 1;
    LEAVE(SIM_OK);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t gi, unsigned int profile, unsigned int engine,
                                                          nvmlComputeInstanceProfileInfo_t *info) {
    ENTER("nvmlGpuInstanceGetComputeInstanceProfileInfo", H(gi));
    if (profile != 0 || engine != 0) LEAVE(SIM_NOT_SUPPORTED);
    memset(info, 0, sizeof *info);
    info->id = CI_PROFILE;
    info->sliceCount = 1;
    LEAVE(SIM_OK);
}

/* NVLink: "link.<n> <bus id of the far end>". */
nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t d, unsigned int link, nvmlPciInfo_t *p) {
    ENTER("nvmlDeviceGetNvLinkRemotePciInfo_v2", H(d));
    char key[32];
    snprintf(key, sizeof key, "link.%u", link);
    const char *bus = sim_get(sec, key, 0);
    if (bus != NULL) fill_pci(bus, NULL, p);
    LEAVE(bus == NULL ? SIM_NOT_SUPPORTED : SIM_OK);
}

/* GpuFabricInfo: "<state> <clique> <32 hex digits of the cluster>". */
static int fabric(const struct sim_section *sec, unsigned char *uuid, unsigned int *clique, unsigned char *state) {
    const char *v = sim_get(sec, "GpuFabricInfo", 0);
    unsigned int s = 0;
    char hex[33] = "";
    if (v == NULL || sscanf(v, "%u %u %32s", &s, clique, hex) < 2) return SIM_NOT_SUPPORTED;
    for (int i = 0; i < 16 && hex[2 * i] != 0; i++) sscanf(hex + 2 * i, "%2hhx", &uuid[i]);
    *state = s;
    return SIM_OK;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t d, nvmlGpuFabricInfo_t *f) {
    ENTER("nvmlDeviceGetGpuFabricInfo", H(d));
    memset(f, 0, sizeof *f);
    LEAVE(fabric(sec, f->clusterUuid, &f->cliqueId, &f->state));
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t d, nvmlGpuFabricInfoV_t *f) {
    ENTER("nvmlDeviceGetGpuFabricInfoV", H(d));
    f->status = NVML_SUCCESS;
    f->healthMask = 0;
    LEAVE(fabric(sec, f->clusterUuid, &f->cliqueId, &f->state));
}

/* GridLicensableFeatures: "<licensed>", of a virtual GPU. */
nvmlReturn_t nvmlDeviceGetGridLicensableFeatures_v4(nvmlDevice_t d, nvmlGridLicensableFeatures_t *f) {
    ENTER("nvmlDeviceGetGridLicensableFeatures_v4", H(d));
    const char *v = sim_get(sec, "GridLicensableFeatures", 0);
    memset(f, 0, sizeof *f);
    if (v != NULL) {
        f->isGridLicenseSupported = f->licensableFeaturesCount = 1;
        f->gridLicensableFeatures[0].featureCode = NVML_GRID_LICENSE_FEATURE_CODE_VGPU;
        f->gridLicensableFeatures[0].featureState = strtoul(v, NULL, 10);
    }
    LEAVE(SIM_OK);
}
