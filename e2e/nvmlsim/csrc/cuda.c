/* A libcuda that counts and names GPUs by the simulated NVML, so that a program can ask "which GPUs were I given". */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void *nvml;

static int (*sym(const char *name))() {
    return (int (*)())dlsym(nvml, name);
}

int cuInit(unsigned int flags) {
    (void)flags;
    if (nvml == NULL) nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (nvml == NULL || sym("nvmlInit_v2")() != 0) return 100; /* CUDA_ERROR_NO_DEVICE */
    return 0;
}

int cuDriverGetVersion(int *v) { return nvml != NULL ? sym("nvmlSystemGetCudaDriverVersion_v2")(v) : 3; }
int cuDeviceGetCount(int *n) { return nvml != NULL ? sym("nvmlDeviceGetCount_v2")(n) : 3; }

int cuDeviceGet(int *d, int ordinal) {
    int n = 0;
    if (cuDeviceGetCount(&n) != 0) return 3;
    *d = ordinal;
    return ordinal >= 0 && ordinal < n ? 0 : 101;
}

static int with(int d, void **h) { return nvml == NULL ? 3 : sym("nvmlDeviceGetHandleByIndex_v2")(d, h); }

int cuDeviceGetName(char *name, int len, int d) {
    void *h;
    int code = with(d, &h);
    return code != 0 ? code : sym("nvmlDeviceGetName")(h, name, (unsigned int)len);
}

int cuDeviceTotalMem_v2(size_t *bytes, int d) {
    void *h;
    unsigned long long info[3];
    int code = with(d, &h);
    if (code == 0) code = sym("nvmlDeviceGetMemoryInfo")(h, info);
    if (code == 0) *bytes = info[0];
    return code;
}

int cuDeviceGetUuid(unsigned char *out, int d) {
    void *h;
    char text[97] = "";
    int code = with(d, &h);
    if (code == 0) code = sym("nvmlDeviceGetUUID")(h, text, 96u);
    const char *p = text + 4; /* after "GPU-" */
    for (int i = 0; code == 0 && i < 16; i++) {
        if (*p == '-') p++;
        sscanf(p, "%2hhx", &out[i]);
        p += 2;
    }
    return code;
}
